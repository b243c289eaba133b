"""Binary values and gradients equal those of version 1, recorded before its losses were rewritten."""

import json
from pathlib import Path

import pytest
import torch

KEPT = json.loads(Path(__file__).with_name("version1.json").read_text())


def images(name, dtype=torch.float64):
    return torch.tensor(KEPT[name], dtype=dtype)[:, None]


@pytest.mark.parametrize("name", KEPT["losses"])
def test_value_and_gradient_are_those_of_version_1(make, name):
    for labels, kept in KEPT["losses"][name].items():
        for dtype in kept:
            compare(make(name), labels, dtype, kept[dtype])


def compare(loss, labels, dtype, kept):
    wide = getattr(torch, dtype)
    z = images("extreme" if labels == "extreme" else "moderate", wide).requires_grad_()
    target = images("soft", torch.float32) if labels == "soft" else images("mask", torch.uint8)
    maps = {need: torch.tensor(KEPT["maps"][need], dtype=wide)[:, None] for need in loss.needs}
    value = loss(z, target, **maps)
    near = 1e-6 if dtype == "float32" else 1e-7  # the record has nine digits
    assert value.tolist() == pytest.approx(kept["value"], rel=near, abs=1e-12)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    for image, (*pixels, total, size) in zip(gradient[:, 0].double(), kept["gradient"], strict=True):
        found = [float(image[row, column]) for row, column in KEPT["pixels"]]
        largest = float(image.abs().max())
        assert found == pytest.approx(pixels, abs=near * largest + 1e-15)
        assert float(image.sum()) == pytest.approx(total, abs=near * size + 1e-15)
        assert float(image.abs().sum()) == pytest.approx(size, rel=near, abs=1e-12)
