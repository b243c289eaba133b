"""Every loss agrees with the published formula, reimplemented in numpy float64, for every task."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, label, uniform_filter
from scipy.special import expit, softmax
from scipy.stats import multivariate_t

from seglab.data.distance_maps import MAPS
from tests.losses.conftest import of, scene

Array = NDArray[np.float64]
Formula = Callable[[Array, Array], float]
"""Maps probability and target of an image to its loss: (h, w) each, or (k, h, w) if all classes are needed."""


def ce(p, t):
    return -t * np.log(p) - (1 - t) * np.log(1 - p)


def confusion(p, t):
    return (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum(), ((1 - p) * (1 - t)).sum()


def dice(p, t, s=0):
    return 1 - (2 * (p * t).sum() + s) / (p.sum() + t.sum() + s)


def tversky_index(p, t, a, b):
    tp, fp, fn, _ = confusion(p, t)
    return tp / (tp + a * fp + b * fn)


def focal(p, t, gamma=2, alpha=None):
    one, zero = (1, 1) if alpha is None else (alpha, 1 - alpha)
    return float((-one * t * (1 - p) ** gamma * np.log(p) - zero * (1 - t) * p**gamma * np.log(1 - p)).mean())


def asymmetric_focal(p, t, delta=0.7, gamma=2):
    return float((-delta * t * np.log(p) - (1 - delta) * (1 - t) * p**gamma * np.log(1 - p)).mean())


def class_weighted(p, t):
    return float((-2 * t * np.log(p) - (1 - t) * np.log(1 - p)).sum() / (2 * t + 1 - t).sum())


def balanced(p, t):
    return float((ce(p, t)[t == 1].mean() + ce(p, t)[t == 0].mean()) / 2)


def top(cost, fraction=0.1):
    ranked = np.sort(cost.ravel())[::-1]
    return float(ranked[: int(np.ceil(fraction * cost.size))].mean())


def sensitivity_specificity(p, t, r=0.05):
    squared = (t - p) ** 2
    return float(r * (squared * t).sum() / t.sum() + (1 - r) * (squared * (1 - t)).sum() / (1 - t).sum())


def generalized_dice(p, t):
    """Compute generalized Dice over the classes of the first axis."""
    weight = 1 / t.sum((1, 2)) ** 2
    return float(1 - 2 * (weight * (p * t).sum((1, 2))).sum() / (weight * (p + t).sum((1, 2))).sum())


def mcc(p, t):
    tp, fp, fn, tn = confusion(p, t)
    return 1 - (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))


def dice_plus_plus(p, t, g=2):
    tp = (p * t).sum()
    return 1 - 2 * tp / (2 * tp + ((p * (1 - t)) ** g).sum() + (((1 - p) * t) ** g).sum())


def metric(p, t):
    distance, total = np.abs(p - t).sum(), p.sum() + t.sum()
    return 1 - (total - distance) / (total + distance)


def unified_tversky(p, t, delta=0.6, gamma=0.5):
    back = 1 - tversky_index(1 - p, 1 - t, 1 - delta, delta)
    return (back + (1 - tversky_index(p, t, 1 - delta, delta)) ** (1 - gamma)) / 2


def log_dice(p, t):
    return float((-np.log(1 - dice(p, t, 1))) ** 0.3)


def lovasz(errors, t):
    """Sum, by definition, the errors in descending order times the increase of the Jaccard loss at each."""
    order = np.argsort(-errors.ravel())
    truth, loss, last = t.ravel()[order], 0.0, 0.0
    for k, error in enumerate(errors.ravel()[order]):
        wrong = truth[: k + 1]
        jaccard = 1 - (truth.sum() - wrong.sum()) / (truth.sum() + (1 - wrong).sum())
        loss, last = loss + max(error, 0) * (jaccard - last), jaccard
    return loss


def signed_distance(t):
    """Return distances: positive outside, 0 on the outermost foreground pixels, negative inside."""
    return np.where(t == 1, 1 - distance_transform_edt(t), distance_transform_edt(1 - t))


def both_sides(mask):
    return np.asarray(distance_transform_edt(mask) + distance_transform_edt(1 - mask))


def hausdorff(p, t, decided):
    return float(((p - t) ** 2 * (both_sides(decided) ** 2 + both_sides(t) ** 2)).mean())


def skeleton(x, iterations):
    def least(v):
        w = np.pad(v, 1, constant_values=np.inf)
        return np.minimum.reduce([w[1:-1, 1:-1], w[:-2, 1:-1], w[2:, 1:-1], w[1:-1, :-2], w[1:-1, 2:]])

    def greatest(v):
        w = np.pad(v, 1, constant_values=-np.inf)
        rows, columns = v.shape
        return np.maximum.reduce([w[i : i + rows, j : j + columns] for i in range(3) for j in range(3)])

    lines = np.maximum(x - greatest(least(x)), 0)
    for _ in range(iterations):
        x = least(x)
        lost = np.maximum(x - greatest(least(x)), 0)
        lines = lines + np.maximum(lost - lines * lost, 0)
    return lines


def cldice(p, t):
    sp, st = skeleton(p, 3), skeleton(t, 3)
    precision, recall = ((sp * t).sum() + 1) / (sp.sum() + 1), ((st * p).sum() + 1) / (st.sum() + 1)
    return 0.5 * dice(p, t) + 0.5 * (1 - 2 * precision * recall / (precision + recall))


def border(t):
    """Return 10 exp(-(d1 + d2)^2 / (2 5^2)) for the two objects of the example, one above the other."""
    rows = np.arange(t.shape[0])[:, None]
    objects = [t * part for part in (rows < 7, rows >= 7)]
    if not all(piece.any() for piece in objects):
        return np.zeros(t.shape)
    first, second = (distance_transform_edt(1 - piece) for piece in objects)
    return np.asarray(10 * np.exp(-((first + second) ** 2) / (2 * 25)))


def t_loss(p, t):
    """Return the negative log-density, relative to that of a perfect prediction, per pixel."""
    student = multivariate_t(loc=t.ravel(), shape=np.eye(t.size), df=1)
    return float(student.logpdf(t.ravel()) - student.logpdf(p.ravel())) / t.size


def calibration_error(p, t, soft=False, bins=20):
    gaps = []
    for k in range(bins):
        if soft:  # weight 1 at the center of the bin, falling to 0 at the centers of its neighbors
            share = np.clip(1 - np.abs(np.clip(bins * p - 0.5, 0, bins - 1) - k), 0, 1)
        else:
            share = ((p >= k / bins) & (p < (k + 1) / bins)).astype(float)
        if share.sum() >= 0.01:
            gaps.append(abs((share * p).sum() - (share * t).sum()) / share.sum())
    return float(np.mean(gaps))


def around(t):
    """Return the mean of the existing pixels in the 3x3 neighborhood of each pixel."""
    return np.asarray(
        uniform_filter(t, 3, mode="constant") / uniform_filter(np.ones_like(t), 3, mode="constant"), dtype=float
    )


def cells(t):
    """Return the pixels nearest to each object of a mask, or all pixels if there is no object."""
    objects, count = label(t, np.ones((3, 3)))
    away = np.stack([distance_transform_edt(objects != c) for c in range(1, count + 1)] or [0 * t])
    return [away.argmin(0) == c for c in range(max(1, count))]


def size_weights(t):
    """Return the mean size of objects and background over the size of each object, at least 1; 1 elsewhere."""
    objects, count = label(t, np.ones((3, 3)))
    weights = [max(1, t.size / (count + 1) / (objects == c).sum()) for c in range(1, count + 1)]
    return np.array([1, *weights])[objects]


def near_boundary(side):
    """Return weights from 1 on the outermost pixels of a mask to 0 on its innermost pixels, and 0 outside."""
    away = distance_transform_edt(side) * side
    return np.asarray(side * (away.max() - away) / max(away.max() - 1, 1e-9))


def boundary_dou(p, t):
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    edge = t.sum() - binary_erosion(t, cross).sum()
    alpha, intersection = min(2 * (1 - edge / t.sum()) - 1, 0.8), (p * t).sum()
    squares = (p**2).sum() + (t**2).sum()
    return (squares - 2 * intersection) / (squares - (1 + alpha) * intersection)


def present_dice(p, t):
    return dice(p, t) if t.any() else dice(1 - p, 1 - t)


def logit(p):
    return np.asarray(np.log(p / (1 - p)))


def bi_tempered(z, t, t1=0.8, t2=1.2):
    """Compute the Bregman divergence of the paper for all classes in the first axis, with lambda by bisection."""

    def exp(x):
        return np.maximum(1 + (1 - t2) * x, 0) ** (1 / (1 - t2))

    def log(x):
        return (x ** (1 - t1) - 1) / (1 - t1)

    low, high = z.max(0), z.max(0) + len(z) ** t2 / (t2 - 1)
    for _ in range(100):
        middle = (low + high) / 2
        above = exp(z - middle).sum(0) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    p = exp(z - low)
    return float((t * (log(t) - log(p)) - (t ** (2 - t1) - p ** (2 - t1)) / (2 - t1)).sum(0).mean())


def wasserstein_dice(p, t, distances=None):
    """Compute the loss of all classes in the first axis, the background first."""
    far = 1 - np.eye(len(p)) if distances is None else distances / distances.max()
    error = np.einsum("lhw,lk,khw->hw", t, far, p)
    right = (1 - error)[t[0] == 0].sum()
    return float(1 - 2 * right / (2 * right + error.sum()))


def with_background(p, t):
    return np.stack([1 - p, p]), np.stack([1 - t, t])


def skeleton_missed(p, t):
    line = MAPS["skeleton"](t)
    return float(((1 - p) * line).sum() / line.sum())


REGION = {
    "t_loss": t_loss,
    "boundary_dou": boundary_dou,
    "dice": dice,
    "batchwise": dice,
    "squared_dice": lambda p, t: 1 - 2 * (p * t).sum() / ((p**2).sum() + (t**2).sum()),
    "iou": lambda p, t: 1 - (p * t).sum() / (p + t - p * t).sum(),
    "tversky": lambda p, t: 1 - tversky_index(p, t, 0.3, 0.7),
    "focal_tversky": lambda p, t: (1 - tversky_index(p, t, 0.3, 0.7)) ** 0.75,
    "sensitivity_specificity": sensitivity_specificity,
    "log_cosh_dice": lambda p, t: np.log(np.cosh(dice(p, t))),
    "mcc": mcc,
    "dice_plus_plus": dice_plus_plus,
    "noise_robust_dice": lambda p, t: (np.abs(p - t) ** 1.5).sum() / (p**2 + t**2).sum(),
    "jml": metric,
    "asymmetric_focal_tversky": unified_tversky,
    "boundary": lambda p, t: (p * signed_distance(t)).mean(),
    "cldice": cldice,
}
"""Formulas of one class against the rest, the same for all tasks."""

TWO = REGION | {
    "bce": lambda p, t: ce(p, t).mean(),
    "external": lambda p, t: ce(p, t).mean(),
    "switch": lambda p, t: ce(p, t).mean(),
    "class_weighted_ce": class_weighted,
    "balanced_ce": balanced,
    "label_smoothing": lambda p, t: ce(p, t * 0.9 + (1 - t) * 0.1).mean(),
    "focal": focal,
    "asymmetric_focal": asymmetric_focal,
    "poly1": lambda p, t: (ce(p, t) + np.abs(p - t)).mean(),
    "topk": lambda p, t: top(ce(p, t)),
    "weight_map": lambda p, t: ((1 + border(t)) * ce(p, t)).mean(),
    "generalized_dice": lambda p, t: generalized_dice(*with_background(p, t)),
    "generalized_wasserstein_dice": lambda p, t: wasserstein_dice(*with_background(p, t)),
    "bi_tempered": lambda p, t: bi_tempered(np.stack([0 * p, logit(p)]), np.stack([1 - t, t])),
    "skeleton_recall": lambda p, t: ce(p, t).mean() + dice(p, t) + skeleton_missed(p, t),
    "lovasz_hinge": lambda p, t: lovasz(1 - (2 * t - 1) * np.log(p / (1 - p)), t),
    "lovasz_sigmoid": lambda p, t: lovasz(np.abs(t - p), t),
    "hausdorff": lambda p, t: hausdorff(p, t, p > 0.5),
    "per_component": lambda p, t: np.mean([ce(p[c], t[c]).mean() + dice(p[c], t[c]) for c in cells(t)]),
    "inverse_size": lambda p, t: (size_weights(t) * ce(p, t)).mean(),
    "distance_ce": lambda p, t: ((1 + near_boundary(t) + near_boundary(1 - t)) * ce(p, t)).mean(),
    "gce": lambda p, t: (t * (1 - p**0.7) / 0.7 + (1 - t) * (1 - (1 - p) ** 0.7) / 0.7).mean(),
    "sce": lambda p, t: 0.1 * ce(p, t).mean() + 4 * (t * (1 - p) + (1 - t) * p).mean(),
    "mbls": lambda p, t: ce(p, t).mean() + 0.1 * np.maximum(np.abs(logit(p)) - 10, 0).mean() / 2,
    "nacl": lambda p, t: ce(p, t).mean() + 0.1 * np.abs(around(t) - (1 + logit(p)) / 2).mean(),
    "l1_ace": lambda p, t: ce(p, t).mean() + calibration_error(p, t),
    "region_size": lambda p, t: ce(p, t).mean() + 0.1 * abs(p.mean() - t.mean()),
    "bce_dice": lambda p, t: ce(p, t).mean() + dice(p, t),
    "combo": lambda p, t: 0.5 * (0.5 * ce(p, t)).mean() + 0.5 * dice(p, t),
    "unified_focal": lambda p, t: 0.5 * asymmetric_focal(p, t, 0.6, 0.5) + 0.5 * unified_tversky(p, t),
    "sum": lambda p, t: ce(p, t).mean() + dice(p, t) + 0.01 * (p * signed_distance(t)).mean(),
}
"""Formulas of one class and its background."""


def weighted(p, t, w):
    return float((-w * t * np.log(p) - (1 - t) * np.log(1 - p)).mean())


def exp_log(p, t, w):
    cost = w * t * (-np.log(p)) ** 0.3 + (1 - t) * (-np.log(1 - p)) ** 0.3
    return 0.8 * log_dice(p, t) + 0.2 * float(cost.mean())


def expected_of_channels(name, p, t, odds):
    """Return the mean over channels; odds: background over foreground of each channel in the training masks."""
    if name == "weighted_bce":
        return float(np.mean([weighted(*pair, w) for *pair, w in zip(p, t, odds, strict=True)]))
    if name == "exp_log":
        return float(np.mean([exp_log(*pair, w**0.5) for *pair, w in zip(p, t, odds, strict=True)]))
    if name == "logit_adjusted":
        return float(
            np.mean([ce(expit(logit(pair[0]) - np.log(w)), pair[1]) for *pair, w in zip(p, t, odds, strict=True)])
        )
    return float(np.mean([TWO[name](*pair) for pair in zip(p, t, strict=True)]))


def true(p, t):
    """Return the probability of each pixel's true class."""
    return (p * t).sum(0)


