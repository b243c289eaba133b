"""What an X-ray of losses means, in words: learning rates to try, and what to be warned of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

FEW, MANY = 0.02, 0.9
WEAK = 1e-3
SPAN = (1 / 3, 1.0, 3.0)
ADAPTIVE = ("Adam", "RMSprop", "Adagrad", "Adadelta")
"""Optimizers that divide a gradient by its own running size, so that the scale of the loss cancels."""


def adaptive(optimizer: Mapping[str, Any]) -> bool:
    """Whether the optimizer's steps do not depend on the scale of the loss."""
    return any(word in str(optimizer["_target_"]).rsplit(".", 1)[-1] for word in ADAPTIVE)


def learning_rates(weights: pd.DataFrame, optimizer: Mapping[str, Any]) -> pd.DataFrame:
    """Three learning rates to try for each loss, around the optimizer's own, which is taken to suit the reference.

    The reference is bce, or the first loss where it is not there. A plain optimizer's steps are as long as the
    gradient, so its rates are divided by the gradient's norm relative to the reference's; an adaptive one divides by
    that itself, so all losses get the same. Columns: loss, norm, rms, relative (norm / reference's), low, middle, high.
    """
    known = weights.set_index("loss")["norm"]
    reference = known["bce"] if "bce" in known else known.iloc[0]
    relative = weights["norm"] / reference
    scale = 1.0 if adaptive(optimizer) else 1 / relative.where(relative > 0)
    rates = {
        name: optimizer["lr"] * factor * scale for name, factor in zip(("low", "middle", "high"), SPAN, strict=True)
    }
    return weights.assign(relative=relative, **rates)


def warnings(
    shares: pd.DataFrame,
    norms: pd.DataFrame,
    empty: pd.DataFrame,
    weights: pd.DataFrame,
    optimizer: Mapping[str, Any],
) -> list[str]:
    """Sentences about what a user would want to know before choosing a loss; see the tables of xray.py."""
    return [*_empty(empty), *_few(norms), *_regions(shares), *_weights(weights, optimizer)]


def _empty(empty: pd.DataFrame) -> Iterator[str]:
    for row in empty.to_dict("records"):
        if abs(row["pull"]) < WEAK:
            yield f"{row['loss']}: no gradient against false positives on empty images ({row['pull']:.1g}; bce has 0.9)"
        elif row["pull"] < 0:
            yield f"{row['loss']}: rewards false positives on empty images"
        if row["clean"] > max(0.1, 0.5 * abs(row["alarm"])):
            yield (
                f"{row['loss']}: costs {row['clean']:.2g} on an empty image that is predicted rightly, "
                f"and {row['alarm']:.2g} with a false alarm"
            )


def _few(norms: pd.DataFrame) -> Iterator[str]:
    for row in norms[norms["stage"].isin(["half-trained", "trained"])].to_dict("records"):
        if row["carry"] <= FEW:
            yield f"{row['loss']}, {row['stage']}: 90 % of the gradient on {100 * row['carry']:.2g} % of the pixels"
        if row["norm"] == 0:
            yield f"{row['loss']}, {row['stage']}: no gradient at all"


def _regions(shares: pd.DataFrame) -> Iterator[str]:
    found, held = (
        shares.pivot_table(index=["stage", "loss"], columns="region", values=values, sort=False)
        for values in ("gradient", "pixels")
    )
    blind = [label for label, row in found.loc["untrained"].iterrows() if row["background"] > MANY]
    if blind:
        yield f"untrained: over {100 * MANY:g} % of the gradient on the background ({', '.join(map(str, blind))})"
    for label, share in found.loc["half-trained"].iterrows():
        pixels = held.loc[("half-trained", label)]
        if share["hard"] < pixels["hard"]:
            yield (
                f"{label}, half-trained: wrong pixels are pulled less than others "
                f"({100 * share['hard']:.2g} % of the gradient, {100 * pixels['hard']:.2g} % of the pixels)"
            )
        small, large = (share[key] / pixels[key] if pixels[key] else 0 for key in ("small objects", "large objects"))
        if min(small, large) > 0 and max(small / large, large / small) > 3:
            more, less = ("small", "large") if small > large else ("large", "small")
            times = max(small / large, large / small)
            yield f"{label}, half-trained: pixels of {more} objects are pulled {times:.2g} times as much as {less} ones"


def _weights(weights: pd.DataFrame, optimizer: Mapping[str, Any]) -> Iterator[str]:
    for row in weights.to_dict("records"):
        if adaptive(optimizer) and row["rms"] < 100 * optimizer.get("eps", 0):
            yield (
                f"{row['loss']}: a typical weight's gradient of {row['rms']:.1g} is not far above the optimizer's eps "
                f"of {optimizer['eps']:g}, which then shortens the steps"
            )
