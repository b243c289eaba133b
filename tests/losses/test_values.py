"""Every loss against its formula, written out anew in numpy float64 from the publications."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

Array = NDArray[np.float64]
Formula = Callable[[Array, Array], float]
"""Probability and target of one image to its loss."""


def ce(p: Array, t: Array) -> Array:
    return -t * np.log(p) - (1 - t) * np.log(1 - p)


def confusion(p: Array, t: Array) -> tuple[float, float, float, float]:
    return (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum(), ((1 - p) * (1 - t)).sum()


def dice(p: Array, t: Array, s: float = 0) -> float:
    return 1 - (2 * (p * t).sum() + s) / (p.sum() + t.sum() + s)


def tversky_index(p: Array, t: Array, a: float, b: float) -> float:
    tp, fp, fn, _ = confusion(p, t)
    return tp / (tp + a * fp + b * fn)


def focal(p: Array, t: Array, gamma: float = 2, alpha: float | None = None) -> float:
    one, zero = (1, 1) if alpha is None else (alpha, 1 - alpha)
    return float(np.where(t == 1, -one * (1 - p) ** gamma * np.log(p), -zero * p**gamma * np.log(1 - p)).mean())


def asymmetric_focal(p: Array, t: Array, delta: float = 0.7, gamma: float = 2) -> float:
    return float(np.where(t == 1, -delta * np.log(p), -(1 - delta) * p**gamma * np.log(1 - p)).mean())


def class_weighted(p: Array, t: Array, one: float = 2, zero: float = 1) -> float:
    weight = np.where(t == 1, one, zero)
    return float((weight * ce(p, t)).sum() / weight.sum())


def balanced(p: Array, t: Array) -> float:
    return float((ce(p, t)[t == 1].mean() + ce(p, t)[t == 0].mean()) / 2)


def top(p: Array, t: Array, fraction: float = 0.1) -> float:
    cost = np.sort(ce(p, t).ravel())[::-1]
    return float(cost[: int(np.ceil(fraction * cost.size))].mean())


def sensitivity_specificity(p: Array, t: Array, r: float = 0.05) -> float:
    squared = (t - p) ** 2
    return float(r * (squared * t).sum() / t.sum() + (1 - r) * (squared * (1 - t)).sum() / (1 - t).sum())


def generalised_dice(p: Array, t: Array) -> float:
    part = whole = 0.0
    for q, c in ((p, t), (1 - p, 1 - t)):
        weight = 1 / c.sum() ** 2
        part, whole = part + weight * (q * c).sum(), whole + weight * (q + c).sum()
    return 1 - 2 * part / whole


def mcc(p: Array, t: Array) -> float:
    tp, fp, fn, tn = confusion(p, t)
    return 1 - (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))


def dice_plus_plus(p: Array, t: Array, g: float = 2) -> float:
    tp = (p * t).sum()
    return 1 - 2 * tp / (2 * tp + ((p * (1 - t)) ** g).sum() + (((1 - p) * t) ** g).sum())


def metric(p: Array, t: Array) -> float:
    distance = np.abs(p - t).sum()
    total = p.sum() + t.sum()
    return 1 - (total - distance) / (total + distance)


def unified_tversky(p: Array, t: Array, delta: float = 0.6, gamma: float = 0.5) -> float:
    back = 1 - tversky_index(1 - p, 1 - t, 1 - delta, delta)
    return (back + (1 - tversky_index(p, t, 1 - delta, delta)) ** (1 - gamma)) / 2


def exp_log(p: Array, t: Array) -> float:
    weight = np.where(t == 1, np.sqrt(0.9 / 0.1), 1)
    return float(0.8 * (-np.log(1 - dice(p, t, 1))) ** 0.3 + 0.2 * (weight * ce(p, t) ** 0.3).mean())


def lovasz(errors: Array, t: Array) -> float:
    """By the definition: errors in descending order, times the growth of the Jaccard loss of the set so far."""
    order = np.argsort(-errors.ravel())
    truth, loss, last = t.ravel()[order], 0.0, 0.0
    for k, error in enumerate(errors.ravel()[order]):
        wrong = truth[: k + 1]
        jaccard = 1 - (truth.sum() - wrong.sum()) / (truth.sum() + (1 - wrong).sum())
        loss, last = loss + max(error, 0) * (jaccard - last), jaccard
    return loss


def signed_distance(t: Array) -> Array:
    """Positive outside, 0 on the outermost foreground pixels, negative within."""
    return np.where(t == 1, 1 - distance_transform_edt(t), distance_transform_edt(1 - t))


def both_sides(mask: Array) -> Array:
    return np.asarray(distance_transform_edt(mask) + distance_transform_edt(1 - mask))


def skeleton(x: Array, iterations: int) -> Array:
    def least(v: Array) -> Array:
        w = np.pad(v, 1, constant_values=np.inf)
        return np.minimum.reduce([w[1:-1, 1:-1], w[:-2, 1:-1], w[2:, 1:-1], w[1:-1, :-2], w[1:-1, 2:]])

    def greatest(v: Array) -> Array:
        w = np.pad(v, 1, constant_values=-np.inf)
        rows, columns = v.shape
        return np.maximum.reduce([w[i : i + rows, j : j + columns] for i in range(3) for j in range(3)])

    lines = np.maximum(x - greatest(least(x)), 0)
    for _ in range(iterations):
        x = least(x)
        lost = np.maximum(x - greatest(least(x)), 0)
        lines = lines + np.maximum(lost - lines * lost, 0)
    return lines


def cldice(p: Array, t: Array) -> float:
    sp, st = skeleton(p, 3), skeleton(t, 3)
    precision, recall = ((sp * t).sum() + 1) / (sp.sum() + 1), ((st * p).sum() + 1) / (st.sum() + 1)
    return 0.5 * dice(p, t) + 0.5 * (1 - 2 * precision * recall / (precision + recall))


def weight_map(p: Array, t: Array) -> float:
    first, second = (
        distance_transform_edt(1 - piece)
        for piece in (t * (np.arange(12)[:, None] < 7), t * (np.arange(12)[:, None] >= 7))
    )
    return float(((1 + 10 * np.exp(-((first + second) ** 2) / (2 * 25))) * ce(p, t)).mean())


FORMULAS: dict[str, Formula] = {
    "bce": lambda p, t: ce(p, t).mean(),
    "external": lambda p, t: ce(p, t).mean(),
    "weighted_bce": lambda p, t: (np.where(t == 1, 9, 1) * ce(p, t)).mean(),
    "class_weighted_ce": class_weighted,
    "balanced_ce": balanced,
    "label_smoothing": lambda p, t: ce(p, t * 0.9 + (1 - t) * 0.1).mean(),
    "focal": focal,
    "asymmetric_focal": asymmetric_focal,
    "poly1": lambda p, t: (ce(p, t) + np.abs(p - t)).mean(),
    "topk": top,
    "weight_map": weight_map,
    "dice": dice,
    "batchwise": dice,
    "squared_dice": lambda p, t: 1 - 2 * (p * t).sum() / ((p**2).sum() + (t**2).sum()),
    "iou": lambda p, t: 1 - (p * t).sum() / (p + t - p * t).sum(),
    "tversky": lambda p, t: 1 - tversky_index(p, t, 0.3, 0.7),
    "focal_tversky": lambda p, t: (1 - tversky_index(p, t, 0.3, 0.7)) ** 0.75,
    "sensitivity_specificity": sensitivity_specificity,
    "generalised_dice": generalised_dice,
    "log_cosh_dice": lambda p, t: np.log(np.cosh(dice(p, t))),
    "mcc": mcc,
    "dice_plus_plus": dice_plus_plus,
    "noise_robust_dice": lambda p, t: (np.abs(p - t) ** 1.5).sum() / (p**2 + t**2).sum(),
    "jml": metric,
    "asymmetric_focal_tversky": unified_tversky,
    "lovasz_hinge": lambda p, t: lovasz(1 - (2 * t - 1) * np.log(p / (1 - p)), t),
    "lovasz_sigmoid": lambda p, t: lovasz(np.abs(t - p), t),
    "boundary": lambda p, t: (p * signed_distance(t)).mean(),
    "hausdorff": lambda p, t: ((p - t) ** 2 * (both_sides(p > 0.5) ** 2 + both_sides(t) ** 2)).mean(),
    "cldice": cldice,
    "bce_dice": lambda p, t: ce(p, t).mean() + dice(p, t),
    "combo": lambda p, t: 0.5 * (0.5 * ce(p, t)).mean() + 0.5 * dice(p, t),
    "exp_log": exp_log,
    "unified_focal": lambda p, t: 0.5 * asymmetric_focal(p, t, 0.6, 0.5) + 0.5 * unified_tversky(p, t),
    "sum": lambda p, t: ce(p, t).mean() + dice(p, t) + 0.01 * (p * signed_distance(t)).mean(),
    "switch": lambda p, t: ce(p, t).mean(),
}


def test_the_value_is_that_of_the_published_formula(case, logits: torch.Tensor, target: torch.Tensor) -> None:
    z, t = logits[:1].double(), target[:1]
    expected = FORMULAS[case.name](1 / (1 + np.exp(-z[0, 0].numpy())), t[0, 0].numpy().astype(np.float64))
    assert float(case(z, t)) == pytest.approx(expected, rel=3e-6 if case.loss.needs else 1e-11)
    assert float(case(z.float(), t)) == pytest.approx(expected, rel=5e-6)


def test_the_value_is_right_where_the_foreground_is_the_larger_class(
    case, logits: torch.Tensor, target: torch.Tensor
) -> None:
    if case.name == "weight_map":
        pytest.skip("its formula here is for the two objects of the example")
    z, t = logits[:1].double(), 1 - target[:1]
    expected = FORMULAS[case.name](1 / (1 + np.exp(-z[0, 0].numpy())), t[0, 0].numpy().astype(np.float64))
    assert float(case(z, t)) == pytest.approx(expected, rel=3e-6 if case.loss.needs else 1e-11)


SOFT: dict[str, Formula] = {
    "bce": lambda p, t: ce(p, t).mean(),
    "focal": lambda p, t: (-t * (1 - p) ** 2 * np.log(p) - (1 - t) * p**2 * np.log(1 - p)).mean(),
    "class_weighted_ce": lambda p, t: (-2 * t * np.log(p) - (1 - t) * np.log(1 - p)).sum() / (1 + t).sum(),
    "label_smoothing": lambda p, t: ce(p, t * 0.9 + (1 - t) * 0.1).mean(),
    "dice": dice,
    "squared_dice": lambda p, t: ((p - t) ** 2).sum() / (p**2 + t**2).sum(),
    "jml": metric,
    "mcc": mcc,
    "noise_robust_dice": lambda p, t: (np.abs(p - t) ** 1.5).sum() / (p**2 + t**2).sum(),
    "dice_plus_plus": dice_plus_plus,
    "sensitivity_specificity": sensitivity_specificity,
}


@pytest.mark.parametrize("name", SOFT)
def test_soft_labels_are_mixtures(make, name: str, logits: torch.Tensor) -> None:
    t = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = logits[:1].double()
    expected = SOFT[name](1 / (1 + np.exp(-z[0, 0].numpy())), t[0, 0].numpy())
    assert float(make(name)(z, t)) == pytest.approx(expected, rel=1e-11)
