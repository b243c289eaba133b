"""What is installed from a wheel works from any folder, with the configuration inside the package."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


LOSS = """
from dataclasses import dataclass
from typing import ClassVar
from seglab.losses.base import Card, Loss

@dataclass(frozen=True, kw_only=True)
class Mine(Loss):
    weight: float = 2.0
    card: ClassVar[Card] = Card(
        title="Mine", family="pixel", formula="w(p-t)^2", paper="My thesis", empty="As ever.", differs="Not at all."
    )

    def value(self, x):
        return self.weight * x.error.square().mean((1, 2))
"""


WITHOUT_EXTRAS = """
import sys
for name in ("onnx", "onnxruntime", "onnxscript", "monai", "kornia"):
    sys.modules[name] = None  # as if it were not installed
"""


@pytest.mark.slow
def test_a_wheel_installed_elsewhere_trains_from_another_folder_also_with_a_loss_of_the_users(tmp_path):
    uv, site, place = Path(sys.executable).with_name("uv"), tmp_path / "site", tmp_path / "elsewhere"
    place.mkdir()
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run([uv, "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    where = [sys.executable, "-c", "import seglab.engine.config as c; print(c.CONF)"]
    conf = subprocess.run(where, cwd=place, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert conf == str(site / "seglab/conf")
    (site / "sitecustomize.py").write_text(WITHOUT_EXTRAS)
    train, small = (
        [sys.executable, site / "bin/seglab", "train"],
        ["trainer=debug", "dataset.size=32", "model.base=4", "pictures=false"],
    )
    version = subprocess.run([*train[:2], "--version"], cwd=place, env=environment, capture_output=True, text=True)
    assert version.stdout == f"seglab {tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}\n"
    assert (site / "seglab/py.typed").exists()
    (place / "mine.py").write_text(LOSS)
    (place / "myconf/loss").mkdir(parents=True)
    (place / "myconf/loss/mine.yaml").write_text("_target_: mine.Mine\nweight: 2.0\n")
    words = ["--config-dir", "myconf", "loss=mine", "loss.weight=3"]
    said = subprocess.run([*train, *words, *small], cwd=place, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    facts = json.loads(next(place.glob("outputs/default/mine_weight-3*/run.json")).read_text())
    assert facts["card"]["paper"] == "My thesis"
    report = [sys.executable, site / "bin/seglab", "report", "outputs/default"]
    said = subprocess.run(report, cwd=place, env=environment, capture_output=True, text=True)
    assert (said.returncode, (place / "outputs/default/report.html").exists()) == (0, True), said.stderr
    run = next(place.glob("outputs/default/mine*"))
    export = [sys.executable, site / "bin/seglab", "export", f"run={run}", "format=onnx"]
    said = subprocess.run(export, cwd=place, env=environment, capture_output=True, text=True)
    assert said.returncode == 1
    assert re.fullmatch(r'export: expected the package [\w ]+, got none; pip install "seglab\[export\]"\n', said.stderr)
