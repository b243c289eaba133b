"""Mammograms with outlined lesions: CBIS-DDSM (Lee et al., Scientific Data 2017)."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seglab.contract import require
from seglab.data.dataset import Dataset
from seglab.data.dicom import WINDOWS, breast_box, read_lesion, read_mammogram, shape_of
from seglab.data.image_io import SUFFIXES
from seglab.data.items import Item

if TYPE_CHECKING:
    import pandas as pd

CASE = re.compile(r"(Mass|Calc)-(Training|Test)_P_\d+_(LEFT|RIGHT)_(CC|MLO)(_\d+)?(_FULL|_MASK)?$")
IMAGE, CROP, MASK = "image file path", "cropped image file path", "ROI mask file path"
SIDE, VIEW = "left or right breast", "image view"
COLUMNS = ("patient_id", "breast_density", SIDE, VIEW, "abnormality id", "pathology", IMAGE, CROP, MASK)


@dataclass(frozen=True, kw_only=True)
class Ddsm(Dataset):
    """CBIS-DDSM: the case description tables joined with the images, a film with all its lesions per item.

    Films are DICOM in the layout of the NBIA download or the classic one, or PNG and JPEG that keep the folder names.
    A film that is in the tables of masses and of calcifications is one item, in the test set if either says so.
    abnormality: `mass`, `calc` or `both`. view (CC, MLO), side (LEFT, RIGHT), pathology (MALIGNANT, BENIGN, which takes
    in BENIGN_WITHOUT_CALLBACK), density (a list of 1 to 4): lesions to keep, null for all. window: `full`, `percentile`
    or `header`. crop: cut out the breast.
    """

    root: str
    abnormality: str = "both"
    view: str | None = None
    side: str | None = None
    pathology: str | None = None
    density: list[int] | None = None
    window: str = "full"
    crop: bool = False
    channels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {
            "abnormality": ("mass", "calc", "both"),
            "view": ("CC", "MLO", None),
            "side": ("LEFT", "RIGHT", None),
            "pathology": ("MALIGNANT", "BENIGN", None),
            "window": WINDOWS,
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            require(value in allowed, "dataset ddsm", f"{name} to be one of {', '.join(map(str, allowed))}", value)
        densities = self.density is None or set(self.density) <= {1, 2, 3, 4}
        require(densities, "dataset ddsm", "density to be a list of 1 to 4", self.density)

    def items(self) -> list[Item]:
        root = Path(self.root)
        require(root.is_dir(), "dataset ddsm", "a root that exists", root, "set dataset.root")
        rows = self.chosen(read_tables(root, self.abnormality))
        require(len(rows) > 0, "dataset ddsm", "lesions that pass view, side, pathology and density", 0)
        files = Files(root)
        films = rows.groupby(["patient_id", SIDE, VIEW], sort=True)
        return [self.film("_".join(key), lesions, files) for key, lesions in films]

    def chosen(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Keep the lesions that the filters name."""
        keep = np.ones(len(rows), bool)
        for column, value in ((VIEW, self.view), (SIDE, self.side)):
            keep &= True if value is None else rows[column] == value
        if self.pathology is not None:
            keep &= rows["pathology"].str.startswith(self.pathology)
        if self.density is not None:
            keep &= rows["breast_density"].isin([str(n) for n in self.density])
        return rows[keep]

    def film(self, name: str, lesions: pd.DataFrame, files: Files) -> Item:
        """Make the item of one film from the rows of its lesions."""
        patient, part = lesions["patient_id"].iloc[0], "test" if (lesions["part"] == "test").any() else "train"
        image = next((found[0] for path in lesions[IMAGE] if (found := files.of_image(path))), None)
        if image is None:
            return Item(name, patient, split=part, fault=f"{lesions[IMAGE].iloc[0]}: expected on disk")
        masks = [files.of_lesion(row) for _, row in lesions.iterrows()]
        if not all(masks):
            missing = lesions[MASK].iloc[masks.index(())]
            return Item(name, patient, split=part, fault=f"{missing}: expected on disk")
        return Item(
            name,
            patient,
            partial(film_of, image, self.window, self.crop),
            partial(lesions_of, image, tuple(masks), self.crop),
            part,
            tuple(dict.fromkeys((image, *(path for each in masks for path in each)))),
        )


