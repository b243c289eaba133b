"""Satellite images of the sea with a mask per ship: the Airbus Ship Detection challenge (Kaggle 2018)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np

from seglab.contract import ContractError, require
from seglab.data import rle
from seglab.data.dataset import Dataset, Item
from seglab.data.decode import warp_instances
from seglab.images.image_io import by_stem, existing_folder, files_in, read_image
from seglab.images.resize import resize

SIDE = 768
"""Height and width in pixels of every image of the challenge, of which the table speaks."""

NO_SHIP = ("", "-1", "nan", "none", "null", "na", "n/a", "0", "0 0", "1 0")
"""What people have written for no ship."""

# fmt: off
CORRUPT = frozenset([
    "6384c3e78", "13703f040", "14715c06d", "33e0ff2d5", "4d4e09f2a", "877691df8", "8b909bb20", "a8d99130e",
    "ad55c3143", "c8260c541", "d6c7f17c7", "dc3e7c901", "e44dffe88", "ef87bad36", "f083256d8",
])
# fmt: on
"""Training images of the challenge that are known to be broken or wrongly labeled."""


@dataclass(frozen=True, kw_only=True)
class AirbusShips(Dataset):
    """Images and the table of runs, a row per ship; most images of the challenge hold none.

    Images that somebody has shrunk have smaller ships; names may have any ending. At test each ship is an object, even
    where it touches another.

    images: folder of images in `root`. table: the CSV of ImageId and EncodedPixels. empty_fraction: fraction of images
    without ships that is kept (all are, if there are fewer, or for null).
    """

    root: str
    images: str = "train_v2"
    table: str = "train_ship_segmentations_v2.csv"
    empty_fraction: float | None = 0.2
    coverage: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= (self.empty_fraction or 0) < 1, "dataset ship", "empty_fraction in [0, 1)", self.empty_fraction)

    def items(self) -> list[Item]:
        root = existing_folder(self.root)
        files = by_stem(files_in(root / self.images))
        names, counts, runs, bounds = read_table(root / self.table)
        kept, side = self.select(names, counts), side_of(files.values())
        stems = [Path(name).stem.lower() for name in names]  # of any ending
        items = [
            item_of(name, files.get(stems[k]), runs.slice(bounds[k], bounds[k + 1]), side)
            for k, name in enumerate(names)
            if name in kept
        ]
        unlabeled = sorted(files.keys() - set(stems))
        items += [Item(files[n].name, n, fault=f"{files[n]}: expected rows in {self.table}") for n in unlabeled]
        return items

    def select(self, names: list[str], counts: np.ndarray) -> set[str]:
        """Choose images with ships, and some without; the draw is a hash of the name, so that the choice lasts."""
        ships = {name for name, count in zip(names, counts.tolist(), strict=True) if count}
        empty = [name for name in names if name not in ships]
        if self.empty_fraction is not None:
            empty.sort(key=lambda name: digest(name.encode()))
            empty = empty[: round(len(ships) * self.empty_fraction / (1 - self.empty_fraction))]
        return {*ships, *empty}


def digest(data: bytes) -> bytes:
    """Give eight bytes that stand for many."""
    return blake2b(data, digest_size=8).digest()


def read_table(path: Path) -> tuple[list[str], np.ndarray, rle.Runs, np.ndarray]:
    """Read the CSV: image names in order, ships per image, all runs, and where each image's runs begin and end."""
    import pandas as pd

    require(path.is_file(), "dataset ship", "a table that exists", path, "set dataset.table")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [column for column in ("ImageId", "EncodedPixels") if column not in table]
    require(not missing, str(path), "columns ImageId and EncodedPixels", f"no {' and no '.join(missing)}")
    table = table.sort_values("ImageId", kind="stable")
    images = table["ImageId"].tolist()
    texts = ["" if text.strip().lower() in NO_SHIP else text for text in table["EncodedPixels"]]
    runs = rle.parse(texts, images)
    names, first = np.unique(images, return_index=True)
    ships = np.array([bool(text.strip()) for text in texts])
    counts = np.add.reduceat(ships, first, dtype=np.int64) if len(names) else np.zeros(0, np.int64)
    bounds = np.searchsorted(runs.owners, np.append(first, len(images)))
    return names.tolist(), counts, runs, bounds


def item_of(name: str, file: Path | None, runs: rle.Runs, side: int) -> Item:
    """Make the item of one image of so many pixels on each side."""
    if file is None:
        return Item(name, name, fault=f"{name}: expected the image of the table on disk")
    reason = "known to be broken" if file.stem in CORRUPT else ""
    image, mask = partial(read_image, str(file)), partial(draw, runs, str(file), side)
    labels = digest(runs.starts.tobytes() + runs.lengths.tobytes()).hex() + (f" {side}" if side != SIDE else "")
    objects = partial(number_ships, runs, side)
    return Item(name, name, image, mask, files=(str(file),), labels=labels, left_out=reason, objects=objects)


def draw(runs: rle.Runs, file: str, side: int) -> np.ndarray:
    """Draw the mask (h, w) uint8 of all ships of an image; float32 fractions where the images are shrunk."""
    rle.check(runs, (SIDE, SIDE), file)
    mask = rle.paint(runs, (SIDE, SIDE))
    return mask if side == SIDE else resize(mask.astype(np.float32), side, side)


def number_ships(runs: rle.Runs, side: int) -> np.ndarray:
    """Draw each ship of an image in its own number: (h, w) int32, 0 elsewhere."""
    numbers = rle.instances(runs, (SIDE, SIDE))
    return numbers if side == SIDE else warp_instances(numbers, lambda one: resize(one, side, side))


def side_of(files: Iterable[Path]) -> int:
    """Give the side of the images, from the first that can be read: that of the challenge, or what it is shrunk to."""
    for file in files:
        try:
            return read_image(str(file)).shape[0]
        except ContractError:  # said when it is decoded
            continue
    return SIDE
