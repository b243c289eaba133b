"""What README and documentation print is what the program accepts: commands, files, and the code to copy."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from omegaconf import DictConfig

from seglab.engine.config import CONF, check
from seglab.report import with_roots

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXTEND = (ROOT / "docs/howto/extend.md").read_text()
Configure = Callable[..., DictConfig]


def printed_commands() -> Iterator[str]:
    """Every `python -m seglab...` of the pages, from blocks of bash and from running text."""
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        inline = re.findall(r"`(python -m seglab\.[^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        yield from (line for line in [*lines, *inline] if re.match(r"python -m seglab\.[a-z]", line))


COMMANDS = sorted({" ".join(line.split()) for line in printed_commands() if "..." not in line})


def first_job(words: list[str]) -> Iterator[str]:
    """The overrides of the first job of a sweep; of the others, that every choice of a group is there."""
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


@pytest.mark.filterwarnings("ignore:(?s).*is validated against ConfigStore schema")  # cli.py does so too
@pytest.mark.parametrize("line", COMMANDS)
def test_a_printed_command_fits_the_configuration(line: str, configure: Configure) -> None:
    module, *words = shlex.split(line.removeprefix("python -m seglab."), comments=True)
    words = [word for word in words if word not in ("-m", "--help", "--cfg", "job")]
    if "--config-dir" in words:
        pytest.skip("needs the folder of test_the_code_to_copy_trains")
    if module == "loss_catalog":
        assert words in ([], ["docs"])
        return
    job = first_job(with_roots(words) if module == "report" else words)
    cfg = configure(module, *job, *(["folder=x", "trainer.precision=32-true"] if module == "train" else []))
    if module == "train":
        check(cfg)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    links = {link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link}
    named = set(re.findall(r"`((?:seglab|conf|tests|docs)/[\w/.]+)`", text))
    assert len(links | named) > 15
    assert sorted(name for name in links | named if not (ROOT / name).exists()) == []


def test_readme_is_short_and_its_targets_are_made() -> None:
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert len(text.splitlines()) <= 130
    assert set(re.findall(r"make ([a-z-]+)", text)) <= targets


def write_example(folder: Path) -> None:
    """The files of docs/howto/extend.md, whose first line says where each belongs."""
    for name, code in re.findall(r"```(?:python|yaml)\n# ([\w/]+\.(?:py|yaml))[^\n]*\n(.*?)```", EXTEND, re.DOTALL):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)


@pytest.mark.slow
def test_the_code_to_copy_trains(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    write_example(tmp_path)
    rng = np.random.default_rng(0)
    for patient in range(12):
        folder = tmp_path / f"cells/patient_{patient}"
        folder.mkdir(parents=True)
        mask = np.zeros((48, 64), np.uint8)
        cv2.circle(mask, (20 + patient, 24), 8, 255, -1)
        noisy = np.clip(mask[..., None] * 0.5 + rng.integers(0, 100, (48, 64, 3)), 0, 255)
        cv2.imwrite(str(folder / "one.png"), noisy.astype(np.uint8))
        cv2.imwrite(str(folder / "one_mask.png"), mask)
    small = ["dataset=cells", "dataset.root=cells", "dataset.size=32", "model=tiny", "trainer=debug"]
    command = [sys.executable, "-m", "seglab.train", "--config-dir", "mine", "-m", "study=own", "loss=squared,ce"]
    done = subprocess.run([*command, *small], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    squared, ce = (next(tmp_path.glob(f"outputs/own/{name}_*")) for name in ("squared", "ce"))
    assert "Weighted squared error" in (squared / "run.json").read_text()
    assert "CrossEntropy (my_losses)" in (ce / "run.json").read_text()
    assert (squared / "per_image.csv").read_text().count("patient_") > 0


NOTEBOOK = ROOT / "docs/notebooks/quickstart.md"


def test_the_notebook_is_the_page() -> None:
    cells = json.loads(NOTEBOOK.with_suffix(".ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.rstrip("\n") for block in re.findall(r"```python\n(.*?)```", NOTEBOOK.read_text(), re.DOTALL)]
