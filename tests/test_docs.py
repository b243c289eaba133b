"""README and documentation agree with the program: commands that no other test runs, file names, the version."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob

from seglab.engine.config import CONF, check
from seglab.report import with_roots
from tests.commands.test_pages import assigned, commands_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


RUN_IN_TEST_PAGES = {line for lines in assigned().values() for line in lines}
COMMANDS = sorted({line for page in PAGES for line in commands_of(page) if "..." not in line} - RUN_IN_TEST_PAGES)


def first_job(words):
    """Yield the overrides of the first job of a sweep; for the other jobs, check that each choice of a group exists."""
    parsed = OverridesParser.create().parse_overrides(words)
    for word, override in zip(words, parsed, strict=True):
        key, value = override.get_key_element(), override.value()
        known = sorted(file.stem for file in (CONF / key.lstrip("+")).glob("*.yaml"))
        values = [word.partition("=")[2]]
        if isinstance(value, Glob):
            values = value.filter(known)
        elif override.is_sweep_override():
            values = list(override.sweep_string_iterator())
        assert not known or set(values) <= {*known, "null"}, word
        yield f"{key}={values[0]}" if override.is_sweep_override() else word


@pytest.mark.filterwarnings("ignore:(?s).*is validated against ConfigStore schema")  # as in cli.py
@pytest.mark.parametrize("line", COMMANDS)
def test_a_printed_command_fits_the_configuration(line, configure):
    module, *words = shlex.split(line.removeprefix("python -m seglab."), comments=True)
    words = [word for word in words if word not in ("-m", "--help", "--cfg", "job")]
    if "--config-dir" in words:
        pytest.skip("needs the folder that its page describes")
    if module == "loss_catalog":
        assert words in ([], ["docs"])
        return
    job = first_job(with_roots(words) if module == "report" else words)
    cfg = configure(module, *job, *(["folder=x", "trainer.precision=32-true"] if module == "train" else []))
    if module == "train":
        check(cfg)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page):
    text = page.read_text()
    links = {link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link}
    named = set(re.findall(r"`((?:seglab|conf|tests|docs)/[\w/.]+)`", text))
    assert len(links | named) > 15
    assert sorted(name for name in links | named if not (ROOT / name).exists()) == []


def test_the_page_of_the_configuration_has_every_file():
    text = (ROOT / "docs/reference/configuration.md").read_text()
    elsewhere = ("loss", "experiment")  # in docs/losses.md and docs/findings
    files = {file.relative_to(CONF).as_posix() for file in CONF.rglob("*.yaml")}
    assert sorted(file for file in files if not file.startswith(elsewhere) and f'"conf/{file}"' not in text) == []
    models = {f"`{file.stem}`" for file in (CONF / "model").glob("*.yaml")}
    assert models <= set(re.findall(r"`\w+`", re.findall(r"(?m)^\| `model` .*", text)[0]))


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_help_lists_the_groups_of_commands_that_have_some(file):
    node = yaml.safe_load(file.read_text())
    chosen = [name for each in node.get("defaults", []) for name in (each if isinstance(each, dict) else [each])]
    has_groups = any(not name.startswith(("_self_", "override ")) for name in chosen)
    assert has_groups == ("template" not in node["hydra"]["help"])


def test_the_version_is_one():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.findall(r"(?m)^## Version (\S+)", (ROOT / "CHANGELOG.md").read_text())[0] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_readme_is_short_and_its_targets_are_made():
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert len(text.splitlines()) <= 130
    assert set(re.findall(r"make ([a-z-]+)", text)) <= targets


NOTEBOOK = ROOT / "docs/notebooks/quickstart.md"


def test_the_notebook_is_the_page():
    cells = json.loads(NOTEBOOK.with_suffix(".ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.rstrip("\n") for block in re.findall(r"```python\n(.*?)```", NOTEBOOK.read_text(), re.DOTALL)]
