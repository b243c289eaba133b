"""What the epochs of a run say beside its result: how rough its curves are, and how long an epoch takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from seglab.reporting.joint_tables import read_together


def read(runs: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The metrics.csv of each run that has one, by the run's row."""
    files = {row: folder / "metrics.csv" for row, folder in zip(runs.index, runs["folder"], strict=True)}
    tables, _ = read_together({row: file.read_bytes() for row, file in files.items() if file.is_file()})
    histories = (history for table in tables if "epoch" in table for _, history in table.groupby("run"))
    return {int(history["run"].iloc[0]): history for history in histories}


def summary(histories: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Roughness of the IoU in training and validation, and the median seconds of an epoch: one row a run."""
    rows = {}
    for row, history in histories.items():
        curves = {part: history[f"{part}/iou"] for part in ("train", "val") if f"{part}/iou" in history}
        rows[row] = {f"epochs/{part} roughness": roughness(curve.to_numpy()) for part, curve in curves.items()}
        if "seconds" in history:
            rows[row]["epochs/seconds"] = float(history["seconds"].median())
    return pd.DataFrame.from_dict(rows, orient="index")


def roughness(curve: np.ndarray) -> float:
    """The mean size of the second difference, |x(e+1) - 2 x(e) + x(e-1)|; 0 for a straight line, NaN under 3 epochs."""
    bends = np.abs(np.diff(curve, 2))
    return float(bends.mean()) if bends.size else float("nan")
