"""What is installed from a wheel works from any folder, with the configuration inside the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_wheel_installed_elsewhere_trains_from_another_folder(tmp_path: Path) -> None:
    uv, site, place = Path(sys.executable).with_name("uv"), tmp_path / "site", tmp_path / "elsewhere"
    place.mkdir()
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run([uv, "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    where = [sys.executable, "-c", "import seglab.engine.config as c; print(c.CONF)"]
    conf = subprocess.run(where, cwd=place, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert conf == str(site / "seglab/conf")
    command = [sys.executable, "-m", "seglab.train", "trainer=debug", "dataset.size=32", "model.base=4"]
    said = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert len(list(place.glob("outputs/default/*/per_image.csv"))) == 1
