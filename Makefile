# Two commands do everything on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo train test test-fast lint format losses benchmark lock wheel clean

help:            ## Say what can be made
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY)  ## Install everything into .venv, once, and again only when the lock changes

$(READY): requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "installing requirements.lock into .venv (about 6 GB with torch; half a minute on a fast line)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: $(READY)   ## Compare four losses on embedded data, and say where the report and the pictures are
	$(BIN)/python -m seglab.train -m experiment=demo study=demo $(ARGS)
	$(BIN)/python -m seglab.report outputs/demo

train: $(READY)  ## Train with ARGS="loss=focal loss.gamma=2"
	$(BIN)/python -m seglab.train $(ARGS)

test: $(READY)   ## Run all tests, the fast ones first
	$(BIN)/python -m pytest -m "not slow" $(ARGS)
	$(BIN)/python -m pytest -m slow $(ARGS)

test-fast: $(READY) ## Run the fast tests only
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

lint: $(READY)   ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Put the code into the agreed format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(READY)   ## Resolve the dependencies again and write requirements.lock
	$(BIN)/uv pip compile --quiet pyproject.toml --universal --python-version 3.11 --extra dev --generate-hashes --no-emit-index-url -o requirements.lock

wheel: $(READY)  ## Build the wheel into dist/
	$(BIN)/uv build --quiet --wheel

clean:           ## Remove the environment and what was built; outputs/ stays
	rm -rf .venv dist build .pytest_cache .ruff_cache .mypy_cache
