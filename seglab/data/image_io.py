"""Image files as arrays: one table says what reads which format, and whatever reads a file does so through it.

A file is recognized by its content. It comes upright (EXIF orientation applied), one page of it, palettes as indices,
alpha apart from the colors. What a mask's pixels mean is in `masks.py`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from seglab.contract import ContractError, require
from seglab.data.dicom import decode_dicom, shape_of_dicom
from seglab.data.raster import Raster, choose_page, not_opaque, read_bytes, require_size
from seglab.data.resize import spread
from seglab.data.tiff import MAGIC, decode_tiff

Image.MAX_IMAGE_PIXELS = None  # Pillow's limit is below the size of a scan; `require_size` has ours
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a damaged file is one sentence, not lines of C++


def read_image(path: str, page: int | None = None) -> np.ndarray:
    """Decode an image file to (h, w), or (h, w, 3) in RGB order: uint8 or uint16, anything else as float32.

    Alpha is left out. Of a file with several pages `page` (from 0) is read. Raises a ContractError that names the file
    if it is missing, damaged, too large, or holds something else.
    """
    raster = decode(path, page)
    bands = raster.pixels.shape[2] if raster.pixels.ndim == 3 else 1
    found = f"{bands} bands"
    if raster.format == "TIFF" and raster.alpha is not None:  # there it is near infrared as often as not
        bands, found = bands + 1, f"{bands + 1} bands, of which the last is called alpha but is not opaque"
    remedy = "write the bands that the model shall see into files of 1 or 3 bands"
    require(bands in (1, 3), path, "1 band (gray) or 3 (red, green, blue)", found, remedy)
    pixels = raster.colors() if raster.levels is None else spread(raster.pixels, *raster.levels)
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    lost = pixels.size - np.count_nonzero(np.isfinite(pixels))
    require(not lost, path, "finite values", f"{lost} of {pixels.size} that are not", "fill them before")
    return pixels.astype(np.float32)


def image_facts(path: str) -> dict[str, bool]:
    """Say whether a file stores its picture turned, and whether it has an alpha channel that `read_image` leaves out.

    Decodes it only where its header speaks of alpha.
    """
    data = read_bytes(path)
    if format_of(path, data) in ("TIFF", "DICOM"):
        return {"turned": False, "alpha": False}
    head = header(data)
    alpha = head.mode in ("RGBA", "LA") and decode(path, 0).alpha is not None
    return {"turned": orientation_of(head) in range(2, 9), "alpha": alpha}


def has_8_bits(path: str) -> bool:
    """Say whether a file is known by its header to have no more than 8 bits."""
    data = read_bytes(path)
    if format_of(path, data) in ("TIFF", "DICOM"):
        return False
    return header(data).mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")


def shape_of(path: str, page: int | None = None) -> tuple[int, int]:
    """Give the height and width of an image as `read_image` has it, from the header of most files."""
    data = read_bytes(path)
    name = format_of(path, data)
    if name == "DICOM":
        return shape_of_dicom(path, data)
    if name == "TIFF":
        height, width = decode(path, page).pixels.shape[:2]
        return height, width
    head = header(data)
    return (head.height, head.width) if orientation_of(head) < 5 else (head.width, head.height)


def decode(path: str, page: int | None = None) -> Raster:
    """Decode one page of an image file, whatever its pixels hold."""
    data = read_bytes(path)
    name = format_of(path, data)
    try:
        return FORMATS[name].decode(path, data, page)
    except (ContractError, MemoryError):
        raise
    except Exception as error:  # OpenCV, Pillow and tifffile each fail in their own ways
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ContractError(f"{path}: expected a readable image, got a damaged {name} ({reason})") from None


def format_of(path: str, data: bytes) -> str:
    """Recognize the format of a file by its content, a name in FORMATS."""
    if data[:4] in MAGIC:
        return "TIFF"
    if data[128:132] == b"DICM" or path.lower().endswith(".dcm"):
        return "DICOM"
    try:
        return str(header(data).format)
    except Exception:
        found = f"{len(data)} bytes that no decoder takes"
        raise ContractError(f"{path}: expected a readable image ({', '.join(FORMATS)}), got {found}") from None


def header(data: bytes) -> Image.Image:
    """Open a file with Pillow, which reads its header alone."""
    return Image.open(io.BytesIO(data), formats=PILLOW)


def orientation_of(head: Image.Image) -> int:
    """Give the EXIF orientation of a file, 1 to 8; 1 is upright."""
    exif = Image.Exif()
    try:
        exif.load(head.info.get("exif", b""))
        return int(exif.get(0x0112, 1))
    except Exception:  # damaged metadata
        return 1


def decode_opencv(path: str, data: bytes, page: int | None) -> Raster:
    """Decode by OpenCV; palettes and animations by Pillow."""
    head = header(data)
    # A photo of a phone (MPO) is followed by a thumbnail or a map of depth, which are no pages.
    name, pages = str(head.format), 1 if head.format == "MPO" else getattr(head, "n_frames", 1)
    if head.mode == "P" or pages > 1:
        return decode_pillow(path, data, page)
    require_size(path, head.height, head.width)
    is_jpeg, again = name in ("JPEG", "MPO"), "copy the file again"
    require(not (is_jpeg and is_truncated(data)), path, "a whole JPEG", "one without its end", again)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ContractError(f"{path}: expected a readable image, got a damaged {name}; {again}")
    alpha = not_opaque(array[..., 3]) if array.shape[2:] == (4,) else None
    array = array if array.ndim == 2 else cv2.cvtColor(array[..., :3], cv2.COLOR_BGR2RGB)
    lossy = is_jpeg or (name == "WEBP" and is_lossy_webp(data))
    return Raster(array, name, alpha=alpha, lossy=lossy).upright(orientation_of(head))


def decode_pillow(path: str, data: bytes, page: int | None) -> Raster:
    """Decode one page by Pillow, as indices where it has a palette."""
    head = header(data)
    require_size(path, head.height, head.width)
    head.seek(choose_page(path, getattr(head, "n_frames", 1), page))
    head.load()
    palette = alpha = None
    if head.mode == "P":
        array, palette = np.asarray(head), np.array(head.getpalette("RGB"), np.uint8).reshape(-1, 3)
    elif head.mode in ("L", "RGB"):
        array = np.asarray(head)
    else:
        array = np.asarray(head.convert("RGBA"))
        array, alpha = array[..., :3], not_opaque(array[..., 3])
    return Raster(array, str(head.format), palette, alpha).upright(orientation_of(head))


def is_truncated(data: bytes) -> bool:
    """Recognize a JPEG that lacks its end marker: decoders fill up the missing rows with gray without a word."""
    return b"\xff\xd9" not in data[-4096:]


def is_lossy_webp(data: bytes) -> bool:
    """Say whether a WebP has a chunk of the lossy kind."""
    position = 12
    while position + 8 <= len(data) and data[position : position + 4] != b"VP8 ":
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + size + size % 2
    return position + 8 <= len(data)


class Format(NamedTuple):
    """How the names of a format's files end, and what decodes them: `decode(path, data, page)`."""

    suffixes: tuple[str, ...]
    decode: Callable[[str, bytes, int | None], Raster]


