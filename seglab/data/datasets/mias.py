"""mini-MIAS (Suckling et al., 1994): mammograms with circles around lesions."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from seglab.contract import require
from seglab.data.dataset import Dataset, Item
from seglab.images.image_io import by_stem, existing_folder, files_in, read_image
from seglab.images.resize import resize

ROW = re.compile(r"(?P<film>mdb\d{3}) +[FGD] +(?P<kind>[A-Z]{4})(?: +[BM])?(?P<place>(?: +\d{1,4}){3})?(?: +[*].*)?")
FILM = re.compile(r"mdb\d{3}\b")
SIDE = 1024  # height and width in pixels of the published films, to which the table refers
Circle = tuple[int, ...]  # center x, y and radius in pixels; y is counted from the bottom


@dataclass(frozen=True, kw_only=True)
class Mias(Dataset):
    """Films of 1024x1024 pixels with lesions as filled circles; films with a lesion of unknown position are left out.

    If the films were shrunk, the circles are shrunk too. The two films of a patient (mdb001 and mdb002, and so on) are
    one group.

    Args:
        images: folder of the films in `root`, PGM or other formats.
        table: the list of lesions.
        external: all films are the test set of a model trained on other data.
    """

    root: str
    images: str = "all-mias"
    table: str = "Info.txt"
    external: bool = False
    channels: int = 1

    def items(self) -> list[Item]:
        root = existing_folder(self.root)
        files = by_stem(files_in(root / self.images))
        films = read_info(root / self.table)
        items = [self.film(name, files.get(name), circles) for name, circles in films.items()]
        unlisted = sorted(name for name in files.keys() - films.keys() if FILM.fullmatch(name))
        return items + [Item(name, name, fault=f"{files[name]}: expected a row in {self.table}") for name in unlisted]

    def film(self, name: str, path: Path | None, circles: list[Circle | None]) -> Item:
        """Build the item of one film; None in `circles` is a lesion of unknown position."""
        patient, split = f"patient{(int(name[3:]) + 1) // 2:03d}", "test" if self.external else ""
        if path is None:
            missing = Path(self.root, self.images, f"{name}.pgm")
            return Item(name, patient, split=split, fault=f"{missing}: expected the film listed in {self.table}")
        located = tuple(circle for circle in circles if circle is not None)
        unknown = "" if len(located) == len(circles) else "lesion of unknown place"
        image, mask = partial(read_image, str(path)), partial(draw, str(path), located)
        return Item(name, patient, image, mask, split, (str(path),), labels=str(located), left_out=unknown)


def read_info(path: Path) -> dict[str, list[Circle | None]]:
    """Read the circles of each film; None for a lesion of unknown position, and an empty list for a healthy film."""
    require(path.is_file(), "dataset mias", "a table that exists", path, "set dataset.table")
    films: dict[str, list[Circle | None]] = {}
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        row = ROW.fullmatch(re.sub(r"[\s,;]+", " ", line).strip())  # some copies are saved as CSV
        if row is None:  # a title or a remark
            require(not FILM.match(line), str(path), "rows such as `mdb001 G CIRC B 535 425 197`", repr(line.strip()))
            continue
        lesions, position = films.setdefault(row["film"], []), row["place"]
        if row["kind"] != "NORM":
            lesions.append(tuple(map(int, position.split())) if position else None)
    require(bool(films), str(path), "rows such as `mdb001 G CIRC B 535 425 197`", "none")
    return films


def draw(path: str, circles: tuple[Circle, ...]) -> np.ndarray:
    """Fill the circles of a film: (h, w) uint8."""
    height, width = read_image(path).shape[:2]
    require(height == width, path, f"a square film, of {SIDE}x{SIDE} pixels or shrunk", f"{width}x{height}")
    mask = np.zeros((height, width), bool)
    for x, y, radius in circles:
        # Shrink the published circle instead of drawing one with a rounded center and radius.
        circle = cv2.circle(np.zeros((SIDE, SIDE), np.float32), (x, SIDE - 1 - y), radius, 1.0, cv2.FILLED)
        fraction = resize(circle, height, width)
        mask |= fraction >= fraction.max() / 2  # a tiny circle marks the pixel that it covers most
    return mask.astype(np.uint8)
