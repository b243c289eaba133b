"""Distances between outlines agree with MONAI, with brute force and with distances by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from seglab.contract import ContractError
from seglab.metrics.objects import surface_distances


def box(size, top, left, height, width):
    mask = np.zeros((size, size), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def blob(seed, size=40):
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((size, size)), 4)
    return noise > np.quantile(noise, 0.8)


def by_brute_force(pred, true):
    def edge(mask):
        wide = np.pad(mask, 1)
        points = [
            p for p in np.argwhere(wide) if not all(wide[tuple(p + s)] for s in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        ]
        return np.array(points, float)

    away = np.linalg.norm(edge(pred)[:, None] - edge(true)[None], axis=-1)
    there, back = away.min(1), away.min(0)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    near = sum(d <= 1 for d in there) + sum(d <= 1 for d in back)
    return hd95, float(np.concatenate([there, back]).mean()), near / (len(there) + len(back))


def test_a_box_moved_by_three_pixels_and_two_lone_pixels_lie_as_far_apart_as_a_ruler_says():
    assert surface_distances(box(32, 8, 8, 10, 10), box(32, 8, 11, 10, 10)).hd95 == 3.0
    assert surface_distances(box(16, 2, 2, 1, 1), box(16, 5, 6, 1, 1), tolerance=5) == (5.0, 5.0, 1.0)
    assert surface_distances(blob(0), blob(0).astype(np.float32)) == (0.0, 0.0, 1.0)
    with pytest.raises(ContractError, match=r"two masks of the same shape \(h,w\), got "):
        surface_distances(np.ones((4, 4)), np.ones((4, 5)))


@pytest.mark.parametrize(("pair", "nsd"), [((0, 1), 0.0), ((1, 0), 0.0), ((0, 0), math.nan)])
def test_an_empty_mask_has_no_distance_and_no_outline_in_common(pair, nsd):
    masks = [box(8, 2, 2, 3 * full, 3 * full) for full in pair]
    assert surface_distances(*masks) == pytest.approx((math.nan, math.nan, nsd), nan_ok=True)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_distances_are_those_of_brute_force_in_either_order(one, other):
    pred, true = blob(one, 24), blob(other, 24)
    assert surface_distances(pred, true) == pytest.approx(by_brute_force(pred, true), abs=1e-9)
    assert surface_distances(true, pred) == pytest.approx(surface_distances(pred, true), abs=1e-9)


@pytest.mark.filterwarnings("ignore::FutureWarning:monai")  # MONAI calls its own deprecated argument
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # other packages do so on import
@pytest.mark.parametrize("seed", range(2))
def test_hd95_and_asd_are_monais(seed):
    monai = pytest.importorskip("monai.metrics")
    pred, true = blob(seed), blob(seed + 100)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (pred, true)]
    hd95 = monai.compute_hausdorff_distance(*tensors, percentile=95).item()
    asd = monai.compute_average_surface_distance(*tensors, symmetric=True).item()
    nsd = monai.compute_surface_dice(*tensors, class_thresholds=[1.0], include_background=True).item()
    assert surface_distances(pred, true) == pytest.approx((hd95, asd, nsd), abs=1e-4)