FORMATS = {
    "PNG": Format((".png",), decode_opencv),
    "JPEG": Format((".jpg", ".jpeg"), decode_opencv),
    "MPO": Format((), decode_opencv),
    "BMP": Format((".bmp",), decode_opencv),
    "PPM": Format((".pgm", ".ppm"), decode_opencv),
    "WEBP": Format((".webp",), decode_opencv),
    "GIF": Format((".gif",), decode_pillow),
    "TIFF": Format((".tif", ".tiff"), decode_tiff),
    "DICOM": Format((".dcm",), decode_dicom),
}
"""What is read, and by what; `docs/reference/formats.md` says it in words."""

PILLOW = [name for name in FORMATS if name not in ("MPO", "TIFF", "DICOM")]
"""Formats that Pillow recognizes; it finds out by itself that a JPEG is an MPO."""

SUFFIXES = tuple(suffix for one in FORMATS.values() for suffix in one.suffixes)


def existing_folder(path: str | Path) -> Path:
    """Give a folder of a data set, `~` expanded, or raise one sentence if it is missing."""
    folder = Path(path).expanduser()
    require(folder.is_dir(), "dataset", "a folder that exists", folder, "set dataset.root")
    return folder


def files_in(folder: Path, without: Container[Path] = (), suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """List the image files in and below a folder in the order of their names.

    Links are followed. Hidden files and folders do not count, nor do the folders `without`. Raises a ContractError for
    a name that is not UTF-8, which no table could hold.
    """
    found: list[Path] = []
    above: dict[str, set[str]] = {}  # the folders around each one: a link to one of them has no end
    for here, below, names in os.walk(existing_folder(folder), followlinks=True):
        place, around = os.path.realpath(here), above.pop(here, set())
        if place in around:
            below.clear()
            continue
        below[:] = [name for name in below if name[0] != "." and Path(here, name) not in without]
        above |= {os.path.join(here, name): around | {place} for name in below}
        found += [Path(here, name) for name in names if name.lower().endswith(suffixes) and name[0] != "."]
    for path in found:
        printable = os.fsencode(path).decode(errors="backslashreplace")
        require(printable == str(path), printable, "a file name in UTF-8", "another encoding", "rename it")
    return sorted(found)
