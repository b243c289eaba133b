import math

import numpy as np
import pandas as pd
import pytest

from seglab.reporting.load_runs import collect
from seglab.reporting.metrics_table import roughness
from seglab.reporting.study import Question, Study


def test_roughness_by_hand():
    assert roughness(np.array([0.1, 0.3, 0.2, 0.6])) == pytest.approx((0.3 + 0.5) / 2)
    assert roughness(np.linspace(0.2, 0.9, 30)) == pytest.approx(0, abs=1e-12)
    assert math.isnan(roughness(np.array([0.1, 0.3])))


def test_the_report_has_the_roughness_and_the_seconds_of_each_loss(own):
    for k, folder in enumerate(sorted(own.iterdir())):
        epochs = {"epoch": range(4), "val/iou": [0, 0.1 * k, 0, 0.1 * k], "seconds": [9.0, 2, 3, 2 + k]}
        pd.DataFrame(epochs).to_csv(folder / "metrics.csv", index=False)
    (folder / "metrics.csv").unlink()  # a run may have lost it
    spread = Study("data", collect([own]), Question()).spread
    assert spread.loc["bce", ("epochs/val roughness", "mean")] == pytest.approx((0 + 0.2) / 2)
    assert spread.loc["dice", ("epochs/val roughness", "mean")] == pytest.approx(0.4)
    assert spread.loc["bce", ("epochs/seconds", "mean")] == pytest.approx((2.5 + 3) / 2)
    assert ("epochs/train roughness", "mean") not in spread
