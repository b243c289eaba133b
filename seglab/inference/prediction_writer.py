"""Write predictions to files: masks, probabilities, overlays, and tables of objects and images."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock, Timeout
from PIL import Image, ImageColor
from scipy.ndimage import find_objects

from seglab.contract import Task, require
from seglab.files import cell, stays_inside, write_bytes, write_text
from seglab.images.image_io import SUFFIXES, is_volume, without_suffix
from seglab.images.labels import IGNORED, with_ignored
from seglab.images.medical import encode_nifti, one_sentence
from seglab.images.resize import in_colors, resize, to_bits, to_channels
from seglab.images.tiff import GDAL_NO_DATA, Tags, encode_tiff, georeference
from seglab.inference.predictor import FULL, class_masks
from seglab.metrics.objects import components
from seglab.plots import CLASS_COLORS

KINDS = {"mask": "masks", "probability": "probabilities", "overlay": "overlays", "objects": "objects.csv"}
"""The kinds of output for an image, and where each is written."""

SETTINGS = "predictions.json"
"""The file of settings, which marks a folder as one of predictions."""

LONGEST = 1600
"""The longer side of an overlay, in pixels, at most."""

COLUMNS = {
    "images": ["image", "file", "changed", "width", "height", "objects", "foreground"],
    "objects": ["image", "class", "object", "left", "top", "width", "height", "area", "confidence"],
}


def find_images(where: str | Sequence[str], output: Path) -> tuple[dict[str, Path], Counter[str]]:
    """Find the images named by folders (at any depth, following links), files and glob patterns.

    Returns each file by a unique name, which starts with the folder name if there are several folders, and the number
    of skipped files and folders by reason: hidden, another file type, not a regular file, or a folder of earlier
    predictions. `output` is the folder of the new predictions. Raises ContractError if no image is found.
    """
    relative_names: dict[Path, Path] = {}
    left_out: Counter[str] = Counter()
    paths: list[Path] = []
    for entry in [where] if isinstance(where, str) else where:
        path = Path(os.path.expanduser(entry))
        matches = [path] if path.exists() else sorted(map(Path, glob(str(path))))  # a name may contain brackets
        paths += matches or [path]
    several = sum(path.is_dir() for path in paths) > 1  # such as one per patient, with equal file names
    for path in paths:
        require(path.exists(), "predict", "an image or a folder of images", path, "set input=...")
        require(path.is_dir() or path.is_file(), "predict", "a file", f"{path}, which is a pipe or a device")
        source, folders = path.resolve(), [output.resolve() / folder for folder in KINDS.values()]
        same = source == output.resolve() or any(map(source.is_relative_to, folders))  # it would be overwritten
        require(not same, "predict", "an output folder that is not the input", path, "set output=DIR")
        files = sorted(walk(path, output, left_out)) if path.is_dir() else [path]
        parent = path if path.is_dir() and not several else path.parent
        relative_names |= {file: file.relative_to(parent) for file in files}
    require(bool(relative_names), "predict", f"images ({', '.join(SUFFIXES)}) in {where}", "none", "set input=...")
    count = Counter(map(without_suffix, relative_names.values()))
    names = {}
    for file, name in relative_names.items():
        short = without_suffix(name)
        names[short if count[short] == 1 else str(name)] = file
    unique, expected = len(names) == len(relative_names), "images with different names"
    require(unique, "predict", expected, "several with the same name", "predict them separately")
    return names, left_out


def walk(folder: Path, output: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Yield the image files of a folder, at any depth, and count the skipped ones in `left_out`."""
    visited = {output.resolve()}
    for name, folders, files in os.walk(folder, followlinks=True):
        current = Path(name)
        if current.resolve() in visited or (current / SETTINGS).exists():  # links may form a cycle
            left_out["folders that hold predictions or were searched already"] += 1
            folders.clear()
            continue
        visited.add(current.resolve())
        left_out["hidden folders"] += sum(name.startswith(".") for name in folders)
        folders[:] = [name for name in folders if not name.startswith(".")]  # in place, as os.walk reads it
        for file in map(current.joinpath, files):
            if file.name.startswith("."):
                left_out["hidden files"] += 1
            elif not file.name.lower().endswith(SUFFIXES):
                left_out["files of other types"] += 1
            elif not file.is_file():
                left_out["pipes, devices or broken links"] += 1
            elif any("\ud800" <= letter <= "\udfff" for letter in str(file)):  # surrogates of bytes that are not UTF-8
                left_out["files whose names are not UTF-8"] += 1
            else:
                yield file


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder of predictions, as two writers would spoil its tables; raise ContractError if it is locked."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        remedy = "wait until it finishes, or set another output=DIR"
        require(False, f"output {folder}", "a folder not in use", "one that another process is writing to", remedy)


