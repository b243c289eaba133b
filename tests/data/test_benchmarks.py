import numpy as np

from seglab.benchmarks.data import looped, measure, pixels, ship
from seglab.data import rle


def test_both_ways_to_decode_runs_agree():
    mask = ship(np.random.default_rng(3))
    text = rle.encode(mask)
    np.testing.assert_array_equal(looped(text), mask)
    assert pixels([text, "", text], ["a", "b", "c"]) == 2 * mask.sum()


def test_every_line_of_the_table_has_its_measure():
    rows = measure(images=2, repeats=1, ships=40)
    names = {row.what.split(": ")[1] for row in rows}
    assert len(rows) == 11
    assert all(row.milliseconds >= 0 and row.beside in names for row in rows)