def mean(formula):
    """Return a formula averaged over all classes except the background."""
    return lambda p, t: float(np.mean([formula(p[c], t[c]) for c in range(1, len(p))]))


def many_ce(p, t):
    return float(-np.log(true(p, t)).mean())


def smoothed(p, t, s=0.1):
    label = t * (1 - s) + (1 - t) * s / (len(p) - 1)
    return float(-(label * np.log(p)).sum(0).mean())


def present(formula):
    return lambda p, t: float(np.mean([formula(p[c], t[c]) for c in range(len(p)) if t[c].any()]))


def times_class(weights, cost, t):
    return np.tensordot(weights, t, 1) * cost


def many_focal(p, t, delta, gamma):
    fade = np.where(t[0] == 1, (1 - true(p, t)) ** gamma, 1)
    return float(times_class([1 - delta, *[delta] * 3], -fade * np.log(true(p, t)), t).mean())


FREQUENCIES = [0.6, 0.2, 0.15, 0.05]
ODDS = [1, 0.6 / 0.2, 0.6 / 0.15, 0.6 / 0.05]
MANY = {name: mean(formula) for name, formula in REGION.items()} | {
    "bce": lambda p, t: -np.log(true(p, t)).mean(),
    "external": lambda p, t: -np.log(true(p, t)).mean(),
    "switch": lambda p, t: -np.log(true(p, t)).mean(),
    "weighted_bce": lambda p, t: times_class(ODDS, -np.log(true(p, t)), t).mean(),
    "class_weighted_ce": lambda p, t: (
        times_class([1, 2, 2, 2], -np.log(true(p, t)), t).sum()
        / times_class([1, 2, 2, 2], np.ones(t[0].shape), t).sum()
    ),
    "balanced_ce": present(lambda p, t: -np.log(p[t == 1]).mean()),
    "label_smoothing": smoothed,
    "focal": lambda p, t: -((1 - true(p, t)) ** 2 * np.log(true(p, t))).mean(),
    "asymmetric_focal": lambda p, t: many_focal(p, t, 0.7, 2),
    "poly1": lambda p, t: (-np.log(true(p, t)) + 1 - true(p, t)).mean(),
    "topk": lambda p, t: top(-np.log(true(p, t))),
    "generalized_dice": generalized_dice,
    "generalized_wasserstein_dice": wasserstein_dice,
    "bi_tempered": lambda p, t: bi_tempered(np.log(p), t),
    "skeleton_recall": lambda p, t: many_ce(p, t) + mean(dice)(p, t) + mean(skeleton_missed)(p, t),
    "lovasz_softmax": present(lambda p, t: lovasz(np.abs(t - p), t)),
    "hausdorff": lambda p, t: np.mean([hausdorff(p[c], t[c], p.argmax(0) == c) for c in range(1, 4)]),
    "per_component": lambda p, t: np.mean(
        [
            many_ce(p[:, part], t[:, part]) + mean(present_dice)(p[:, part], t[:, part])
            for c in range(1, 4)
            for part in cells(t[c])
        ]
    ),
    "distance_ce": lambda p, t: (-(1 + sum(near_boundary(t[c]) for c in range(4))) * np.log(true(p, t))).mean(),
    "logit_adjusted": lambda p, t: many_ce(softmax(np.log(p) + np.log(FREQUENCIES)[:, None, None], 0), t),
    "inverse_size": lambda p, t: (
        -np.max([size_weights(t[c]) for c in range(1, 4)], axis=0) * np.log(true(p, t))
    ).mean(),
    "gce": lambda p, t: ((1 - true(p, t) ** 0.7) / 0.7).mean(),
    "sce": lambda p, t: -0.1 * np.log(true(p, t)).mean() + 4 * (1 - true(p, t)).mean(),
    "mbls": lambda p, t: many_ce(p, t) + 0.1 * np.maximum(np.log(p.max(0)) - np.log(p) - 10, 0).mean(),
    "nacl": lambda z, t: (
        many_ce(softmax(z, 0), t) + 0.1 * np.mean([np.abs(around(t[c]) - z[c]).mean() for c in range(4)])
    ),
    "l1_ace": lambda p, t: many_ce(p, t) + mean(calibration_error)(p, t),
    "region_size": lambda p, t: many_ce(p, t) + 0.1 * np.abs(p.mean((1, 2)) - t.mean((1, 2))).mean(),
    "bce_dice": lambda p, t: -np.log(true(p, t)).mean() + mean(dice)(p, t),
    "combo": lambda p, t: 0.5 * -np.log(true(p, t)).mean() / 2 + 0.5 * mean(dice)(p, t),
    "unified_focal": lambda p, t: 0.5 * many_focal(p, t, 0.6, 0.5) + 0.5 * mean(unified_tversky)(p, t),
    "exp_log": lambda p, t: (
        0.2 * times_class(list(np.sqrt(ODDS)), (-np.log(true(p, t))) ** 0.3, t).mean() + 0.8 * mean(log_dice)(p, t)
    ),
    "sum": lambda p, t: -np.log(true(p, t)).mean() + mean(dice)(p, t) + 0.01 * mean(REGION["boundary"])(p, t),
}
"""Formulas of all classes, the background first."""


