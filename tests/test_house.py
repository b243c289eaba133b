"""The house rules: who may import whom, how long a file may be, and that a yaml says what the code says."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "seglab").rglob("*.py"))
VERBS = {file.stem for file in (ROOT / "seglab").glob("*.py")} - {"__init__", "contract"}
NOUNS = {"losses", "metrics", "models", "data", "analysis"}
ENGINE_MAY = {"seglab.contract", "seglab.losses.base", "seglab.metrics", "seglab.data", "seglab.engine"}
YAMLS = sorted(file for file in (ROOT / "conf").rglob("*.yaml"))
FREE = {"trainer", "optimizer", "scheduler", "callbacks", "logger"}  # other people's classes: we list what we choose


def imported(tree: ast.AST, typing_too: bool = True) -> Iterator[str]:
    """Every module that a piece of code imports, however deep."""
    skipped = {
        inner
        for node in ast.walk(tree)
        if not typing_too and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def place(file: Path) -> str:
    """Which room a file is in: a noun, `engine`, `contract`, or `verb`."""
    parts = file.relative_to(ROOT / "seglab").parts
    return parts[0] if len(parts) > 1 else ("verb" if file.stem in VERBS else file.stem)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_imports_only_from_the_floors_below(file: Path) -> None:
    here = place(file)
    for module in imported(ast.parse(file.read_text())):
        if module.startswith("seglab."):
            room = module.split(".")[1]
            assert room not in VERBS, f"{module} is a command, which nobody imports"
            if here in NOUNS:
                assert room in {here, "contract"}
            elif here == "engine":
                assert any(module.startswith(allowed) for allowed in ENGINE_MAY), module
            elif here == "contract":
                pytest.fail(f"the ground floor imports {module}")
        top = module.split(".")[0]
        if top in {"hydra", "omegaconf"}:
            assert here == "verb" or file.name == "config.py"
        if top in {"pytorch_lightning", "lightning"}:
            assert here in {"verb", "engine", "benchmarks"} or file == ROOT / "seglab/data/module.py"
        if top in {"matplotlib", "plotly"}:
            assert here == "analysis"
        if top in {"torch", "torchmetrics", "torchvision"}:
            assert here != "analysis"


@pytest.mark.parametrize("file", [f for f in FILES if place(f) == "verb"], ids=lambda file: file.stem)
def test_a_command_starts_without_heavy_imports(file: Path) -> None:
    tree = ast.parse(file.read_text())
    top = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)], [])
    heavy = {"torch", "pytorch_lightning", "torchmetrics", "albumentations", "matplotlib", "pandas", "scipy", "cv2"}
    for module in imported(top, typing_too=False):
        assert module.split(".")[0] not in heavy
        assert not module.startswith("seglab.") or module in {"seglab.engine.config", "seglab.contract"}, module


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_and_its_functions_are_short(file: Path) -> None:
    source = file.read_text()
    assert len(source.splitlines()) <= 350
    if file.name == "__init__.py" and file.parent.name != "losses":  # whose classes are of use in any script
        assert not source
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.body[0].lineno < 60, node.name


def targets(node: object) -> Iterator[dict]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for child in node.values():
            yield from targets(child)


@pytest.mark.parametrize("file", YAMLS, ids=lambda file: str(file.relative_to(ROOT / "conf")))
def test_a_yaml_opens_with_its_command(file: Path) -> None:
    header = file.read_text().removeprefix("# @package _global_\n")  # Hydra wants that line first
    assert header.startswith("# python -m seglab.")


@pytest.mark.parametrize(
    "file", [f for f in YAMLS if f.parent.name not in FREE], ids=lambda file: str(file.relative_to(ROOT / "conf"))
)
def test_a_yaml_lists_every_parameter_with_the_default_of_the_code(file: Path) -> None:
    from hydra.utils import get_object

    for node in targets(yaml.safe_load(file.read_text())):
        target = get_object(node["_target_"])
        if not target.__module__.startswith("seglab."):
            continue
        parameters = dict(inspect.signature(target).parameters)
        parameters.pop("task", None)  # of a loss, which the engine takes from the data set
        given = {key: value for key, value in node.items() if not key.startswith("_")}
        assert set(given) == set(parameters)
        for name, parameter in parameters.items():
            chosen = given[name] == "???" or isinstance(given[name], dict) or str(given[name]).startswith("${")
            if parameter.default is not parameter.empty and not chosen:
                default = parameter.default
                assert given[name] == (list(default) if isinstance(default, tuple) else default), name


def test_help_and_a_wrong_name_load_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['train', '--cfg', 'job']\nimport seglab.train\nseglab.train.main()\n"
        "assert not {'torch', 'pandas', 'pytorch_lightning', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