def film_of(path: str, window: str, crop: bool) -> np.ndarray:
    """Read a film (h, w), cut to the breast if asked."""
    image = read_mammogram(path, window)
    return image[breast_box(read_mammogram(path))] if crop else image


def lesions_of(path: str, lesions: tuple[tuple[str, ...], ...], crop: bool) -> np.ndarray:
    """Read the union of all lesion masks of a film, cut like the film."""
    mask = np.zeros(shape_of(path), np.uint8)
    for candidates in lesions:
        mask |= read_lesion(candidates, mask.shape)
    return mask[breast_box(read_mammogram(path))] if crop else mask


def read_tables(root: Path, abnormality: str) -> pd.DataFrame:
    """Read the case descriptions in the root or one folder below it: a row per lesion, with its part train or test."""
    import pandas as pd

    kinds = ("mass", "calc") if abnormality == "both" else (abnormality,)
    tables = []
    for path in sorted({*root.glob("*_case_description_*.csv"), *root.glob("*/*_case_description_*.csv")}):
        if path.name.startswith(kinds):
            table = pd.read_csv(path, dtype=str, keep_default_na=False).rename(columns=str.strip)
            table = table.rename(columns={"breast density": "breast_density"})
            missing = [column for column in COLUMNS if column not in table]
            require(not missing, str(path), f"columns {', '.join(COLUMNS)}", f"no {' and no '.join(missing)}")
            table = table[list(COLUMNS)].apply(lambda column: column.str.strip())
            tables.append(table.assign(part="test" if "_test_" in path.name else "train"))
    wanted = " and ".join(f"{kind}_case_description_train_set.csv" for kind in kinds)
    require(bool(tables), "dataset ddsm", f"{wanted} (and the like) in {root}", "none", "set dataset.root")
    return pd.concat(tables, ignore_index=True)


class Files:
    """Every image file below a root, by the case and by the series in whose folder it lies."""

    def __init__(self, root: Path) -> None:
        self.by_case: dict[str, list[str]] = defaultdict(list)
        self.by_series: dict[str, list[str]] = defaultdict(list)
        for folder, below, names in os.walk(root):
            below.sort()
            for name in sorted(names):
                if name.lower().endswith((*SUFFIXES, ".dcm")):
                    self.add(Path(folder).relative_to(root).parts, os.path.join(folder, name))

    def add(self, parts: tuple[str, ...], path: str) -> None:
        """File one path under the cases among its folders and its own name, and under its innermost folder."""
        for part in (*parts, Path(path).stem):
            if CASE.match(part):
                self.by_case[part].append(path)
        if parts:
            self.by_series[parts[-1]].append(path)

    def of_image(self, path: str) -> tuple[str, ...]:
        """Find the film of a table's path `case/study/series/name`, in any layout."""
        case, series = path.split("/")[0], series_of(path)
        whole = self.by_case.get(case, [])
        # NBIA shortens a series to its last five digits, behind words that differ.
        named = [file for file in whole if Path(file).parent.name[-5:] == series[-5:]]
        return tuple(named or whole or self.by_series.get(series, []) or self.by_case.get(f"{case}_FULL", []))

    def of_lesion(self, row: pd.Series) -> tuple[str, ...]:
        """List the files among which one lesion's mask is: the crop lies there too, under names not to be trusted."""
        found = list(self.by_case.get(row[MASK].split("/")[0], []))
        if not found:
            series = dict.fromkeys(series_of(row[column]) for column in (MASK, CROP))
            found = [file for name in series for file in self.by_series.get(name, [])]
        return tuple(found or self.by_case.get(f"{row[IMAGE].split('/')[0]}_MASK", []))


def series_of(path: str) -> str:
    """Give the series of a table's path `case/study/series/name`."""
    return Path(path).parent.name
