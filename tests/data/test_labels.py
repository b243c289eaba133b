"""Several classes and ignored pixels, from the file to the batch."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from seglab.contract import ContractError, Task
from seglab.data.datasets.folder import Folder
from seglab.data.decode import decode_item, view, view_mask
from seglab.data.module import DataModule
from seglab.data.prepare_data import open_data
from seglab.images.labels import Seen
from seglab.images.masks import read_classes, read_mask
from tests.data.fabricate import save_palette, write_image

VALUES = (("background", (0,)), ("gland", (64, 128)), ("pectoral", (255,)))
COLORS = (("background", ("#000000",)), ("gland", ("#ff0000", "#00ff00")), ("pectoral", ("#0000ff",)))


def labels():
    """Return a label map (30, 40) with blocks of 64, 128 and 255."""
    mask = np.zeros((30, 40), np.uint8)
    mask[2:12, 2:12], mask[2:12, 20:30], mask[20:28, 5:35] = 64, 128, 255
    return mask


def class_numbers():
    return np.select([labels() == 255, labels() > 0], [2, 1], 0)


def write_tree(root, count=12, shape=(30, 40)):
    rng = np.random.default_rng(0)
    for k in range(count):
        write_image(root / f"images/{k}.png", rng.integers(0, 256, (*shape, 3), np.uint8))
        write_image(root / f"masks/{k}.png", cv2.resize(labels(), shape[::-1], interpolation=cv2.INTER_NEAREST))
    return root


def folder(root, **options):
    classes = {"background": 0, "gland": [64, 128], "pectoral": 255}
    return Folder(root=str(root), **{"size": 32, "cache_dir": None, "classes": classes, **options})


def test_classes_are_values_colors_or_indices_of_a_palette(tmp_path):
    gray = write_image(tmp_path / "gray.png", labels())
    np.testing.assert_array_equal(read_classes(gray, VALUES), class_numbers())
    rgb = np.zeros((*labels().shape, 3), np.uint8)
    rgb[labels() == 64], rgb[labels() == 128], rgb[labels() == 255] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_classes(str(tmp_path / "rgb.png"), COLORS), class_numbers())
    save_palette(tmp_path / "voc.png", np.where(labels() == 255, 3, class_numbers()).astype(np.uint8))
    found = read_classes(str(tmp_path / "voc.png"), (("background", (0,)), ("gland", (1,))), ignore=3)
    np.testing.assert_array_equal(found, np.where(labels() == 255, 255, class_numbers()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": {"background": 0, "gland": 64}}, r"values listed in dataset.classes, got 128 \(100 pixels\), 255"),
        ({"classes": {"background": 0}}, "classes to give each name a value, a color or a list"),
        ({"ignore": 255}, "values in classes that are not in ignore, got 255"),
        ({"soft": True}, "classes without mask_value, threshold, soft or several"),
        ({"classes": None, "masks": {"a": "m"}, "test_masks": {"b": "m"}, "test_images": "i"}, "the same classes in"),
    ],
)
def test_classes_that_do_not_fit_are_one_sentence(tmp_path, options, words):
    with pytest.raises(ContractError, match=words):
        open_data(folder(write_tree(tmp_path), **options))


def test_a_resized_class_has_a_pixel_where_it_is_the_largest_of_those_that_cover_half(tmp_path):
    data = folder(write_tree(tmp_path, shape=(64, 64)))
    seen = decode_item(data.items()[0], data)
    stored = data.items()[0].mask()
    maps = [(stored == k).astype(np.float32) for k in (1, 2)]
    shares = np.stack([cv2.resize(one, (32, 32), interpolation=cv2.INTER_AREA) for one in maps])
    expected = np.where(shares.sum(0) >= 0.5, 1 + shares.argmax(0), 0)
    np.testing.assert_array_equal(seen.mask, expected)
    assert seen.valid is None
    tiny = np.zeros((64, 64), np.uint8)
    tiny[5, 5] = 255
    write_image(tmp_path / "masks/0.png", tiny)
    assert (decode_item(data.items()[0], data).mask == 2).sum() == 1


def test_masks_of_several_folders_may_overlap(tmp_path):
    root = write_tree(tmp_path)
    for k in range(12):
        write_image(root / f"cups/{k}.png", (labels() == 64).astype(np.uint8) * 255)
    data = folder(root, classes=None, masks={"disc": "masks", "cup": "cups"}, fit="patch", size=16)
    assert data.task == Task("multilabel", ("disc", "cup"))
    mask = data.items()[0].mask()
    assert mask.shape == (30, 40, 2)
    assert (mask[..., 0] >= mask[..., 1]).all()
    batch = DataModule(data, needs=("distance",)).samples("test")[[(0, 0)]]
    assert batch["target"].shape == batch["distance"].shape == (1, 2, 16, 16)
    (root / "cups/3.png").unlink()
    with pytest.raises(ContractError, match="1 of 12 images without a mask"):
        data.items()


def test_ignored_pixels_count_nowhere(tmp_path):
    root = write_tree(tmp_path)
    data = folder(root, classes={"background": 0, "gland": [64, 128]}, ignore=255, size=40, fit="pad")
    seen = decode_item(data.items()[0], data)
    band = slice(5, 35)
    np.testing.assert_array_equal(seen.valid[band], labels() != 255)
    assert not seen.valid[:5].any()  # the padding
    assert not seen.valid[35:].any()
    assert not seen.mask[~seen.valid].any()
    opened = open_data(data)
    gland, counted = (labels() > 0).sum() - (labels() == 255).sum(), (labels() != 255).sum()
    np.testing.assert_allclose(opened.facts()["class_frequency"], [1 - gland / counted, gland / counted])
    write_image(root / "masks/4.png", np.full((30, 40), 255, np.uint8))
    with pytest.raises(ContractError, match="image 4: expected a pixel with data and a label, got none"):
        open_data(data)
    binary = read_mask(write_image(tmp_path / "m.png", labels()), value=64, ignore=255)
    np.testing.assert_array_equal(np.unique(binary), [0, 1, 255])


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_bands_and_pixels_without_data_come_from_a_geotiff(tmp_path, kind):
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 4000, (12, 30, 40, 4)).astype(kind)
    pixels[:, :6] = 0
    for k, image in enumerate(pixels):
        (tmp_path / "images").mkdir(exist_ok=True)
        tags = [(42113, "s", 0, "0", True)]  # GDAL's no-data tag
        tifffile.imwrite(tmp_path / f"images/{k}.tif", image, photometric="rgb", planarconfig="contig", extratags=tags)
        write_image(tmp_path / f"masks/{k}.png", labels())
    options = {"classes": None, "mask_value": 255, "size": 40, "fit": "resize"}
    data = folder(tmp_path, channels=4, mean=[0.1, 0.2, 0.3, 0.4], **options)
    module = DataModule(data)
    batch = module.samples("test")[[(0, 0)]]
    assert batch["image"].shape == (1, 4, 40, 40)
    assert not batch["valid"][..., :7, :].any()
    assert batch["valid"][..., 9:, :].all()
    assert module.opened.dataset.range == (0, 4095)
    chosen = folder(tmp_path, channels=2, bands=[4, 1], mean=[0.1], **options)
    np.testing.assert_array_equal(chosen.items()[0].image()[10:], pixels[0, 10:][..., [3, 0]].astype(np.float32))
    for wrong, words in (({"channels": 3}, r"dataset.bands=\[3,2,1\]"), ({"bands": [5]}, "bands from 1 to 4, got")):
        with pytest.raises(ContractError, match=words):
            open_data(folder(tmp_path, **options, **wrong))
    with pytest.raises(ContractError, match=r"expected 2 bands .*got 4; train with dataset.bands to select"):
        DataModule(folder(tmp_path, channels=2, range=[0, 4095], **options)).samples("test")[[(0, 0)]]


@pytest.mark.parametrize("options", [{}, {"fit": "pad"}, {"soft": True}, {"classes": VALUES}])
def test_images_reduced_beforehand_are_seen_as_the_raw_ones(options):
    dataset, rng = Folder(root="x", images="i", masks="m", size=16, reduce=2, **options), np.random.default_rng(0)
    for _ in range(20):
        mask, valid = rng.integers(0, 2, (64, 48), np.uint8), np.ones((64, 48), bool)
        row, column, height, width = rng.integers(1, 30, 4)
        valid[row : row + height, column : column + width] = False
        raw = Seen(rng.integers(0, 256, (64, 48, 3), np.uint8), mask * valid, valid)
        ready = view(raw, replace(dataset, fit="patch"))
        for one, other in zip(view(raw, dataset), view(ready, replace(dataset, reduce=1)), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("options", [{}, {"soft": True}, {"fit": "pad"}, {"reduce": 2}, {"classes": VALUES}])
def test_an_object_that_would_vanish_keeps_a_pixel_that_counts(options):
    dataset = Folder(root="x", images="i", masks="m", size=8, **options)
    mask, valid = np.zeros((64, 64), np.uint8), np.ones((64, 64), bool)
    valid[8:16, 8:14] = False
    mask[10:12, 14:17] = 1  # at the border of the valid pixels: mostly where less than half is valid
    seen = view(Seen(np.zeros((64, 64, 3), np.uint8), mask, valid), dataset)
    assert seen.valid.sum() == 63
    assert np.argwhere(seen.mask).tolist() == [[1, 2]]
    for left in (14, 64):  # only in that pixel, or nowhere
        mask[:] = 0
        mask[10:12, left : left + 2] = 1
        assert not view(Seen(np.zeros((64, 64, 3), np.uint8), mask, valid), dataset).mask.any()


def test_labels_too_few_to_count_after_resizing_are_one_sentence_or_left_out(tmp_path):
    data = folder(write_tree(tmp_path), classes={"background": 0, "gland": 64}, ignore=[128, 255], size=4)
    scribble = np.full((30, 40), 255, np.uint8)
    scribble[5, 5], scribble[20, 30] = 0, 64
    write_image(tmp_path / "masks/3.png", scribble)
    with pytest.raises(ContractError, match="image 3: expected a pixel that is half valid after resizing, got none"):
        open_data(data)
    assert open_data(replace(data, on_bad_item="skip")).skipped.keys() == {"3"}


@pytest.mark.parametrize("classes", [{}, {"classes": VALUES}])
def test_a_class_has_a_pixel_by_its_share_of_the_part_that_counts(classes):
    dataset = Folder(root="x", images="i", masks="m", size=2, coverage=0.5, **classes)
    mask, valid = np.zeros((4, 4), np.uint8), np.ones((4, 4), bool)
    mask[0, 0], valid[:2, :2] = 1, [[True, True], [False, False]]  # half of the valid half, a quarter of all
    mask[2:, 2:] = 1
    assert view_mask(mask, valid, dataset)[0, 0]
    assert not view_mask(mask, None, dataset)[0, 0]
