"""CBIS-DDSM (Lee et al., Scientific Data 2017): mammograms with outlined lesions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from seglab.contract import ContractError, Task, require
from seglab.data.dataset import Dataset, Item, one_of
from seglab.data.memo import remembered
from seglab.data.names import read_csv
from seglab.images.image_io import existing_folder, files_in, orientation_of, read_image
from seglab.images.medical import WINDOWS, one_sentence, read_dicom
from seglab.images.resize import rescale, resize, to_channels

if TYPE_CHECKING:
    import pandas as pd

CASE = re.compile(r"(Mass|Calc)-(Training|Test)_P_\d+_(LEFT|RIGHT)_(CC|MLO)(_\d+)?(_FULL|_MASK)?$")
IMAGE, CROP, MASK = "image file path", "cropped image file path", "ROI mask file path"
SIDE, VIEW = "left or right breast", "image view"
KINDS = {"both": ("mass", "calc"), "mass": ("mass",), "calc": ("calc",)}
TASKS = {"lesion": Task(), "mass_calc": Task("multilabel", ("mass", "calc"))}  # a calcification may lie in a mass
TOLERANCE = 0.1  # fraction by which a mask may be larger or smaller than its film
COLUMNS = ("patient_id", "breast_density", SIDE, VIEW, "abnormality id", "pathology", IMAGE, CROP, MASK)


@dataclass(frozen=True, kw_only=True)
class CbisDdsm(Dataset):
    """CBIS-DDSM: the case description tables joined with the images; one item per film, with all its lesions.

    Films are DICOM in the layout of the NBIA download or the classic one, or PNG and JPEG that keep the folder names. A
    film in the tables of both masses and calcifications is one item, in the test set if either table says so.

    Args:
        target: `lesion`, or `mass_calc`: masses and calcifications as two classes, which may overlap.
        abnormality: `mass`, `calc` or `both`.
        view, side: lesions to keep, by CC or MLO and by LEFT or RIGHT; None keeps all.
        pathology: MALIGNANT, or BENIGN, which includes BENIGN_WITHOUT_CALLBACK; None keeps all.
        density: a list of 1 to 4; None keeps all.
        window: `full`, `percentile` or `header`, used in place of a range.
        crop: crop the film to the breast.
    """

    root: str
    target: str = "lesion"
    abnormality: str = "both"
    view: str | None = None
    side: str | None = None
    pathology: str | None = None
    density: tuple[int, ...] | None = None
    window: str = "full"
    crop: bool = False
    channels: int = 1
    range: str | tuple[float, ...] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        views, sides, kinds = ("CC", "MLO", None), ("LEFT", "RIGHT", None), ("MALIGNANT", "BENIGN", None)
        one_of("dataset ddsm", self, abnormality=tuple(KINDS), view=views, side=sides, pathology=kinds)
        one_of("dataset ddsm", self, window=WINDOWS, target=tuple(TASKS))
        supported = self.target == "lesion" or self.abnormality == "both"
        require(supported, "dataset ddsm", "abnormality=both with target=mass_calc", self.abnormality)
        in_range = set(self.density or ()) <= {1, 2, 3, 4}
        require(in_range, "dataset ddsm", "density to be a list of numbers from 1 to 4", self.density)

    @property
    def task(self) -> Task:
        return TASKS[self.target]

    def items(self) -> list[Item]:
        root = existing_folder(self.root)
        rows = self.filter(read_tables(root, self.abnormality))
        require(len(rows) > 0, "dataset ddsm", "lesions that match view, side, pathology and density", "none")
        files = Files(root)
        films = rows.groupby(["patient_id", SIDE, VIEW], sort=True)
        return [self.film("_".join(map(str, key)), lesions, files) for key, lesions in films]

    def decode(self, path: str, page: int | None = None) -> np.ndarray:
        return read_mammogram(path, self.window)

    def region(self, path: str) -> tuple[slice, slice] | None:
        return breast_box(read_mammogram(path)) if self.crop else None

    def file_warnings(self, items: Sequence[Item]) -> list[str]:
        tables, warnings = find_tables(existing_folder(self.root), self.abnormality), []
        existing = {(kind, split) for _, kind, split in tables}
        expected = [(kind, split) for kind in KINDS[self.abnormality] for split in ("train", "test")]
        missing = [f"{'_case_description_'.join(key)}_set.csv" for key in expected if key not in existing]
        if missing:
            has_test = any(split == "test" for _, split in existing)
            note = "" if has_test else ", and test images are drawn from the other images"
            words = f"no {' and no '.join(missing)}: lesions listed only there count as background{note}"
            warnings.append(f"{words}; dataset.abnormality selects the kind of lesion")
        files = [item.files for item in items if not item.fault]
        sizes = remembered("sizes", self.cache_dir, files, lambda k: odd_size(files[k]), [""] * len(files))
        odd = [words for words in sizes if words]
        if odd:
            words = "films have masks of a slightly different size, which are resized; the first:"
            warnings.append(f"{len(odd)} of {len(files)} {words} {odd[0]}")
        return warnings

    def filter(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Keep the lesions that match view, side, pathology and density."""
        for column, value in ((VIEW, self.view), (SIDE, self.side)):
            rows = rows if value is None else rows[rows[column] == value]
        if self.pathology is not None:
            rows = rows[rows["pathology"].str.startswith(self.pathology)]
        return rows if self.density is None else rows[rows["breast_density"].isin([str(n) for n in self.density])]

    def film(self, name: str, lesions: pd.DataFrame, files: Files) -> Item:
        """Build the item of one film from the rows of its lesions."""
        patient, split = lesions["patient_id"].iloc[0], "test" if (lesions["split"] == "test").any() else "train"
        images = [path for row in lesions[IMAGE] for path in files.of_image(row)[:1]]  # equal for all rows of a film
        masks = [files.of_lesion(row) for _, row in lesions.iterrows()]
        classes = [self.task.classes.index(kind) if self.task.channels > 1 else 0 for kind in lesions["kind"]]
        if not images or () in masks:  # a missing lesion would count as background
            missing = lesions[MASK].iloc[masks.index(())] if images else lesions[IMAGE].iloc[0]
            return Item(name, patient, split=split, fault=f"{missing}: expected a file")
        image, lesions_of = partial(read_film, self, images[0]), list(zip(classes, masks, strict=True))
        sources = tuple(dict.fromkeys((images[0], *(path for paths in masks for path in paths))))
        return Item(name, patient, image, partial(read_lesions, self, images[0], lesions_of), split, sources)