def expected(case, z, t):
    if case.task == "multiclass":
        given = z if case.name == "nacl" else softmax(z, 0)  # which depends on raw logits
        return float(MANY[case.name](given, np.stack([t[0] == c for c in range(4)]).astype(np.float64)))
    return expected_of_channels(
        case.name, expit(z), t.astype(np.float64), {"binary": [9], "multilabel": [9, 3]}[case.task]
    )


@of(lambda case: case.name != "weight_map" or case.task != "multiclass")  # only for two objects of a class
def test_the_value_is_that_of_the_published_formula(case, logits, target):
    z, t = logits[:1].double(), target[:1]
    value = expected(case, z[0].numpy(), t[0].numpy())
    assert float(case(z, t)) == pytest.approx(value, rel=3e-6 if case.loss.needs else 1e-11)
    assert float(case(z.float(), t)) == pytest.approx(value, rel=5e-6)


@of(lambda case: case.name != "weight_map")  # only for the two objects of the example
def test_the_value_is_right_where_the_foreground_is_the_larger_class(case, logits, target):
    z, t = logits[:1].double(), target[:1]
    t = (3 - t) if case.task == "multiclass" else 1 - t
    value = expected(case, z[0].numpy(), t[0].numpy())
    assert float(case(z, t)) == pytest.approx(value, rel=3e-6 if case.loss.needs else 1e-11)


