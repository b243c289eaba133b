from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from seglab.contract import ContractError
from seglab.data.augment import Strong
from seglab.data.dataset import decode_native
from seglab.data.datasets.folder import Folder
from seglab.data.module import DataModule
from seglab.data.patches import steps
from seglab.data.prepare_data import open_data
from seglab.data.prepared import Prepared, prepare

SHAPES = [(150, 90), (64, 64), (40, 200), (130, 131), (100, 100), (97, 65), (80, 150), (70, 70)]


@pytest.fixture
def raw(tmp_path):
    """Eight grey 16-bit images of several sizes; a small square of foreground in all but the last."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    for k, (height, width) in enumerate(SHAPES):
        mask = np.zeros((height, width), np.uint8)
        top, left = rng.integers(0, (height - 6, width - 6))
        mask[top : top + 6, left : left + 6] = 255 * (k < 7)
        image = rng.integers(0, 30000, (height, width)).astype(np.uint16) + 30000 * (mask > 0).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f"raw/images/{k}.png"), image)
        cv2.imwrite(str(tmp_path / f"raw/masks/{k}.png"), mask)
    return Folder(
        root=str(tmp_path / "raw"),
        size=32,
        fit="patch",
        channels=1,
        cache_dir=str(tmp_path / "cache"),
        test_fraction=0.25,
        val_fraction=0.2,
    )


def epoch(dataset, number=0, part="train", **options):
    module = DataModule(dataset, batch_size=4, **options)
    loader = module.loader(part)
    loader.batch_sampler.sampler.set_epoch(number)
    batches = list(loader)
    names = [name for batch in batches for name in batch["id"]]
    return names, torch.cat([b["image"] for b in batches]), torch.cat([b["target"] for b in batches])


@pytest.mark.parametrize(("fraction", "low", "high"), [(0.0, 0.0, 0.35), (0.5, 0.5, 0.75), (1.0, 1.0, 1.0)])
def test_the_chosen_share_of_patches_holds_foreground(raw, fraction, low, high):
    data = replace(raw, positive_fraction=fraction, patches_per_image=200)
    names, _, targets = epoch(data)
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


def test_epochs_draw_other_patches_and_workers_draw_the_same(raw):
    _, first, _ = epoch(raw, 0, augment=Strong())
    _, other, _ = epoch(raw, 1, augment=Strong())
    _, again, _ = epoch(raw, 0, augment=Strong(), workers=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_seed_epoch_and_index_each_decide_the_place_of_a_patch(raw):
    source = open_data(raw).source("train")

    def patches(seed, epoch, first):
        return source.cut([(epoch, (first + k) % len(source)) for k in range(len(source))], seed)[0]

    first = patches(1, 0, 0)
    np.testing.assert_array_equal(first, patches(1, 0, 0))
    for other in (patches(1, 1, 0), patches(2, 0, 0)):
        assert not (first == other).all((1, 2, 3)).any()
    twice = open_data(replace(raw, patches_per_image=2)).source("train")
    both = twice.cut([(0, 0), (0, 1)], 1)[0]
    assert not (both[0] == both[1]).all()


def test_the_tiles_own_pixels_are_each_pixel_of_the_image_once(raw):
    opened = open_data(raw)
    items = {item.id: item for item in opened.splits.test}
    left = {name: decode_native(item, raw)[1].astype(int) * 0 + 1 for name, item in items.items()}
    for batch in DataModule(raw, batch_size=4).loader("test"):
        for name, image, target, valid in zip(
            batch["id"], batch["image"], batch["target"], batch["valid"], strict=True
        ):
            rows, columns = (np.flatnonzero(valid[0].any(axis)) for axis in (1, 0))
            (top, bottom), (first, last) = ((line[0], line[-1] + 1) for line in (rows, columns))
            assert valid[0, top:bottom, first:last].all()
            assert 0 <= top < bottom <= raw.size
            assert 0 <= first < last <= raw.size
            row, column = (int(n) for n in np.argwhere(left[name])[0])  # the next that is nobody's yet
            mine = np.s_[row : row + bottom - top, column : column + last - first]
            truth = decode_native(items[name], raw)
            np.testing.assert_array_equal(image[0, top:bottom, first:last], truth[0][mine] >> 8)
            np.testing.assert_array_equal(target[0, top:bottom, first:last], truth[1][mine])
            left[name][mine] -= 1
    assert not any(rest.any() for rest in left.values())


@pytest.mark.parametrize(
    ("length", "places"),
    [
        (64, [(0, 0, 32), (32, 0, 32)]),
        (70, [(0, 0, 32), (32, 0, 32), (38, 26, 32)]),
        (20, [(0, 0, 20)]),
        (33, [(0, 0, 32), (1, 31, 32)]),
    ],
)
def test_squares_stay_inside_a_side_that_is_long_enough(length, places):
    assert steps(length, 32) == places


def test_16_bits_reach_the_batch_in_units_of_255(raw):
    _, images, _ = epoch(replace(raw, bits=16), part="test")
    _, eight, _ = epoch(raw, part="test")
    assert torch.equal((images * 257).round().long() >> 8, eight.long())


def test_index_and_id_say_which_image_a_patch_is_of(raw):
    module = DataModule(replace(raw, patches_per_image=3), batch_size=100)
    batch = next(iter(module.train_dataloader()))
    assert [module.splits.train[k].id for k in batch["index"]] == batch["id"]


def test_cache_no_cache_and_prepared_folder_give_the_same_numbers(raw, tmp_path):
    folder = tmp_path / "ready"
    prepare(raw.items(), raw, folder, "options")
    shared = {
        key: getattr(raw, key) for key in ("size", "fit", "channels", "test_fraction", "val_fraction", "cache_dir")
    }
    ready = Prepared(root=str(folder), **shared)
    for part in ("train", "val", "test"):
        names, images, targets = epoch(raw, part=part)
        for other in (replace(raw, cache_dir=None), ready):
            names2, images2, targets2 = epoch(other, part=part)
            assert names == names2
            assert torch.equal(images, images2)
            assert torch.equal(targets, targets2)


@pytest.mark.parametrize("knobs", [{"fit": "resize"}, {"fit": "pad", "coverage": 0.3}])
def test_a_prepared_folder_can_be_resized_too(raw, tmp_path, knobs):
    folder = tmp_path / "ready"
    prepare(raw.items(), raw, folder, "options")
    whole = replace(raw, **knobs)
    shared = {
        key: getattr(whole, key) for key in ("size", "fit", "channels", "coverage", "test_fraction", "val_fraction")
    }
    ready = Prepared(root=str(folder), cache_dir=str(tmp_path / "cache"), **shared)
    for a, b in zip(epoch(whole), epoch(ready), strict=True):
        assert a == b if isinstance(a, list) else torch.equal(a, b)
    assert open_data(whole).facts()["foreground"] == open_data(ready).facts()["foreground"]


def test_reducing_shrinks_before_cutting(raw):
    smaller = replace(raw, reduce=2, cache_dir=None)
    assert decode_native(raw.items()[0], smaller)[0].shape == (75, 45)
    cached = epoch(replace(raw, reduce=2))
    for a, b in zip(epoch(smaller), cached, strict=True):
        assert a == b if isinstance(a, list) else torch.equal(a, b)


def test_larger_patches_share_the_cache(raw):
    assert open_data(raw).fingerprint == open_data(replace(raw, size=64, channels=3)).fingerprint
    assert open_data(raw).fingerprint != open_data(replace(raw, reduce=2)).fingerprint


def test_scans_that_need_more_than_the_bound_are_cut_from_their_files(raw):
    small = replace(raw, cache_gb=1e-6, cache_dir=raw.cache_dir + "/small")
    for a, b in zip(epoch(raw), epoch(small), strict=True):
        assert a == b if isinstance(a, list) else torch.equal(a, b)
    assert "every image is decoded at every use" in open_data(small).warnings()[0]


def test_an_older_cache_makes_room_for_scans(raw):
    bound = replace(raw, cache_gb=4.5e-4)  # one of these takes 0.24 MB, as guessed from the first image 0.32
    marks = [open_data(replace(bound, threshold=k)).fingerprint for k in range(2)]
    assert [path.name for path in Path(raw.cache_dir).iterdir()] == marks[1:]


@pytest.mark.parametrize("cached", [True, False])
def test_an_unreadable_image_is_named_or_skipped(raw, cached):
    Path(raw.root, "images/3.png").write_bytes(b"no")
    data = raw if cached else replace(raw, cache_dir=None)
    with pytest.raises(ContractError, match=r"3\.png"):
        open_data(data)
    skipping = replace(data, on_bad_item="skip")
    assert set(open_data(skipping).skipped) == {"3"}
    assert set(open_data(skipping).skipped) == {"3"}
