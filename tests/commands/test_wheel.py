"""An installed wheel works from any folder, with the configuration inside the package."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import python

ROOT = Path(__file__).resolve().parents[2]


WITHOUT_EXTRAS = """
import sys
for name in ("onnx", "onnxruntime", "onnxscript", "monai", "kornia"):
    sys.modules[name] = None  # as if it were not installed
"""


@pytest.mark.slow
def test_a_wheel_installed_elsewhere_trains_from_another_folder_also_with_a_loss_of_the_users(tmp_path):
    uv, site, place = Path(sys.executable).with_name("uv"), tmp_path / "site", tmp_path / "elsewhere"
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run([uv, "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True)
    (site / "sitecustomize.py").write_text(WITHOUT_EXTRAS)
    (place / "myconf/loss").mkdir(parents=True)
    (place / "mine.py").write_text("import seglab.losses\n\nclass Mine(seglab.losses.WeightedBCE):\n    pass\n")
    (place / "myconf/loss/mine.yaml").write_text("_target_: mine.Mine\npos_weight: 2.0\n")

    def seglab(*words):
        return python(site / "bin/seglab", *words, cwd=place, PYTHONPATH=str(site))

    found = python("-c", "import seglab.engine.config as c; print(c.CONF)", cwd=place, PYTHONPATH=str(site))
    assert found.stdout.strip() == str(site / "seglab/conf")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert seglab("--version").stdout == f"seglab {version}\n"
    assert (site / "seglab/py.typed").exists()
    small = ("trainer=debug", "dataset.size=32", "model.base=4", "pictures=false")
    said = seglab("train", "--config-dir", "myconf", "loss=mine", "loss.pos_weight=3", *small)
    assert said.returncode == 0, said.stderr
    said = seglab("report", "outputs/default")
    assert (said.returncode, (place / "outputs/default/report.html").exists()) == (0, True), said.stderr
    said = seglab("export", f"run={next(place.glob('outputs/default/mine_pos_weight-3*'))}", "format=onnx")
    assert said.returncode == 1
    assert re.fullmatch(r'export: expected the package [\w ]+, got none; pip install "seglab\[export\]"\n', said.stderr)