def objects(mask: np.ndarray, levels: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray, float]]:
    """Yield the 8-connected objects of a mask: rows, columns, the object's mask in that box, its mean probability."""
    labels = components(mask)
    for number, box in enumerate(find_objects(labels), 1):
        inside = labels[box] == number
        yield *box, inside, float(levels[box][inside].mean() / FULL)


def overlay(image: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Draw the outline of each mask (h, w) on an image (h, w) or (h, w, c); return it as uint8 (h, w, 3), reduced."""
    scale = min(1.0, LONGEST / max(masks[0].shape))
    image = image if image.ndim == 2 else in_colors(image)
    canvas = resize(to_channels(to_bits(image, 8), 3), *(max(1, round(n * scale)) for n in masks[0].shape)).copy()
    width = max(1, max(canvas.shape) // 400)
    for k, mask in enumerate(masks):
        outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        small = [((line + 0.5) * scale - 0.5).round().astype(np.int32) for line in outlines]  # of pixel centers
        cv2.drawContours(canvas, small, -1, (0, 0, 0), width + 2)  # visible on any background
        cv2.drawContours(canvas, small, -1, (0, 229, 255) if len(masks) == 1 else color_of(k), width)
    return canvas


def color_of(k: int) -> tuple[int, ...]:
    """Return the RGB color of a class, by its index among the scored classes."""
    return ImageColor.getrgb(CLASS_COLORS[k % len(CLASS_COLORS)])


class PredictionWriter:
    """A writer of a folder of predictions, which knows the images that are already predicted.

    An image's row in images.csv is written last; an image without a row is predicted again. A folder with other
    settings is refused.

    The files of an image are `masks/NAME.png`, `probabilities/NAME.png` and `overlays/NAME.png`. With several classes,
    probabilities are `probabilities/CLASS/NAME.png`, and masks are `masks/CLASS/NAME.png` or, if classes are mutually
    exclusive, one mask of class numbers with a palette. Masks and probabilities of a GeoTIFF are `.tif` with its
    georeference. The masks of the slices of a NIfTI volume are also written as a volume. Pixels without data are 0, or
    255 in a mask of class numbers, which GDAL's no-data tag of a `.tif` declares.

    Args:
        names: the file of each image by its name, as returned by `find_images`.
        kinds: the outputs to write for each image, from KINDS.
        settings: everything that determines the pixels, as plain data.
        thresholds: for each class the least probability of its pixels; ignored for mutually exclusive classes.
        min_area: objects with fewer pixels are dropped, from the mask too.
        rerun: replace existing predictions.
        task: the classes.
    """

    def __init__(
        self,
        folder: Path,
        names: dict[str, Path],
        kinds: Sequence[str],
        settings: dict[str, Any],
        thresholds: Sequence[float],
        min_area: int = 1,
        rerun: bool = False,
        task: Task | None = None,
    ) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        got = ", ".join(map(str, unknown)) or "none"
        require(bool(kinds) and not unknown, "predict", f"format as one or more of {', '.join(KINDS)}", got)
        self.task, self.thresholds = task or Task(), thresholds
        self.parts = self.task.classes if self.task.channels > 1 else ("",)  # one folder per class if there are several
        fits = all(map(stays_inside, self.parts))  # another person chose them; they could name the folder of the images
        require(fits, "predict", "class names that name folders inside the output", ", ".join(self.parts))
        self.folder, self.names, self.kinds, self.min_area = folder, names, kinds, min_area
        settings_file, text = folder / SETTINGS, json.dumps(settings, indent=2) + "\n"
        self.tables = {key: folder / f"{key}.csv" for key in COLUMNS if key in ("images", *kinds)}
        if rerun and not (settings_file.exists() and settings_file.read_text() == text):
            self.remove_results()  # else results of two models would be mixed
        existing = {} if rerun else {key: file for key, file in self.tables.items() if file.exists()}
        previous = {key: read_rows(file, COLUMNS[key]) for key, file in existing.items()}
        if previous.get("images") and settings_file.exists():  # settings without a predicted image do not count
            expected, got = "predictions made with these settings", "some made with other settings"
            remedy = "set rerun=true to replace them, or output=DIR to keep both"
            require(settings_file.read_text() == text, f"output {folder}", expected, got, remedy)
        previous = previous if len(previous) == len(self.tables) else {}  # a missing table cannot be completed
        write_text(settings_file, text)
        files = {cell(str(file)): file for file in names.values()}  # a page of a stack is found by its file
        files |= {cell(name): file for name, file in names.items()}
        self.done = set()
        for row in previous.get("images", []):  # an image is predicted again if it has another file or the file changed
            file = files.get(row["image"], files.get(row["file"]))
            if file is None or (row["file"], row["changed"]) == (cell(str(file)), str(file.stat().st_mtime_ns)):
                self.done.add(row["image"])
        for key, table in self.tables.items():
            rows = [list(row.values()) for row in previous.get(key, []) if row["image"] in self.done]
            write_text(table, csv_lines([COLUMNS[key], *rows]))

    def remove_results(self) -> None:
        """Remove the files of all images in images.csv, then the tables, images.csv last; other files are kept."""
        table = self.folder / "images.csv"
        kind_folders = [self.folder / KINDS[kind] for kind in ("mask", "probability", "overlay")]
        folders = [folder for parent in kind_folders for folder in (parent, *parent.glob("*/"))]  # and those of classes
        for row in read_rows(table, COLUMNS["images"]) if table.exists() else ():
            name, volume = row["image"], is_volume(row["file"])
            name = name[1:] if cell(name[1:]) == name else name
            if not stays_inside(name):  # not written by `write`
                continue
            files = [f"{name}.png", f"{name}.tif", *[f"{name.rpartition('_')[0]}.nii.gz"] * volume]
            for path in (folder / file for folder in folders for file in files):
                path.unlink(missing_ok=True)
        for path in (self.folder / "objects.csv", table):
            path.unlink(missing_ok=True)

    def __contains__(self, name: str) -> bool:
        """Whether the image with this name was predicted before."""
        return cell(name) in self.done

    def write(self, name: str, file: Path, image: np.ndarray, levels: np.ndarray, valid: np.ndarray) -> None:
        """Write the requested outputs of an image (h, w) or (h, w, c) and its maps (h, w) or (k, h, w) uint16.

        valid: the pixels (h, w) bool that have data.
        """
        masks = [mask * valid for mask in class_masks(levels, self.thresholds, self.task)]
        if self.min_area > 1:
            masks = [(components(mask, self.min_area) > 0).astype(np.uint8) for mask in masks]
        maps, tags = levels.reshape(-1, *levels.shape[-2:]), georeference(str(file))
        if "mask" in self.kinds:
            self.write_masks(name, masks, valid, tags)
        if "probability" in self.kinds:
            for part, map_ in zip(self.parts, maps, strict=True):
                write_map(self.folder / "probabilities" / part / name, map_, tags)
        if "overlay" in self.kinds:
            write_map(self.folder / "overlays" / name, overlay(image, masks)[..., ::-1])  # OpenCV writes BGR
        rows: list[list[Any]] = []
        for k, mask in zip(self.task.scored, masks, strict=True):
            for y, x, inside, confidence in objects(mask, maps[k]):
                box = [x.start, y.start, x.stop - x.start, y.stop - y.start]
                measures = [*box, int(inside.sum()), round(confidence, 4)]
                rows.append([name, self.task.classes[k], len(rows) + 1, *measures])
        if "objects" in self.tables:
            self.append("objects", rows)
        height, width = valid.shape
        foreground = float(f"{np.maximum.reduce(masks).sum() / max(valid.sum(), 1):.6g}")
        changed = file.stat().st_mtime_ns
        self.append("images", [[name, str(file), changed, width, height, len(rows), foreground]])

    def write_masks(self, name: str, masks: Sequence[np.ndarray], valid: np.ndarray, tags: Tags) -> None:
        """Write one mask of 0 and 255, one per class if classes overlap, or one of class numbers with a palette."""
        folder = self.folder / "masks"
        if self.task.kind != "multiclass":
            for part, mask in zip(self.parts, masks, strict=True):
                write_map(folder / part / name, mask * 255, tags)
            return
        numbers = np.zeros(masks[0].shape, np.uint8)
        for k, mask in zip(self.task.scored, masks, strict=True):
            numbers[mask > 0] = k
        colors = bytes([0, 0, 0, *(level for k in range(len(masks)) for level in color_of(k))])
        palette = colors.ljust(3 * IGNORED, b"\0") + b"\x80\x80\x80"
        tags = tags and [*tags, (GDAL_NO_DATA, 2, 0, str(IGNORED), True)]  # 2: TIFF type of text
        write_map(folder / name, with_ignored(numbers, valid), tags, palette)

    def join_slices(self, name: str, file: Path, slices: Sequence[str], axis: int, again: bool) -> None:
        """Write the masks of all slices of a NIfTI volume as a volume of 0 and 1 or class numbers, with its geometry.

        again: replace an existing volume. Nothing is written if the mask of a slice is missing.
        """
        for part in [""] if self.task.kind == "multiclass" else self.parts:
            folder = self.folder / "masks" / part
            files, output = [folder / f"{slice_}.png" for slice_ in slices], folder / f"{name}.nii.gz"
            if all(map(Path.exists, files)) and (again or not output.exists()):
                planes = [np.asarray(Image.open(plane)).T for plane in files]  # the first axis is horizontal
                volume = np.stack(planes, axis)
                numbers = volume if self.task.kind == "multiclass" else volume > 0
                write_bytes(output, encode_nifti(numbers.astype(np.uint8), str(file)))

    def append(self, key: str, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows to a table."""
        with self.tables[key].open("a", newline="", encoding="utf-8") as file:  # read_rows drops a partial row
            file.write(csv_lines(rows))


def csv_lines(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows of a table as CSV text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()


def read_rows(file: Path, columns: list[str]) -> list[dict[str, str]]:
    """Read a table without a truncated last row; raise ContractError for other columns, as saved by a spreadsheet."""
    text = file.read_bytes().decode(errors="replace")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    remedy = "delete the folder, or set another output=DIR"
    with one_sentence(str(file), "a CSV file"):
        header = list(rows.fieldnames or columns)
        require(header == columns, str(file), f"the columns {','.join(columns)}", ",".join(header), remedy)
        return [row for row in rows if None not in row.values()]  # csv fills up short rows with None


def write_map(place: Path, pixels: np.ndarray, tags: Tags = (), palette: bytes = b"") -> None:
    """Write a picture atomically as PNG, or as TIFF if it has a georeference; the suffix is appended to `place`."""
    if tags:
        write_bytes(place.with_name(f"{place.name}.tif"), encode_tiff(pixels, tags, palette))
    elif palette:
        picture, buffer = Image.fromarray(pixels, "P"), io.BytesIO()
        picture.putpalette(palette)
        picture.save(buffer, "PNG")
        write_bytes(place.with_name(f"{place.name}.png"), buffer.getvalue())
    else:  # imwrite does not report a full disk
        write_bytes(place.with_name(f"{place.name}.png"), cv2.imencode(".png", pixels)[1].tobytes())
