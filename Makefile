# Two commands do everything on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo train test test-fast test-slurm lint format docs losses mutate benchmark lock wheel clean

help:            ## Say what can be made
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY)  ## Install everything into .venv, once, and again only when the lock changes

$(READY): requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "installing requirements.lock into .venv (about 6 GB with torch; a minute or two)"
# Compiled now, or every start compiles torch and Lightning where Python may not write
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: $(READY)   ## Compare three losses on embedded data, and say where the report and the pictures are
	$(BIN)/python -m seglab.train -m experiment=demo study=demo $(ARGS)
	$(BIN)/python -m seglab.report outputs/demo

train: $(READY)  ## Train with ARGS="loss=focal loss.gamma=2"
	$(BIN)/python -m seglab.train $(ARGS)

test: $(READY)   ## Run all tests, the fast ones first
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow $(ARGS)

test-fast: $(READY) ## Run the fast tests only
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

test-slurm: $(READY) ## Test sweeps on a real SLURM with two nodes on this machine; as root on Debian
	@test "$$(id -u)" = 0 || { echo "make test-slurm: expected root, which starts SLURM's daemons, got $$(id -un)"; exit 1; }
	@{ command -v slurmctld && command -v munged; } >/dev/null || { apt-get update -qq && apt-get install -y -qq slurm-wlm munge; } \
	|| { echo "make test-slurm: expected slurmctld and munged, got none; install Debian's slurm-wlm and munge"; exit 1; }
	$(BIN)/python -m pytest tests/slurm/check_requeue.py $(ARGS)

docs: $(READY)   ## Build the documentation into site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

losses: $(READY) ## List the losses: family, formula, paper, and what each does on an empty mask
	$(BIN)/python -m seglab.loss_catalog

mutate: $(READY) ## Plant faults in the code and see that the tests find each; ARGS="overlap.py" for some (an hour)
	$(BIN)/python tests/mutate.py $(ARGS)

benchmark: $(READY) ## Measure with ARGS="what=losses", what=gpu or what=sweep
	$(BIN)/python -m seglab.benchmark $(ARGS)

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
	rm -rf .venv dist build site .pytest_cache .ruff_cache .mypy_cache
