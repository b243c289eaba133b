"""The Airbus Ship Detection challenge (Kaggle 2018): satellite images of the sea with one mask per ship."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np

from seglab.contract import ContractError, require
from seglab.data.dataset import Dataset, Item
from seglab.data.decode import warp_instances
from seglab.data.names import read_csv
from seglab.images.image_io import by_stem, existing_folder, files_in, read_image
from seglab.images.resize import resize

SIDE = 768  # height and width in pixels of the challenge's images, to which the table refers
NO_SHIP = ("", "-1", "nan", "none", "null", "na", "n/a", "0", "0 0", "1 0")  # spellings of "no ship" found in tables

CORRUPT = (
    "6384c3e78 13703f040 14715c06d 33e0ff2d5 4d4e09f2a 877691df8 8b909bb20 a8d99130e"
    " ad55c3143 c8260c541 d6c7f17c7 dc3e7c901 e44dffe88 ef87bad36 f083256d8"
)  # training images of the challenge that are known to be broken or wrongly labeled


@dataclass(frozen=True, kw_only=True)
class AirbusShips(Dataset):
    """Images and a table of run lengths, one row per ship; most images of the challenge have no ship.

    If the images were shrunk, the ships are shrunk too. File names may have any suffix. In the test, each ship is an
    object, even if it touches another.

    Args:
        images: image folder in `root`.
        table: CSV file with ImageId and EncodedPixels.
        empty_fraction: fraction of images without ships in the dataset; all of them are kept if there are fewer, or if
            None.
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
        ships = read_table(root / self.table)
        selected, side = self.select(ships), side_of(files.values())
        stems = {name: Path(name).stem.lower() for name in ships}  # the table may use another suffix
        items = [item_of(name, files.get(stems[name]), ships[name], side) for name in ships if name in selected]
        unlabeled = sorted(files.keys() - stems.values())
        items += [Item(files[n].name, n, fault=f"{files[n]}: expected a row in {self.table}") for n in unlabeled]
        return items

    def select(self, ships: dict[str, list[str]]) -> set[str]:
        """Select images with ships, and some without by a hash of their names, so that the choice is stable."""
        with_ships, without_ships = [name for name in ships if ships[name]], [name for name in ships if not ships[name]]
        if self.empty_fraction is not None:
            # By hash: a larger draw is a superset of a smaller one.
            without_ships.sort(key=lambda name: blake2b(name.encode(), digest_size=8).digest())
            without_ships = without_ships[: round(len(with_ships) * self.empty_fraction / (1 - self.empty_fraction))]
        return {*with_ships, *without_ships}


def read_table(path: Path) -> dict[str, list[str]]:
    """Read the CSV: the run lengths of an image's ships in table order, by sorted image name; [] if it has none."""
    require(path.is_file(), "dataset ship", "a table that exists", path, "set dataset.table")
    table = read_csv(path)
    missing = [column for column in ("ImageId", "EncodedPixels") if column not in table]
    require(not missing, str(path), "columns ImageId and EncodedPixels", f"no {' and no '.join(missing)}")
    ships: dict[str, list[str]] = {name: [] for name in sorted(table["ImageId"])}
    for name, text in zip(table["ImageId"], table["EncodedPixels"], strict=True):
        if text.strip().lower() not in NO_SHIP:
            ships[name].append(text)
    return ships


def item_of(name: str, file: Path | None, texts: Sequence[str], side: int) -> Item:
    """Build the item of one image of side x side pixels."""
    runs = parse(texts, name)
    if file is None:
        return Item(name, name, fault=f"{name}: expected an image file, as the table lists it")
    reason = "known to be broken" if file.stem in CORRUPT.split() else ""
    image, mask = partial(read_image, str(file)), partial(draw, runs, str(file), side)
    # Without the ship numbers, which do not affect the mask.
    labels = blake2b(runs[:, :2].T.tobytes(), digest_size=8).hexdigest() + (f" {side}" if side != SIDE else "")
    objects = partial(number_ships, runs, side)
    return Item(name, name, image, mask, files=(str(file),), labels=labels, left_out=reason, objects=objects)


def parse(texts: Sequence[str], name: str) -> np.ndarray:
    """Parse the runs of an image's ships: (runs, 3) int64 of start (from 0), length, and ship number (from 1).

    Each text has pairs of start and length. Starts count from 1 down the columns of the mask.

    >>> parse(["3 2 7 1"], "a").tolist()
    [[2, 2, 1], [6, 1, 1]]
    """
    who, ships = f"runs of {name}", [text.split() for text in texts]
    for text, words in zip(texts, ships, strict=True):
        decimal = all(word.isdecimal() and len(word) < 19 for word in words)  # fits in int64
        require(decimal, who, "whole numbers", repr(text[:60]))
        require(len(words) % 2 == 0, who, "pairs of start and length", f"{len(words)} numbers")
    pairs = np.array([int(word) for words in ships for word in words], np.int64).reshape(-1, 2)
    owners = np.repeat(np.arange(len(ships)), [len(words) // 2 for words in ships])
    return np.column_stack((pairs - (1, 0), owners + 1))


def check(runs: np.ndarray, pixels: int, name: str) -> None:
    """Raise ContractError if a run is empty, ends beyond `pixels`, or overlaps another."""
    who, ordered = f"runs of {name}", runs[runs[:, 0].argsort(kind="stable")]
    starts, ends = ordered[:, 0], ordered[:, 0] + ordered[:, 1]
    require(bool((runs[:, 1] > 0).all()), who, "lengths above 0", runs[:, 1].min(initial=0))
    first, last = starts.min(initial=pixels) + 1, ends.max(initial=0)
    require(first >= 1 and last <= pixels, who, f"runs within 1 to {pixels}", f"{first} to {last}")
    overlaps = np.flatnonzero(starts[1:] < ends[:-1])
    require(not len(overlaps), who, "runs that do not overlap", f"{len(overlaps)} overlaps")


def paint(runs: np.ndarray, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Draw each ship with its number: (h, w) int32, 0 elsewhere."""
    numbers = np.zeros(height * width, np.int32)
    for start, length, ship in runs.tolist():
        numbers[start : start + length] = ship
    return numbers.reshape(width, height).T  # runs go down the columns


def draw(runs: np.ndarray, file: str, side: int) -> np.ndarray:
    """Draw the mask (h, w) uint8 of all ships of an image; float32 fractions if the images were shrunk."""
    check(runs, SIDE * SIDE, file)  # checked here, not when listing, so that such an image can be skipped
    mask = (paint(runs) > 0).astype(np.uint8)
    return mask if side == SIDE else resize(mask.astype(np.float32), side, side)


def number_ships(runs: np.ndarray, side: int) -> np.ndarray:
    """Draw each ship of an image with its number, as large as the image: (h, w) int32, 0 elsewhere."""
    numbers = paint(runs)
    return numbers if side == SIDE else warp_instances(numbers, lambda layer: resize(layer, side, side))


def side_of(files: Iterable[Path]) -> int:
    """Return the side of the images, from the first readable one; SIDE if there is none."""
    for file in files:
        try:
            return read_image(str(file)).shape[0]
        except ContractError:  # reported when it is decoded
            continue
    return SIDE