def read_film(dataset: CbisDdsm, path: str) -> np.ndarray:
    """Read a film (h, w), cropped to the breast if `crop` is set."""
    image, box = dataset.decode(path), dataset.region(path)
    return image[box] if box else image


def read_lesions(dataset: CbisDdsm, path: str, lesions: list[tuple[int, tuple[str, ...]]]) -> np.ndarray:
    """Read the union of a film's lesion masks (h, w), or that of each class (h, w, classes), cropped like the film."""
    shape, box = shape_of(path), dataset.region(path)
    mask = np.zeros((*shape, dataset.task.channels), np.uint8)
    for k, candidates in lesions:
        mask[..., k] |= read_lesion(candidates, shape)
    mask = mask if dataset.task.channels > 1 else mask[..., 0]
    return mask[box] if box else mask


def find_tables(root: Path, abnormality: str) -> list[tuple[Path, str, str]]:
    """Find the case descriptions in the root or one folder below it, with the kind and split of their lesions."""
    paths = sorted({*root.glob("*_case_description_*.csv"), *root.glob("*/*_case_description_*.csv")})
    matches = [(path, kind) for path in paths for kind in KINDS[abnormality] if path.name.startswith(kind)]
    return [(path, kind, "test" if "_test_" in path.name else "train") for path, kind in matches]


def read_tables(root: Path, abnormality: str) -> pd.DataFrame:
    """Read the case descriptions: one row per lesion, with its split and kind."""
    import pandas as pd

    tables = []
    for path, kind, split in find_tables(root, abnormality):
        table = read_csv(path).rename(columns=str.strip)
        table = table.rename(columns={"breast density": "breast_density"})  # its name in the tables of calcifications
        missing, expected = [column for column in COLUMNS if column not in table], ", ".join(COLUMNS)
        require(not missing, str(path), f"comma-separated columns {expected}", f"no {' and no '.join(missing)}")
        table = table[list(COLUMNS)].apply(lambda column: column.str.strip())  # some paths end in a newline
        tables.append(table.assign(split=split, kind=kind))
    examples = " and ".join(f"{kind}_case_description_train_set.csv" for kind in KINDS[abnormality])
    require(bool(tables), "dataset ddsm", f"tables such as {examples} in {root}", "none", "set dataset.root")
    return pd.concat(tables, ignore_index=True)


class Files:
    """All image files below a root, by case and by the name of the series folder that contains them."""

    def __init__(self, root: Path) -> None:
        self.by_case: dict[str, list[str]] = defaultdict(list)
        self.by_series: dict[str, list[str]] = defaultdict(list)
        for path in filter(Path.is_file, files_in(root)):  # reading a pipe may never end
            folders = path.relative_to(root).parent.parts
            for name in filter(CASE.match, (*folders, path.stem)):  # a folder, or a flat file such as CASE_FULL.png
                self.by_case[name].append(str(path))
            for name in folders[-1:]:
                self.by_series[name].append(str(path))

    def of_image(self, path: str) -> tuple[str, ...]:
        """Find the film for the path `case/study/series/name` of a table, in any layout."""
        case, series = path.split("/")[0], Path(path).parent.name
        of_case = self.by_case.get(case, [])
        # NBIA shortens a series to its last five digits, after a prefix that varies.
        of_series = [file for file in of_case if Path(file).parent.name[-5:] == series[-5:]]
        return tuple(of_series or of_case or self.by_series.get(series, []) or self.by_case.get(f"{case}_FULL", []))

    def of_lesion(self, row: pd.Series) -> tuple[str, ...]:
        """List the files that may hold a lesion's mask; the crop is among them, and file names are not reliable."""
        files = list(self.by_case.get(row[MASK].split("/")[0], []))
        if not files:
            series = dict.fromkeys(Path(row[column]).parent.name for column in (MASK, CROP))
            files = [file for name in series for file in self.by_series.get(name, [])]
        return tuple(files or self.by_case.get(f"{row[IMAGE].split('/')[0]}_MASK", []))


