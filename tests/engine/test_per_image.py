"""The rows of a run are correct and average to the metrics, and the right example images are chosen."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import torch

from seglab.contract import Task
from seglab.data.facts import spread, spread_objects
from seglab.engine.per_image import ImageTable, extremes, means, tile_with_most_foreground


def scene(seed, side=8):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 1, side, side, generator=generator)
    return logits, (torch.rand(1, 1, side, side, generator=generator) > 0.7).to(torch.uint8)


def test_a_row_holds_the_textbook_scores_in_the_order_of_the_images():
    table = ImageTable({"a": "p", "b": "q"}, 0.5, "correct")
    for name, seed in (("b", 1), ("a", 2)):
        table.add(torch.tensor([0.1]), *scene(seed), [name])
    rows = table.table()
    assert list(rows["id"]) == ["b", "a"]
    assert list(rows["group"]) == ["q", "p"]
    logits, target = (part.numpy().squeeze() for part in scene(2))
    found, true = logits >= 0, target == 1
    row = rows.iloc[1]
    assert row["tp"] == (found & true).sum()
    assert row["foreground"] == true.sum()
    assert row["iou"] == pytest.approx((found & true).sum() / (found | true).sum())
    assert row["foreground_confidence"] == pytest.approx((1 / (1 + np.exp(-logits)))[true].mean(), rel=1e-6)
    assert row["hd95"] > 0
    assert row["objects"] == scipy.ndimage.label(true, np.ones((3, 3)))[1]


def test_objects_that_the_dataset_tells_apart_are_found_one_by_one():
    target = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    target[..., 1:3, 1:7] = 1  # two touching ships of 2 x 3 and a separate one of 2 x 2
    target[..., 5:7, 5:7] = 1
    numbers = np.zeros((8, 8), np.int32)
    numbers[:3, 1:4], numbers[1:3, 4:7], numbers[5:7, 5:7], numbers[0, 7] = 4, 2, 9, 7  # row 0 is background
    logits = target.float() * 20 - 10
    logits[..., 1:3, 4:7] = -10  # one of the two is not predicted
    rows = []
    for objects in ({}, {"a": lambda: numbers}):
        table = ImageTable({"a": "p"}, 0.5, "correct", objects=objects)
        table.add(torch.tensor([0.1]), logits, target, ["a"])
        rows.append(table.table().iloc[0])
    assert [row["objects"] for row in rows] == [2, 3]
    assert [row["objects_found"] for row in rows] == [1, 2]  # IoU of half the pair: not above 1/2
    assert rows[1]["object_f2"] == pytest.approx(5 * 2 / (4 * 3 + 2))


def test_confusions_are_added_and_histograms_take_four_bytes_a_bin():
    task = Task("multiclass", ("a", "b", "c"))
    table = ImageTable({"x": "p", "y": "p"}, 0.5, "correct", outlines=False, task=task)
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 1, 8, 8))
    for k, name in enumerate("xy"):
        table.add(torch.tensor([0.1]), logits[k : k + 1], target[k : k + 1], [name])
    expected = torch.zeros(3, 3, dtype=torch.int64)
    expected.index_put_((target.flatten(), logits.argmax(1).flatten()), torch.tensor(1), accumulate=True)
    np.testing.assert_array_equal(table.arrays("test")["test_confusion"], expected.numpy())
    assert {record.histogram.dtype for record in table.records} == {np.dtype("int32")}


class Tiles:
    """Samples of two images, the second with three tiles."""

    targets = ([5], [0, 0, 3], [1, 1, 0], [1, 0, 0])
    source = SimpleNamespace(number=lambda index: min(index, 1))

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, pairs):
        return {"target": torch.tensor(self.targets[pairs[0][1]], dtype=torch.uint8)}


def test_the_tile_with_the_most_foreground_is_that_with_the_most_pixels_whatever_their_class():
    assert [tile_with_most_foreground(Tiles(), number) for number in (0, 1)] == [0, 2]


def test_the_background_that_is_not_scored_has_neither_objects_nor_distances():
    task = Task("multiclass", ("other", "house", "water"))
    target = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    target[..., :4, :4], target[..., 6:, 6:] = 1, 2
    logits = 9.0 * (target == torch.arange(3).view(1, 3, 1, 1))
    table = ImageTable({"a": "p"}, 0.5, "correct", task=task)
    table.add(torch.tensor([0.1]), logits, target, ["a"])
    rows, found = table.table(), means(table.table(), task)
    assert list(rows["class"]) == list(task.classes)
    assert rows["objects"].tolist()[1:] == [1, 1]
    of_shapes = {key for key in found if key.startswith(("objects/", "hd95/"))}
    assert of_shapes == {"objects/house", "objects/water", "hd95/house", "hd95/water"}
    assert found["iou/other"] == found["objects"] == found["object_recall"] == 1


def test_the_best_median_and_worst_are_found_and_undefined_scores_left_out():
    scores = pd.Series([0.5, np.nan, 0.9, 0.1, 0.7, 0.3])
    assert extremes(scores, 1) == {2: "best", 0: "median", 3: "worst"}
    assert extremes(pd.Series([np.nan])) == {}
    assert extremes(pd.Series([0.1, 0.9])) == {1: "best", 0: "worst"}
    assert spread([5, 1, 4, 2, 3], 3) == [1, 4, 0]
    assert spread([5, 1], 9) == [1, 0]
    assert spread_objects([0, 5, 0, 1, 4, 0], 3) == [3, 4, 1]
    assert spread_objects([0, 0], 3) == [0, 1]
