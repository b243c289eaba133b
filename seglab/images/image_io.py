"""Image files as arrays: one table says what reads which format, and whatever reads a file does so through it.

A file is recognized by its content. It comes upright (EXIF orientation applied), one page of it, palettes as indices,
alpha apart from the colors. What a mask's pixels mean is in `masks.py`.
"""

import io
import os
import re
import stat
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path, PurePath
from textwrap import shorten
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from seglab.contract import ContractError, require
from seglab.images.medical import decode_dicom, decode_nifti
from seglab.images.raster import Page, Raster, choose_page, not_opaque, require_size
from seglab.images.tiff import MAGIC, decode_tiff

Image.MAX_IMAGE_PIXELS = None  # Pillow's limit is below the size of a scan; `require_size` has ours
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a damaged file is one sentence, not lines of C++


def read_image(path: str, page: Page | None = None, bands: Sequence[int] | None = None) -> np.ndarray:
    """Decode an image file to (h, w), or (h, w, 3) in RGB order: uint8 or uint16, anything else as float32.

    bands: numbers from 1 of those to read, in this order, what is called alpha among them; an empty list reads all.
    Where a file names a value for no data, such pixels are NaN, and the image float32. Alpha is left out otherwise. Of
    a file with several pages `page` (from 0) is read. Raises a ContractError that names the file if it is missing,
    damaged, too large, or holds something else.
    """
    raster = decode(path, page)
    pixels, alpha = raster.colors(), raster.alpha
    if bands is not None:
        pixels = np.dstack([pixels] if alpha is None else [pixels, alpha])
        wrong = [band for band in bands if not 1 <= band <= pixels.shape[2]]
        require(not wrong, path, f"dataset.bands from 1 to {pixels.shape[2]}", wrong)
        pixels = pixels[..., [band - 1 for band in bands]] if bands else pixels
        pixels = pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)
    else:  # of other than 1 or 3 bands some would have to be dropped
        count = pixels.shape[2] if pixels.ndim == 3 else 1
        got = f"{count} bands"
        if raster.format == "TIFF" and alpha is not None:  # there it is near infrared as often as not
            count, got = count + 1, f"{count + 1} bands, of which the last is called alpha but is not opaque"
        remedy = "train with dataset.bands=[3,2,1] to choose some, or with dataset.channels as their number"
        require(count in (1, 3), path, "1 band (gray) or 3 (red, green, blue)", got, remedy)
    if raster.no_data is None and pixels.dtype in (np.uint8, np.uint16):
        return pixels
    pixels = pixels.astype(np.float32)
    if raster.no_data is not None:
        empty = np.isnan(pixels) if np.isnan(raster.no_data) else pixels == np.float32(raster.no_data)
        pixels[empty if empty.ndim == 2 else empty.all(2)] = np.nan  # in a single band the value may be a measured one
    lost = np.count_nonzero(~np.isfinite(pixels) if raster.no_data is None else np.isinf(pixels))
    require(not lost, path, "finite values", f"{lost} of {pixels.size} that are not", "fill them before")
    return pixels


def has_8_bits(path: str) -> bool:
    """Say whether a file is known by its header to have no more than 8 bits of each channel."""
    name, data = recognize(path)
    mode = header(data).mode if name in PILLOW else ""
    deep = (name == "PNG" and data[24] > 8) or (name == "PPM" and mode == "RGB")  # Pillow's RGB may be 16 bits a color
    return not deep and mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")


def decode(path: str, page: Page | None = None) -> Raster:
    """Decode one page of an image file, whatever its pixels hold."""
    name, data = recognize(path)
    try:
        return FORMATS[name].decode(path, data, page)
    except (ContractError, MemoryError, ImportError):  # the last two say nothing about the file
        raise
    except Exception as error:  # OpenCV, Pillow and tifffile each fail in their own ways
        reason = shorten(str(error), 120, placeholder=" ...") or type(error).__name__
        raise ContractError(f"{path}: expected a readable image, got a damaged {name} ({reason})") from None


def recognize(path: str) -> tuple[str, bytes]:
    """Give the format of a file, a name in FORMATS, and its content; that of a volume is left to its decoder."""
    if is_volume(path):
        return "NIfTI", b""  # read once for all its slices
    data = read_bytes(path)
    if data[:4] in MAGIC:
        return "TIFF", data
    if data[128:132] == b"DICM" or path.lower().endswith(".dcm"):  # a damaged one is a damaged DICOM
        return "DICOM", data
    try:
        return str(header(data).format), data
    except Exception:
        found = f"{len(data)} bytes that no decoder takes"
        raise ContractError(f"{path}: expected a readable image ({', '.join(FORMATS)}), got {found}") from None


def read_bytes(path: str) -> bytes:
    """Read a regular file; a pipe would never end."""
    try:
        kind = os.stat(path).st_mode
        require(stat.S_ISREG(kind), path, "a regular file", "a folder" if stat.S_ISDIR(kind) else "a pipe or device")
        return Path(path).read_bytes()
    except OSError as error:
        raise ContractError(f"{path}: expected a readable file, got {error.strerror}") from None


def header(data: bytes) -> Image.Image:
    """Open a file with Pillow, which reads its header alone."""
    return Image.open(io.BytesIO(data), formats=PILLOW)


def orientation_of(head: Image.Image) -> int:
    """Give the EXIF orientation of a file, 1 to 8; 1 is upright."""
    exif = Image.Exif()  # head.getexif() would decode a PNG that has none
    try:
        exif.load(head.info.get("exif", b""))
        return int(exif.get(0x0112, 1))
    except Exception:  # damaged metadata
        return 1


