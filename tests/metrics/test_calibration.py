"""The histogram gives the counts at every threshold, exactly those of `counts`, and the calibration."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seglab.metrics.counts import counts, decide, histogram


def batch(seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 1, 17, 23, generator=generator) * scale
    return logits, torch.rand(3, 1, 17, 23, generator=generator) < 0.3


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([1e-9, 1e-3, 1.0, 100.0]))
def test_the_upper_half_of_the_bins_is_what_counts_predicts(seed, scale):
    logits, target = batch(seed, scale)
    table, result = histogram(decide(logits, target)), counts(logits, target)
    halves = table.view(3, 2, 2, 128).sum(-1)
    found = halves[:, 1, 1], halves[:, 0, 1], halves[:, 1, 0], halves[:, 0, 0]
    assert all(map(torch.equal, found, (result.tp, result.fp, result.fn, result.tn)))


def test_the_table_is_that_of_numpy_for_each_image_and_class():
    logits, target = batch(1)
    table = histogram(decide(logits, target))
    for image in range(3):
        for row, wanted in enumerate((~target, target)):
            values = logits[image][wanted[image]].double().sigmoid()
            assert torch.equal(table[image, row], torch.histogram(values, 256, range=(0.0, 1.0)).hist.long())


def test_certain_logits_fall_in_the_outer_bins():
    table = histogram(decide(torch.tensor([-200.0, 200.0, -0.0]).view(1, 1, 1, 3), torch.ones(1, 1, 1, 3)))
    assert table[0, 1].nonzero().flatten().tolist() == [0, 128, 255]


def test_logits_of_any_precision_are_counted_whole():
    logits, target = batch(2)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        table = histogram(decide(logits.to(dtype), target))
        assert table.dtype == torch.int64
        assert table.sum((1, 2)).tolist() == [17 * 23] * 3
