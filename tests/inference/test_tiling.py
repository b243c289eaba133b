"""Blended tiles give the prediction for the whole image, as far as the receptive field stays within the tiles."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seglab.data import memo
from seglab.inference.tiling import origins, slide, weights


def whole(look, image, window, overlap=0.5, batch=4):
    return np.concatenate(list(slide(look, image, window, overlap, batch)))


def red(tiles):
    return tiles[..., 0].astype(np.float32)


def test_an_image_that_takes_long_says_how_far_it_is(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(memo, "LINE_SECONDS", -1.0)
    whole(red, np.zeros((64, 32, 3), np.uint8), 32, overlap=0)
    assert caplog.messages == ["rows of tiles: 0 of 2", "rows of tiles: 1 of 2"]


@settings(max_examples=30)
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([16, 20, 32, 33, 64]), st.floats(0, 0.75))
def test_a_model_that_looks_at_one_pixel_gives_the_image_itself(height, width, window, overlap):
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    np.testing.assert_allclose(whole(red, image, window, overlap), image[..., 0], rtol=1e-5)


@given(st.integers(1, 5000), st.sampled_from([16, 48, 100, 128, 512]), st.floats(0, 0.75))
def test_tiles_cover_a_side_and_share_what_was_asked(length, window, overlap):
    starts = origins(length, window, overlap)
    grid = np.gcd(window, 32)
    assert starts[0] == 0
    assert starts[-1] + window == max(length, window)  # no tile crosses the edge
    assert all(start % grid == 0 for start in starts[:-1])
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (window - steps >= min(int(window * overlap), window - grid)).all()


def test_weights_add_up_to_one_and_leave_the_inner_edges_out():
    starts = origins(1000, 128, 0.5)
    table = weights(starts, 128, 0.5)
    total = np.zeros(starts[-1] + 128)
    for start, row in zip(starts, table, strict=True):
        total[start : start + 128] += row
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert (table[1:, :16] == 0).all()
    assert (table[:-1, -16:] == 0).all()
    assert (table[0, :16] > 0).all()


def blur(reach):
    """Return a convolution that reaches `reach` pixels far, with the zero padding of networks."""
    conv = nn.Conv2d(1, 1, 2 * reach + 1, padding=reach, bias=False)
    nn.init.uniform_(conv.weight, 0, 0.01)

    def look(tiles):
        with torch.no_grad():
            return conv(torch.from_numpy(tiles).float().permute(0, 3, 1, 2))[:, 0].numpy()

    return look


@pytest.mark.parametrize("shape", [(150, 230), (64, 64), (65, 300)])
def test_a_model_that_looks_no_further_than_a_quarter_of_the_overlap_does_not_notice_the_tiles(shape):
    image = np.random.default_rng(1).integers(0, 255, (*shape, 1), np.uint8)
    look = blur(8)  # window 64, overlap 32
    expected = look(image[None])[0]
    np.testing.assert_allclose(whole(look, image, 64), expected, rtol=1e-4)
    far = np.abs(whole(blur(20), image, 64) - whole(blur(20), image, 64, 0.0)).max()
    assert far > 1e-3  # a model that reaches further does


def test_memory_grows_with_the_width_and_not_with_the_height():
    def peak(height):
        image = np.zeros((height, 600, 1), np.uint8)
        tracemalloc.start()
        for _ in slide(red, image, 128):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(6000) < 1.1 * peak(600)
    assert peak(600) < 128 * 640 * 4 * 4 + 128 * 128 * 4 * 12  # a few bands and a few tiles


def test_no_tile_has_black_beside_the_image_unless_the_image_is_smaller_than_in_training():
    seen = []

    def look(tiles):
        seen.append((tiles.shape[1:3], bool(tiles.all())))
        return red(tiles)

    for least in (1, 64, 128):
        assert np.concatenate(list(slide(look, np.ones((50, 70, 1), np.uint8), 128, least=least))).all()
    assert list(dict.fromkeys(seen)) == [((32, 64), True), ((64, 64), False), ((128, 128), False)]
    seen.clear()
    for length in (300, 333, 65):
        list(slide(look, np.ones((length, 301, 1), np.uint8), 64))
    assert set(seen) == {((64, 64), True)}
