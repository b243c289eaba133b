import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglab.contract import ContractError
from seglab.data import rle
from tests.data.fabricate import run_lengths


def read(text, shape):
    runs = rle.parse([text], ["mask"])
    rle.check(runs, shape, "mask")
    return rle.paint(runs, shape)


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_any_mask_is_read_from_its_runs(height, width, fraction, seed):
    mask = (np.random.default_rng(seed).random((height, width)) < fraction).astype(np.uint8)
    np.testing.assert_array_equal(read(run_lengths(mask), (height, width)), mask)


def test_runs_go_down_the_columns_from_1():
    mask = np.zeros((3, 4), np.uint8)
    mask[1:, 0], mask[0, 1], mask[2, 3] = 1, 1, 1
    np.testing.assert_array_equal(read("2 3 12 1", (3, 4)), mask)
    assert not read("", (4, 4)).any()


def test_each_object_keeps_its_number():
    runs = rle.parse(["1 2", "5 1 8 1", "11 2"], ["a", "b", "c"])
    assert rle.instances(runs, (3, 4)).T.reshape(-1).tolist() == [1, 1, 0, 0, 2, 0, 0, 2, 0, 0, 3, 3]
    later = runs.slice(1, 4)  # without the first object the numbers begin at 1 again
    assert rle.instances(later, (3, 4)).T.reshape(-1).tolist() == [0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 2, 2]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 2 3", "pairs of start and length, got 3 numbers"),
        ("1 two", "whole numbers"),
        ("15 3", "runs within 1 to 16, got 15 to 17"),
        ("1 3 3 1", "runs that do not overlap, got 1 overlaps"),
        ("5 1 1 0", "lengths above 0"),
    ],
)
def test_malformed_runs_are_one_sentence(text, sentence):
    with pytest.raises(ContractError, match=f"runs of mask: expected .*{sentence}"):
        read(text, (4, 4))


def test_the_malformed_row_of_a_table_is_named():
    with pytest.raises(ContractError, match="runs of odd"):
        rle.parse(["1 2", "1"], ["good", "odd"])