def decode_opencv(path: str, data: bytes, page: Page | None) -> Raster:
    """Decode by OpenCV; palettes, which it would turn into colors, and animations by Pillow."""
    head = header(data)
    # A photo of a phone (MPO) is followed by a thumbnail or a map of depth, which are no pages.
    name, pages = str(head.format), 1 if head.format == "MPO" else getattr(head, "n_frames", 1)
    if head.mode == "P" or pages > 1:
        return decode_pillow(path, data, page)
    require_size(path, head.height, head.width)
    is_jpeg, again = name in ("JPEG", "MPO"), "copy the file again"
    # Decoders fill up the missing rows with gray without a word.
    require(not is_jpeg or is_whole_jpeg(data), path, "a whole JPEG", "one without its end", again)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # as stored: bits, alpha, orientation
    if array is None:
        raise ContractError(f"{path}: expected a readable image, got a damaged {name}; {again}")
    alpha = not_opaque(array[..., 3]) if array.shape[2:] == (4,) else None
    array = array if array.ndim == 2 else cv2.cvtColor(array[..., :3], cv2.COLOR_BGR2RGB)
    lossy = is_jpeg or (name == "WEBP" and is_lossy_webp(data))
    return Raster(array, name, alpha=alpha, lossy=lossy).upright(orientation_of(head))


def decode_pillow(path: str, data: bytes, page: Page | None) -> Raster:
    """Decode one page by Pillow, as indices where it has a palette."""
    head, palette, alpha = header(data), None, None
    require_size(path, head.height, head.width)
    head.seek(choose_page(path, getattr(head, "n_frames", 1), page))
    head.load()
    if head.mode == "P":
        palette = np.array(head.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette = np.pad(palette, ((0, 256 - len(palette)), (0, 0)))  # an index without a color is black in viewers
    array = np.asarray(head if head.mode in ("P", "L", "RGB") else head.convert("RGBA"))
    if array.shape[2:] == (4,):
        array, alpha = array[..., :3], not_opaque(array[..., 3])
    return Raster(array, str(head.format), palette, alpha).upright(orientation_of(head))


def is_whole_jpeg(data: bytes) -> bool:
    """Say whether the picture of a JPEG ends, whatever comes behind it, such as the video of a phone."""
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        length = int.from_bytes(data[position + 2 : position + 4], "big")  # a thumbnail in there has an end, too
        position += 1 if data[position + 1 : position + 2] == b"\xff" else 2 + length  # the first fills up
    return data.find(b"\xff\xd9", position) >= 0  # never occurs among the entropy-coded pixels


def is_lossy_webp(data: bytes) -> bool:
    """Say whether a WebP has a chunk of the lossy kind."""
    position = 12  # after the RIFF header
    while position + 8 <= len(data) and data[position : position + 4] != b"VP8 ":
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + size + size % 2  # chunks are padded to even sizes
    return position + 8 <= len(data)


class Format(NamedTuple):
    """How the names of a format's files end, and what decodes them: `decode(path, data, page)`."""

    suffixes: tuple[str, ...]
    decode: Callable[[str, bytes, Page | None], Raster]


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
    "NIfTI": Format((".nii", ".nii.gz"), decode_nifti),
}
"""What is read, and by what; `docs/reference/formats.md` says it in words."""

PILLOW = [name for name in FORMATS if name not in ("MPO", "TIFF", "DICOM", "NIfTI")]
"""Formats that Pillow is to recognize; that a JPEG is an MPO it finds out by itself."""

SUFFIXES = tuple(suffix for one in FORMATS.values() for suffix in one.suffixes)


def existing_folder(path: str | Path) -> Path:
    """Give a folder of a data set, `~` expanded, or raise one sentence if it is missing."""
    folder = Path(path).expanduser()
    remedy = "see dataset.root and the options that name folders in it"
    require(folder.is_dir(), "dataset", "a folder that exists", folder, remedy)
    return folder


def files_in(folder: Path, without: Container[Path] = ()) -> list[Path]:
    """List the image files in and below a folder in the order of their names.

    Links are followed. Hidden files and folders do not count, nor do the folders `without`. Raises a ContractError for
    a name that is not UTF-8, which no table could hold.
    """

    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    above: dict[str, set[str]] = {}  # the folders around each one: a link to one of them has no end
    # By itself os.walk leaves out, without a word, a folder that may not be read.
    for here, below, names in os.walk(existing_folder(folder), onerror=refuse, followlinks=True):
        place, around = os.path.realpath(here), above.pop(here, set())
        if place in around:
            below.clear()
            continue
        below[:] = [name for name in below if name[0] != "." and Path(here, name) not in without]  # to go on in
        above |= {os.path.join(here, name): around | {place} for name in below}
        found += [Path(here, name) for name in names if name[0] != "." and name.lower().endswith(SUFFIXES)]
    for path in found:
        printable = os.fsencode(path).decode(errors="backslashreplace")  # a byte that is not UTF-8 is a lone surrogate
        require(printable == str(path), printable, "a file name in UTF-8", "another encoding", "rename it")
    return sorted(found)


def is_volume(path: str) -> bool:
    """Whether a file is a NIfTI volume, by its name."""
    return path.lower().endswith(FORMATS["NIfTI"].suffixes)


def without_suffix(path: PurePath) -> str:
    """Give a path, with / between folders, without its ending; `.nii.gz` is one."""
    return re.sub(r"\.(nii\.gz|[^./]+)$", "", path.as_posix(), flags=re.IGNORECASE)


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Give files by their names without ending, in lower case; raises a ContractError where two have the same."""
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(path.stem.lower(), path)
        require(other == path, str(other), "one file of its name", f"{path} too", "remove one")
    return found
