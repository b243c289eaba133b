import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, label

from seglab.contract import ContractError
from seglab.data.distance_maps import FAR, MAPS, cells, components, distance, gap, inverse_size, skeleton, thinned


@pytest.fixture
def blobs():
    rng = np.random.default_rng(4)
    mask = np.zeros((60, 70), np.uint8)
    for _ in range(5):
        y, x = rng.integers(5, 50, 2)
        mask[y : y + rng.integers(2, 9), x : x + rng.integers(2, 9)] = 1
    return mask


def test_distance_agrees_with_scipy(blobs):
    expected = np.where(blobs, 1 - distance_transform_edt(blobs), distance_transform_edt(1 - blobs))
    np.testing.assert_allclose(distance(blobs), expected, atol=1e-4)
    assert distance(np.array([[0, 0, 1, 1, 1, 0]], np.uint8)).tolist() == [[2, 1, 0, -1, 0, 1]]


def test_maps_of_a_mask_without_two_sides_or_two_objects():
    empty, one = np.zeros((2, 8, 8), np.uint8)
    one[2:4, 2:4] = 1
    assert not any(made.any() for made in (distance(empty), distance(1 - empty), cells(empty), components(empty)))
    assert (gap(one) == FAR).all()
    assert (gap(empty) == FAR).all()
    assert (inverse_size(empty) == 1).all()


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_made_of_a_plane(name):
    for mask, got in (
        (np.ones(5), r"ndarray \(5,\)"),
        (np.ones((3, 4, 5)), r"ndarray \(3, 4, 5\)"),
        (torch.ones(4, 5), r"Tensor \(4, 5\)"),
    ):
        with pytest.raises(ContractError, match=rf"maps: expected the mask .* \(h, w\), got {got}; pass mask.numpy"):
            MAPS[name](mask)
    assert MAPS[name](np.ones((4, 5), bool)).shape == (4, 5)


def test_gap_is_the_sum_of_the_two_smallest_distances(blobs):
    labels, count = label(blobs, np.ones((3, 3)))
    away = np.sort([distance_transform_edt(labels != k) for k in range(1, count + 1)], axis=0)
    np.testing.assert_allclose(gap(blobs), away[0] + away[1], atol=1e-4)


def test_a_cell_has_the_pixels_that_no_other_object_is_nearer_to(blobs):
    labels, count = label(blobs, np.ones((3, 3)))
    away = np.stack([distance_transform_edt(labels != k) for k in range(1, count + 1)])
    found, numbers = cells(blobs), components(blobs)
    assert set(np.unique(found)) == set(range(1, count + 1))
    for k in range(1, count + 1):
        mine = int(labels[numbers == k][0])
        assert ((found == k) <= (away[mine - 1] == away.min(0))).all()
        assert (found[labels == mine] == k).all()


def test_a_smaller_object_weighs_more_and_the_background_1():
    mask = np.zeros((10, 10), np.uint8)
    mask[0, 0], mask[4:6, 4:6] = 1, 1  # components of 1, 4 and 95 pixels: the mean is 100 / 3
    weights = inverse_size(mask)
    assert weights[0, 0] == pytest.approx(100 / 3)
    assert weights[5, 5] == pytest.approx(100 / 12)
    assert weights[9, 9] == 1
    assert (inverse_size(1 - mask) == 1).all()  # also for a background smaller than the mean


PLACE = [
    "..........................",
    ".#############............",
    ".#############....####....",
    ".#####.#######....####....",
    ".#############....####....",
    ".#############....####....",
    ".#############....####....",
    "..................####....",
    "..................####....",
    "..##......############....",
    "..##......############....",
    "..........############....",
    "..........................",
]
"""A mask of a bar with a hole, a ship of 2 x 2 pixels and a corner."""

LINES = [
    "..........................",
    "..........................",
    "......#...................",
    ".....#.#..................",
    "...########........#......",
    "...................#......",
    "...................#......",
    "...................#......",
    "...................#......",
    "...................#......",
    "..#........########.......",
    "..........................",
    "..........................",
]
"""The result of `skimage.morphology.thin` of scikit-image 0.26 for this mask."""


def test_lines_are_those_of_scikit_image():
    mask = np.array([[int(c == "#") for c in row] for row in PLACE])
    assert ["".join(".#"[pixel] for pixel in row) for row in thinned(mask).astype(int)] == LINES


def test_lines_have_the_pieces_and_holes_of_the_mask():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((40, 40), np.uint8)
        for y, x, height, width in rng.integers((0, 0, 1, 1), (36, 36, 9, 9), (12, 4)):
            mask[y : y + height, x : x + width] = 1
        lines = thinned(mask)
        assert (lines <= (mask > 0)).all()
        for one, connected in ((lines, np.ones((3, 3))), (~np.pad(lines, 1), None)):
            other = mask > 0 if connected is not None else ~np.pad(mask > 0, 1)
            assert label(one, connected)[1] == label(other, connected)[1]


def test_a_skeleton_is_what_of_a_mask_is_two_pixels_from_its_lines():
    mask = np.zeros((20, 40), np.uint8)
    mask[4:15, 3:37] = 1  # 11 pixels high: the line is row 9, and rows 7 to 11 are near it
    tube = skeleton(mask)
    assert tube[:, 12:28].sum(1).tolist() == [0] * 7 + [16] * 5 + [0] * 8
    assert (tube <= mask).all()
    assert not skeleton(0 * mask).any()
