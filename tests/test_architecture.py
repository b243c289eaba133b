"""The architecture: layers and their imports, the size of files, and YAML files that list all parameters.

A module imports only from lower layers and from its own folder; folders of the same layer do not import each other.
"""

import ast
import graphlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.mutate import FAULTS

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "seglab").rglob("*.py"))
LAYERS = (
    {"contract", "files"},
    {"distance_transform", "plots", "images"},
    {"losses", "metrics", "models", "data", "reporting"},
    {"engine"},
    {"inference"},
    {"views", "benchmarks"},
)
"""Files and folders of the package, lowest layer first; all other files are commands, in the top layer."""

CONFIGURE = ("command", "engine/cli", "engine/config", "engine/override_errors")
ONLY_IN = {
    "hydra": CONFIGURE,
    "omegaconf": (*CONFIGURE, "inference/results"),
    "pytorch_lightning": ("command", "engine/", "inference/", "benchmarks/", "data/module"),
    "matplotlib": ("plots", "reporting/", "views/", "loss_catalog"),
}
"""Packages that only the listed modules may import."""

BUILT_ON = {"search": ("train",), "__init__": ("api",)}
"""Modules that may import the listed modules of their own layer."""

WITHOUT_TORCH = {"contract", "files", "images", "plots", "reporting"}
YAMLS = sorted((ROOT / "conf").rglob("*.yaml"))
THIRD_PARTY = {"trainer", "optimizer", "scheduler", "callbacks", "logger"}
"""Groups that configure classes of other libraries, of which only the parameters that we choose are listed."""


def imported(tree, typing_too=True):
    """Yield every module that a syntax tree imports, also inside functions."""
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
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "seglab")


@cache
def parsed(file):
    return ast.parse(file.read_text())


def path_of(file):
    return str(file.relative_to(ROOT / "seglab").with_suffix(""))


def layer(name):
    """Return the layer of a top-level file or folder of the package; commands are in the top layer."""
    return next((number for number, names in enumerate(LAYERS) if name in names), len(LAYERS))


def top(file):
    """Return the statements of a file that run on import."""
    tree = parsed(file)
    return ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)], [])


def test_a_module_imports_only_from_lower_layers_and_its_own_folder():
    for file in FILES:
        path, tree = path_of(file), parsed(file)
        here = path.split("/")[0]
        for module in imported(tree):
            package, *rest = module.split(".")
            if package == "seglab" and rest:
                allowed = {here} if "/" in path else {"contract", *BUILT_ON.get(path, ())}
                assert rest[0] in allowed or layer(rest[0]) < layer(here), f"{path} imports {module}"
            if package in ONLY_IN:
                places = (path, "command") if layer(here) == len(LAYERS) else (path,)
                assert any(place.startswith(ONLY_IN[package]) for place in places), f"{path} imports {module}"
        if here in WITHOUT_TORCH:
            at_import = top(file) if here == "files" else tree  # a function of files.py imports torch
            assert not {"torch", "torchmetrics", "torchvision"} & set(imported(at_import, typing_too=False)), path


def test_importing_the_losses_costs_torch_alone():
    for file in (ROOT / "seglab/losses").glob("*.py"):
        for module in imported(top(file), typing_too=False):
            light = module.startswith(("torch", "seglab.losses", "seglab.contract"))
            assert light or module.split(".")[0] in sys.stdlib_module_names, f"{file} imports {module}"


def test_no_imports_go_in_a_circle():
    for folder in {path_of(file).rpartition("/")[0] for file in FILES} - {""}:
        files = [file for file in FILES if path_of(file).rpartition("/")[0] == folder]
        names = {f"seglab.{path_of(file).replace('/', '.')}": file for file in files}
        graph = {name: set(imported(parsed(file))) & names.keys() for name, file in names.items()}
        graphlib.TopologicalSorter(graph).prepare()  # raises for a cycle


def test_no_folder_holds_more_than_a_fifth_of_the_package():
    lines = {path_of(file): len(file.read_text().splitlines()) for file in FILES}
    for folder in {path.split("/")[0] for path in lines if "/" in path}:
        inside = sum(count for path, count in lines.items() if path.startswith(f"{folder}/"))
        assert inside <= sum(lines.values()) / 5, folder


def test_a_command_starts_without_heavy_imports():
    light = {"engine.cli", "engine.config", "engine.domains", "contract", "files"}
    heavy = {"torch", "pytorch_lightning", "torchmetrics", "albumentations", "matplotlib", "pandas", "scipy", "cv2"}
    for file in (file for file in FILES if "/" not in path_of(file)):
        for module in imported(top(file), typing_too=False):
            assert layer(path_of(file)) < len(LAYERS) or module.split(".")[0] not in heavy, f"{file}: {module}"
            assert not module.startswith("seglab.") or module.removeprefix("seglab.") in light, f"{file}: {module}"


def test_a_file_and_its_functions_are_short():
    for file in FILES:
        source = file.read_text()
        assert len(source.splitlines()) <= 350, file
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.body[0].lineno < 60, f"{file}: {node.name}"


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for child in node.values():
            yield from targets(child)


def test_a_yaml_opens_with_its_command():
    for file in YAMLS:
        header = file.read_text().removeprefix("# @package _global_\n")  # Hydra requires that line first
        assert header.startswith("# python -m seglab."), file


@pytest.mark.parametrize(
    "file",
    [f for f in YAMLS if f.parent.name not in THIRD_PARTY],
    ids=lambda file: str(file.relative_to(ROOT / "conf")),
)
def test_a_yaml_lists_every_parameter_with_the_default_of_the_code(file):
    from hydra.utils import get_object

    preset = "\n# Preset: " in file.read_text()  # its parameters follow another library
    for node in targets(yaml.safe_load(file.read_text())):
        if node["_target_"] == "???":
            continue
        target = get_object(node["_target_"])
        if not target.__module__.startswith("seglab."):
            continue
        parameters = dict(inspect.signature(target).parameters)
        parameters.pop("task", None)  # of a loss, set by the engine from the dataset
        given = {key: value for key, value in node.items() if not key.startswith("_") and key != "defaults"}
        assert set(given) == set(parameters)
        for name, parameter in parameters.items():
            chosen = given[name] == "???" or isinstance(given[name], dict) or str(given[name]).startswith("${")
            if parameter.default is not parameter.empty and not chosen and not preset:
                default = parameter.default
                assert given[name] == (list(default) if isinstance(default, tuple) else default), name


def test_help_and_a_wrong_name_load_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['train', '--cfg', 'job']\nimport seglab.train\nseglab.train.main()\n"
        "assert not {'torch', 'pandas', 'pytorch_lightning', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [word for extra in project["optional-dependencies"].values() for word in extra]
    requirements = [*project["dependencies"], *extras]
    declared = {re.split(r"[\[<>=~! ]", word)[0].lower().replace("_", "-") for word in requirements}
    distributions = importlib.metadata.packages_distributions()
    for file in FILES:
        for module in imported(parsed(file)):
            name = module.split(".")[0]
            if name not in sys.stdlib_module_names and name not in {"seglab", ""} and name in distributions:
                known = {one.lower().replace("_", "-") for one in distributions[name]}
                assert known & declared, f"{path_of(file)} imports {name} of {sorted(known)}"


def test_every_planted_fault_has_its_place():
    gone = [f"{fault.file}: {fault.reason}" for fault in FAULTS if fault.before not in (ROOT / fault.file).read_text()]
    assert not gone