def read_mammogram(path: str, window: str = "full") -> np.ndarray:
    """Decode a mammogram to gray (h, w): uint16 for DICOM, and the file's own type for PNG or JPEG.

    window: `full`, `header` (DICOM only), or `percentile`: the 1st to 99.5th percentile of the non-black pixels.
    """
    if Path(path).suffix.lower() == ".dcm":
        image = read_dicom(path, window)
    else:
        require(window != "header", path, "a DICOM file for window=header", "another format", "set dataset.window=full")
        image = to_channels(read_image(path), 1)[..., 0]
    if window != "percentile":
        return image
    sample = image[::4, ::4]  # a 16th of the pixels is enough
    sample = sample[sample > sample.min()]
    return rescale(image, *np.percentile(sample, (1, 99.5))) if sample.size else image


def shape_of(path: str) -> tuple[int, ...]:
    """Return the height and width of a mammogram without decoding its pixels."""
    if Path(path).suffix.lower() != ".dcm":
        with one_sentence(path, "a readable image"), Image.open(path) as picture:
            return picture.size if orientation_of(picture) > 4 else picture.size[::-1]  # turned by 90 degrees
    import pydicom

    with one_sentence(path):
        head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return int(head.Rows), int(head.Columns)


def breast_box(image: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and columns of the breast: the largest connected region brighter than a dark background."""
    step = max(1, max(image.shape) // 512)
    small = cv2.GaussianBlur(image[::step, ::step].astype(np.float32), (0, 0), 2)
    bright: np.ndarray = (small > small.min() + 0.08 * (small.max() - small.min())).astype(np.uint8)
    bright = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))  # removes thin bridges to a label
    count, _, stats, _ = cv2.connectedComponentsWithStats(bright)
    if count < 2:
        return slice(0, image.shape[0]), slice(0, image.shape[1])
    left, top, width, height, _ = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))]
    return slice(top * step, (top + height) * step), slice(left * step, (left + width) * step)


def is_mask(pixels: np.ndarray) -> bool:
    """Return True if nearly all pixels are close to one of two values (JPEG blurs the edge between them)."""
    low, high = float(pixels.min()), float(pixels.max())
    near = np.minimum(pixels - low, high - pixels) <= 0.05 * (high - low)
    return bool(near.mean() > 0.98)


def read_lesion(candidates: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Find the mask among the files of one abnormality by its content, and resize it to the image's shape: uint8.

    In CBIS-DDSM, neither folder nor file name distinguishes a mask from a crop: the mask has two values and the image's
    size, within 10 %. Foreground is the higher value (1, 2 or 255) and always less than half of the film: a mask that
    is black or inverted is damaged.
    """
    sizes = []
    for path in candidates:
        pixels, size = read_mammogram(path), ""
        if size_difference(pixels.shape, shape) < TOLERANCE and is_mask(pixels):
            mask = (pixels > pixels.max() / 2).astype(np.float32)
            if 0 < mask.mean() < 0.5:
                return (resize(mask, *shape) >= 0.5).astype(np.uint8)
            size = f" with {100 * mask.mean():.3g} % foreground, which cannot be a lesion"
        sizes.append("x".join(map(str, pixels.shape)) + size)
    expected = f"a mask with two values and a size of about {shape[0]}x{shape[1]}"
    raise ContractError(f"{candidates[0]}: expected {expected}, got {', '.join(sizes)}")


def size_difference(shape: tuple[int, ...], film: tuple[int, ...]) -> float:
    """Return the relative difference between a mask and its film in height or width, whichever is larger."""
    return max(abs(a - b) / b for a, b in zip(shape, film, strict=True))


def odd_size(files: Sequence[str]) -> str:
    """Describe the first mask among a film's files, film first, that differs slightly in size; "" if there is none."""
    try:
        film, *others = [shape_of(path) for path in files]
    except ContractError:  # reported when it is decoded
        return ""
    masks = zip(files[1:], others, strict=True)
    odd = [(path, shape) for path, shape in masks if 0 < size_difference(shape, film) < TOLERANCE]
    return next((f"{path} is {h}x{w}, its film is {film[0]}x{film[1]}" for path, (h, w) in odd), "")
