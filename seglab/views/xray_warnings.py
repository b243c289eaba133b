"""What an X-ray of losses means: learning rates to try, and sentences to warn of."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

FEW_PIXELS, MOST_OF_GRADIENT, WEAK_GRADIENT = 0.02, 0.9, 1e-3
FACTORS = {"low": 1 / 3, "middle": 1.0, "high": 3.0}
ADAPTIVE = ("Adam", "RMSprop", "Adagrad", "Adadelta")
"""Optimizers that divide a gradient by its own running size, so that the scale of the loss cancels."""


def is_adaptive(optimizer: Mapping[str, Any]) -> bool:
    """Whether the optimizer's steps do not depend on the scale of the loss."""
    return any(word in str(optimizer["_target_"]).rsplit(".", 1)[-1] for word in ADAPTIVE)


def learning_rates(weights: pd.DataFrame, optimizer: Mapping[str, Any]) -> pd.DataFrame:
    """Three learning rates to try for each loss, around the optimizer's own, which is taken to suit the reference.

    The reference is bce, or the first loss where it is not there. A plain optimizer's steps are as long as the
    gradient, so its rates are divided by the gradient's norm relative to the reference's; an adaptive one divides by
    that itself, so all losses get the same. Columns: loss, norm, rms, relative (norm / reference's), low, middle, high.
    """
    norms = weights.set_index("loss")["norm"]
    relative = weights["norm"] / norms.get("bce", norms.iloc[0])
    scale = 1.0 if is_adaptive(optimizer) else 1 / relative.where(relative > 0)
    return weights.assign(relative=relative, **{name: optimizer["lr"] * x * scale for name, x in FACTORS.items()})


def warnings(tables: Mapping[str, pd.DataFrame], optimizer: Mapping[str, Any]) -> list[str]:
    """Sentences about what a user would want to know before choosing a loss; see the tables of xray.py."""
    return [
        *_on_empty(tables["empty"]),
        *_few_pixels(tables["norms"]),
        *_regions(tables["regions"]),
        *_small_gradients(tables["learning_rates"], optimizer),
    ]


def _on_empty(empty: pd.DataFrame) -> Iterator[str]:
    for loss, without, value, gradient in empty.itertuples(index=False):
        if abs(gradient) < WEAK_GRADIENT:
            yield f"{loss}: no gradient against false positives on empty images ({gradient:.1g}; bce has 0.9)"
        elif gradient < 0:
            yield f"{loss}: rewards false positives on empty images"
        if without > max(0.1, 0.5 * abs(value)):
            yield (
                f"{loss}: costs {without:.2g} on an empty image that is predicted rightly, "
                f"and {value:.2g} with a false positive"
            )


def _few_pixels(norms: pd.DataFrame) -> Iterator[str]:
    for stage, loss, _, norm, fraction in norms.itertuples(index=False):
        if stage in ("half-trained", "trained") and fraction <= FEW_PIXELS:
            yield f"{loss}, {stage}: 90 % of the gradient on {100 * fraction:.2g} % of the pixels"
        if stage in ("half-trained", "trained") and norm == 0:
            yield f"{loss}, {stage}: no gradient at all"


def _regions(regions: pd.DataFrame) -> Iterator[str]:
    untrained, half = (
        {
            str(loss): part.set_index("region")[["gradient", "pixels"]]
            for loss, part in regions[regions["stage"] == stage].groupby("loss", sort=False)
        }
        for stage in ("untrained", "half-trained")
    )
    blind = [loss for loss, part in untrained.items() if part["gradient"]["background"] > MOST_OF_GRADIENT]
    if blind:
        yield f"untrained: over {100 * MOST_OF_GRADIENT:g} % of the gradient on the background ({', '.join(blind)})"
    for loss, part in half.items():
        gradient, pixels = part["gradient"], part["pixels"]
        if gradient["hard"] < pixels["hard"]:
            yield (
                f"{loss}, half-trained: wrong pixels have less of the gradient than others "
                f"({100 * gradient['hard']:.2g} % of the gradient, {100 * pixels['hard']:.2g} % of the pixels)"
            )
        small, large = (gradient[key] / pixels[key] if pixels[key] else 0 for key in ("small objects", "large objects"))
        if min(small, large) > 0 and max(small / large, large / small) > 3:
            more, less = ("small", "large") if small > large else ("large", "small")
            times = max(small / large, large / small)
            yield f"{loss}, half-trained: a pixel of {more} objects has {times:.2g} times the gradient of {less} ones"


def _small_gradients(weights: pd.DataFrame, optimizer: Mapping[str, Any]) -> Iterator[str]:
    for loss, rms in weights[["loss", "rms"]].itertuples(index=False):
        if is_adaptive(optimizer) and rms < 100 * optimizer.get("eps", 0):
            yield (
                f"{loss}: a typical weight's gradient of {rms:.1g} is not far above the optimizer's eps "
                f"of {optimizer['eps']:g}, which then shortens the steps"
            )
