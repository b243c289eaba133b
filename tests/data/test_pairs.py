"""Pairs in memory are written to a folder once."""

import os
from pathlib import Path

import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data.pairs import write_pairs


def pairs():
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (3, 8, 9, 3), np.uint8)), list(rng.integers(0, 2, (3, 8, 9)))


def test_the_same_pairs_make_one_folder(tmp_path):
    first = write_pairs(*pairs(), None, tmp_path)
    assert write_pairs(*pairs(), None, tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert len(list((first / "images").iterdir())) == 3


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, monkeypatch):
    def refuse(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        write_pairs(*pairs(), None, tmp_path)
    assert not os.listdir(tmp_path)


def test_counts_shapes_and_types_that_do_not_fit_are_one_sentence(tmp_path):
    images, masks = pairs()
    for changed, words in (
        ((images, masks[:2]), r"a mask and a group for each image, got 3 images, 2 masks and 3 groups"),
        (([image / 255 for image in images], masks), r"image 0 as \(h, w\) or .*, got \(8, 9, 3\) float64"),
        ((images, [mask[1:] for mask in masks]), r"a mask of shape \(8, 9\) for image 0, got \(7, 9\)"),
    ):
        with pytest.raises(ContractError, match=words):
            write_pairs(*changed, None, tmp_path)
