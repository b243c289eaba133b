import numpy as np
import pytest

from seglab.images.resize import crop, fit, resize, to_bits, to_channels, to_mask


def test_an_area_resize_keeps_the_mean_of_a_mask():
    fraction = (np.random.default_rng(0).random((96, 96)) < 0.1).astype(np.float32)
    small = fit(fraction, 24, "resize")
    np.testing.assert_allclose(small, fraction.reshape(24, 4, 24, 4).mean((1, 3)), atol=1e-6)


@pytest.mark.parametrize("shape", [(50, 1000), (1000, 50), (10, 700), (63, 65)])
def test_where_one_side_shrinks_and_the_other_grows_no_line_is_lost(shape):
    along = int(shape[0] < shape[1])
    for place in range(0, max(shape), 7):
        fraction = np.zeros(shape, np.float32)
        fraction[(slice(None),) * along + (place,)] = 1
        found = fit(fraction, 64, "resize")
        np.testing.assert_allclose(found.mean(), 1 / max(shape), rtol=1e-4)


def test_a_thin_ship_survives_a_low_coverage_wherever_it_lies():
    for top, left in np.ndindex(3, 3):
        fraction = np.zeros((48, 48), np.float32)
        fraction[30 + top : 32 + top, 30 + left : 36 + left] = 1
        assert to_mask(fit(fraction, 16, "resize"), 0.3).any()


def test_coverage_is_the_fraction_at_which_a_pixel_becomes_foreground():
    assert to_mask(np.array([[0.5, 0]]), 0.5).tolist() == [[1, 0]]
    assert to_mask(np.array([[0.5, 0]]), 0.51).tolist() == [[0, 0]]


@pytest.mark.parametrize("bands", [2, 5, 8, 13])
def test_any_number_of_bands_is_resized_band_by_band(bands):
    image = np.random.default_rng(0).integers(0, 65535, (50, 60, bands), np.uint16)
    for side in (24, 70):
        expected = np.stack([resize(image[..., k], side, side) for k in range(bands)], axis=-1)
        np.testing.assert_allclose(resize(image, side, side), expected, atol=1)  # rounding differs


def test_padding_keeps_proportions_and_centers():
    out = fit(np.full((40, 20), 7, np.uint8), 40, "pad")
    assert out.tolist() == [[0] * 10 + [7] * 20 + [0] * 10] * 40


def test_bits_go_from_full_range_to_full_range():
    assert to_bits(np.array([0, 255, 256, 65535], np.uint16), 8).tolist() == [0, 0, 1, 255]
    assert to_bits(np.array([0, 1, 255], np.uint8), 16).tolist() == [0, 257, 65535]
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_bits(to_bits(every, 16), 8), every)


def test_a_crop_beyond_the_edge_is_black():
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    assert crop(image, 1, 2, 2, 2).tolist() == [[7, 8], [11, 12]]
    assert crop(image, 2, 3, 3, 3).tolist() == [[12, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_gray_is_repeated_and_color_is_weighed():
    assert to_channels(np.full((2, 2), 9, np.uint8), 3).tolist() == [[[9] * 3] * 2] * 2
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    assert to_channels(red, 1).tolist() == [[[76]]]  # 0.299 of 255
