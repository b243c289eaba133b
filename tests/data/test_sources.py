"""Samples of a split: patches drawn from large images, tiles that cover them, equal from every kind of storage."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from seglab.data.datasets.folder import Folder
from seglab.data.datasets.prepared import Prepared
from seglab.data.decode import decode_native
from seglab.data.module import DataModule
from seglab.data.prepare_data import open_data
from seglab.data.sources import steps
from seglab.data.store import build
from tests.data.fabricate import write_pairs

SHAPES = [(150, 90), (64, 64), (40, 200), (130, 131), (100, 100), (97, 65), (80, 150), (70, 70)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Eight gray 16-bit images of several sizes, with a small square of foreground in all but the last."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("raw")
    masks = [np.zeros(shape, np.uint8) for shape in SHAPES]
    for mask in masks[:7]:
        top, left = rng.integers(0, np.array(mask.shape) - 6)
        mask[top : top + 6, left : left + 6] = 1
    images = [rng.integers(0, 30000, mask.shape).astype(np.uint16) + np.uint16(30000) * mask for mask in masks]
    options = {"fit": "patch", "channels": 1, "test_fraction": 0.25, "val_fraction": 0.2}
    return Folder(root=str(write_pairs(root, images, masks)), size=32, cache_dir=str(root / "cache"), **options)


def epoch(dataset, split="train"):
    batches = list(DataModule(dataset, batch_size=4).loader(split))
    names = [name for batch in batches for name in batch["id"]]
    return names, torch.cat([b["image"] for b in batches]), torch.cat([b["target"] for b in batches])


@pytest.mark.parametrize(("fraction", "low", "high"), [(0.0, 0.0, 0.35), (0.5, 0.5, 0.75), (1.0, 1.0, 1.0)])
def test_the_chosen_fraction_of_patches_holds_foreground(raw, fraction, low, high):
    names, _, targets = epoch(replace(raw, positive_fraction=fraction, patches_per_image=200))
    positive = targets.flatten(1).any(1).float()
    with_foreground = torch.tensor([name != "7" for name in names])
    assert low <= positive[with_foreground].mean() <= high
    assert not positive[~with_foreground].any()


def test_patches_are_cut_from_the_image_and_its_mask_at_one_place(raw):
    names, images, targets = epoch(replace(raw, bits=16, patches_per_image=5, positive_fraction=1.0))
    assert images.dtype == torch.float32
    assert images.max() <= 255
    for image, target in zip(images, targets, strict=True):
        inside = image[target > 0]
        assert not len(inside) or inside.min() >= 30000 / 257 > image[target == 0].max() - 1
    assert len(names) == 5 * len(set(names))


def test_seed_epoch_and_index_each_decide_the_place_of_a_patch(raw):
    source = open_data(raw).source("train")

    def patches(seed, epoch):
        return source.batch([(epoch, k) for k in range(len(source))], seed)[0]

    np.testing.assert_array_equal(patches(1, 0), patches(1, 0))
    for other in (patches(1, 1), patches(2, 0)):
        assert not (patches(1, 0) == other).all((1, 2, 3)).any()
    both = open_data(replace(raw, patches_per_image=2)).source("train").batch([(0, 0), (0, 1)], 1)[0]
    assert not (both[0] == both[1]).all()


def test_the_tiles_own_pixels_are_each_pixel_of_the_image_once(raw):
    items = {item.id: item for item in open_data(raw).splits.test}
    left = {name: np.ones(decode_native(item, raw)[1].shape, int) for name, item in items.items()}
    for batch in DataModule(raw, batch_size=4).loader("test"):
        for k, name in enumerate(batch["id"]):
            image, target, valid = (batch[key][k, 0] for key in ("image", "target", "valid"))
            (top, bottom), (first, last) = ((np.flatnonzero(valid.any(axis))[[0, -1]] + [0, 1]) for axis in (1, 0))
            assert valid.sum() == (bottom - top) * (last - first)
            assert 0 <= top < bottom <= raw.size
            assert 0 <= first < last <= raw.size
            row, column = (int(n) for n in np.argwhere(left[name])[0])  # the first pixel not yet covered
            mine = np.s_[row : row + bottom - top, column : column + last - first]
            truth = decode_native(items[name], raw)
            np.testing.assert_array_equal(image[top:bottom, first:last], truth[0][mine] >> 8)
            np.testing.assert_array_equal(target[top:bottom, first:last], truth[1][mine])
            left[name][mine] -= 1
    assert not any(rest.any() for rest in left.values())


def test_squares_stay_inside_a_side_that_is_long_enough():
    assert steps(64, 32) == [(0, slice(0, 32)), (32, slice(0, 32))]
    assert steps(70, 32) == [(0, slice(0, 32)), (32, slice(0, 32)), (38, slice(26, 32))]
    assert steps(20, 32) == [(0, slice(0, 20))]


@pytest.mark.parametrize(
    "options",
    [{"fit": "patch"}, {"fit": "patch", "reduce": 2}, {"fit": "resize"}, {"fit": "pad", "coverage": 0.3, "soft": True}],
)
def test_cache_no_cache_and_prepared_folder_give_the_same_numbers(raw, tmp_path, options):
    raw = replace(raw, **options)
    build(raw.items(), replace(raw, fit="patch", reduce=1), tmp_path / "ready", complete=True)
    shared = ("size", "fit", "reduce", "channels", "coverage", "soft", "test_fraction", "val_fraction")
    ready = Prepared(root=str(tmp_path / "ready"), cache_dir=None, **{name: getattr(raw, name) for name in shared})
    cached = replace(ready, cache_dir=str(tmp_path / "cache"))
    for split in ("train", "val", "test"):
        for other in (replace(raw, cache_dir=None), ready, cached):
            for one, same in zip(epoch(raw, split), epoch(other, split), strict=True):
                assert one == same if isinstance(one, list) else torch.equal(one, same)
            assert open_data(raw).facts()["foreground"] == open_data(other).facts()["foreground"]