def test_a_fifth_of_the_intersection_counts_in_a_mask_with_little_boundary(make):
    z = torch.randn(1, 1, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.zeros(1, 1, 48, 48, dtype=torch.uint8)
    target[..., 3:45, 3:45] = 1  # 164 of 1764 pixels are boundary; twice that is below a fifth
    value = boundary_dou(expit(z[0, 0].numpy()), target[0, 0].numpy().astype(np.float64))
    assert float(make("boundary_dou")(z, target)) == pytest.approx(value, rel=1e-11)


def test_the_exponent_of_an_error_is_1_minus_gamma(make, logits, target):
    """With the default gamma of 1/2, gamma and 1 - gamma cannot be distinguished."""
    z, t = logits[:1].double(), target[:1]
    value = unified_tversky(expit(z[0, 0].numpy()), t[0, 0].numpy().astype(np.float64), gamma=0.2)
    assert float(make("asymmetric_focal_tversky", gamma=0.2)(z, t)) == pytest.approx(value, rel=1e-11)


def kl(p, t):
    return float(sum(t[c].mean() * np.log(t[c].mean() / p[c].mean()) for c in range(len(t))))


OTHERWISE = [
    ("mbls", {"margin": 0.5}, lambda p, t: 0.1 * np.maximum(np.log(p.max(0)) - np.log(p) - 0.5, 0).mean()),
    ("l1_ace", {"binning": "soft"}, mean(lambda p, t: calibration_error(p, t, soft=True))),
    ("l1_ace", {"bins": 3}, mean(lambda p, t: calibration_error(p, t, bins=3))),
    ("region_size", {"distance": "kl"}, lambda p, t: 0.1 * kl(p, t)),
]
"""Terms added to cross-entropy, for other parameters; the background is first in the first axis."""


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize(("name", "parameters", "penalty"), OTHERWISE)
def test_penalties_are_those_of_their_papers(make, name, parameters, penalty, task):
    z, target = scene(task)
    z, t = z[:1].double(), target[0, 0].numpy()
    p = (
        softmax(z[0].numpy(), 0)
        if task == "multiclass"
        else np.stack([expit(-z[0, 0].numpy()), expit(z[0, 0].numpy())])
    )
    classes = np.stack([t == c for c in range(len(p))]).astype(np.float64)
    added = make(name, task, **parameters)(z, target[:1]) - make("bce", task)(z, target[:1])
    assert float(added) == pytest.approx(penalty(p, classes), rel=1e-9)


FAR = [[0, 2, 2, 2], [2, 0, 1, 0.5], [2, 1, 0, 0.5], [2, 0.5, 0.5, 0]]


def test_an_error_counts_by_how_far_the_classes_are(make):
    z, target = (x[:1] for x in scene("multiclass"))
    p, t = softmax(z[0].double().numpy(), 0), np.stack([target[0, 0].numpy() == c for c in range(4)]).astype(float)
    loss = make("generalized_wasserstein_dice", "multiclass", distances=FAR)
    assert float(loss(z.double(), target)) == pytest.approx(wasserstein_dice(p, t, np.array(FAR)), rel=1e-11)


def test_smoothing_of_generalized_dice_counts_as_pixels_of_the_smallest_class(make):
    z, target = (x[:1] for x in scene("multiclass"))
    p, t = softmax(z[0].double().numpy(), 0), np.stack([target[0, 0].numpy() == c for c in range(4)]).astype(float)
    weight = (t.sum((1, 2)).min() / t.sum((1, 2))) ** 2
    error, total = (weight @ x.sum((1, 2)) for x in (np.abs(p - t), p + t))
    loss = make("generalized_dice", "multiclass", smooth=1.0)
    assert float(loss(z.double(), target)) == pytest.approx(error / (total + 1), rel=1e-11)


@pytest.mark.parametrize(("t1", "t2"), [(0.0, 4.0), (0.5, 2.0), (0.95, 1.05)])
@pytest.mark.parametrize("classes", [2, 30])
def test_other_temperatures_are_those_of_the_paper(make, t1, t2, classes):
    generator = torch.Generator().manual_seed(1)
    z = 5 * torch.randn(1, classes, 5, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(0, classes, (1, 1, 5, 5), generator=generator)
    t = np.stack([target[0, 0].numpy() == c for c in range(classes)]).astype(float)
    loss = type(make("bi_tempered"))(task="multiclass", t1=t1, t2=t2)
    assert float(loss(z, target)) == pytest.approx(bi_tempered(z[0].numpy(), t, t1, t2), rel=1e-9)


SOFT = [
    "gce",
    "sce",
    "t_loss",
    "bce",
    "focal",
    "asymmetric_focal",
    "class_weighted_ce",
    "label_smoothing",
    "dice",
    "squared_dice",
    "jml",
    "mcc",
]
SOFT += ["noise_robust_dice", "dice_plus_plus", "sensitivity_specificity", "iou", "generalized_dice", "unified_focal"]


@pytest.mark.parametrize("name", SOFT)
def test_soft_labels_are_mixtures(make, name, logits):
    t = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = logits[:1].double()
    value = TWO[name](expit(z[0, 0].numpy()), t[0, 0].numpy())
    assert float(make(name)(z, t)) == pytest.approx(value, rel=1e-11)


@pytest.mark.parametrize("name", ["bce", "focal", "poly1", "label_smoothing", "gce", "sce", "bi_tempered"])
def test_soft_labels_of_many_classes_are_mixtures_of_hard_ones(make, name):
    generator = torch.Generator().manual_seed(2)
    z, t = (torch.randn(1, 4, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    t, loss = t.softmax(1), make(name, "multiclass")
    hard = torch.cat(
        [
            loss(z[..., i, j, None, None], torch.full((1, 1, 1, 1), c))
            for c in range(4)
            for i in range(5)
            for j in range(5)
        ]
    )
    mixed = (hard.view(4, 5, 5) * t[0]).sum(0).mean()
    torch.testing.assert_close(loss(z, t)[0], mixed)


@pytest.mark.parametrize(
    "name", ["dice", "iou", "mcc", "squared_dice", "jml", "dice_plus_plus", "sensitivity_specificity"]
)
def test_soft_labels_of_many_classes_are_scored_class_by_class(make, name):
    generator = torch.Generator().manual_seed(2)
    z, t = (torch.randn(1, 4, 7, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    value = mean(REGION[name])(softmax(z[0].numpy(), 0), t.softmax(1)[0].numpy())
    assert float(make(name, "multiclass")(z, t.softmax(1))) == pytest.approx(value, rel=1e-11)


def test_balanced_ce_of_soft_labels_counts_a_class_of_less_than_a_pixel_as_the_others(make):
    generator = torch.Generator().manual_seed(2)
    z, t = torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64), torch.zeros(1, 3, 4, 4).double()
    t[:, 0], t[0, 1, 0, 0], t[0, 2, 3] = 1, 0.3, 0.01
    t[:, 0] -= t[:, 1:].sum(1)
    nll, share = -np.log(softmax(z[0].numpy(), 0)), t[0].numpy()
    value = np.mean([(s * n).sum() / s.sum() for s, n in zip(share, nll, strict=True)])
    loss = type(make("balanced_ce"))(task="multiclass")
    assert float(loss(z, t)) == pytest.approx(value, rel=1e-11)


@pytest.mark.parametrize("percent", [7, 14, 28, 55, 29, 57, 58])
def test_the_worst_pixels_are_counted_without_the_rounding_of_a_product(make, percent):
    z = torch.arange(100.0).view(1, 1, 10, 10)
    worst = np.logaddexp(0, np.arange(100.0 - percent, 100.0)).mean()
    assert float(make("topk", fraction=percent / 100)(z, torch.zeros_like(z))) == pytest.approx(worst, rel=1e-6)
