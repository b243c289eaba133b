"""Read image files as arrays. The table `FORMATS` maps each format to its decoder, and every reader goes through it.

Formats are recognized by content (NIfTI by name). A decoded image is one upright page (EXIF orientation applied), with
palettes as indices and alpha apart from the colors. The meaning of a mask's pixels is left to `masks.py`.
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
from seglab.files import remedy_for_encoding
from seglab.images.medical import decode_dicom, decode_nifti
from seglab.images.raster import Page, Raster, choose_page, not_opaque, require_size
from seglab.images.tiff import MAGIC, decode_tiff

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is smaller than some scans; `require_size` enforces ours
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a damaged file raises ContractError; no C++ log


def read_image(path: str, page: Page | None = None, bands: Sequence[int] | None = None) -> np.ndarray:
    """Decode an image file to (h, w), or (h, w, 3) in RGB order: uint8 or uint16 as stored, float32 for other types.

    bands: 1-based numbers of the bands to return, in this order, alpha included; an empty list returns all bands. If
    None, the file must have 1 or 3 bands, and alpha is dropped. page: page to read (from 0) of a file with several.
    If the file names a no-data value, such pixels are NaN and the image is float32. Raises ContractError, naming the
    file, if it is missing, damaged, too large, or not such an image.
    """
    raster = decode(path, page)
    pixels, alpha = raster.colors(), raster.alpha
    if bands is not None:
        pixels = np.dstack([pixels] if alpha is None else [pixels, alpha])
        wrong = [band for band in bands if not 1 <= band <= pixels.shape[2]]
        require(not wrong, path, f"dataset.bands from 1 to {pixels.shape[2]}", wrong)
        pixels = pixels[..., [band - 1 for band in bands]] if bands else pixels
        pixels = pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)
    else:  # with any other number of bands, some would have to be dropped
        count = pixels.shape[2] if pixels.ndim == 3 else 1
        got = f"{count} bands"
        if raster.format == "TIFF" and alpha is not None:  # in a TIFF, alpha is often really near infrared
            count, got = count + 1, f"{count + 1} bands, of which the last is declared as alpha but is not opaque"
        remedy = "train with dataset.bands=[3,2,1] to select bands, or with dataset.channels set to their number"
        require(count in (1, 3), path, "1 band (gray) or 3 bands (red, green, blue)", got, remedy)
    if raster.no_data is None and pixels.dtype in (np.uint8, np.uint16):
        return pixels
    pixels = pixels.astype(np.float32)
    if raster.no_data is not None:
        empty = np.isnan(pixels) if np.isnan(raster.no_data) else pixels == np.float32(raster.no_data)
        pixels[empty if empty.ndim == 2 else empty.all(2)] = np.nan  # in some bands only, it may be a measurement
    invalid = np.count_nonzero(~np.isfinite(pixels) if raster.no_data is None else np.isinf(pixels))
    require(not invalid, path, "finite values", f"{invalid} of {pixels.size} that are not", "replace them in the file")
    return pixels


def has_8_bits(path: str) -> bool:
    """Return True if the header of a file shows that it has at most 8 bits per channel."""
    name, data = recognize(path)
    mode = header(data).mode if name in PILLOW else ""
    deep = (name == "PNG" and data[24] > 8) or (name == "PPM" and mode == "RGB")  # Pillow's RGB may be 16 bits wide
    return not deep and mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")


def decode(path: str, page: Page | None = None) -> Raster:
    """Decode one page of an image file without interpreting its pixels."""
    name, data = recognize(path)
    try:
        return FORMATS[name].decode(path, data, page)
    except (ContractError, MemoryError, ImportError):  # the last two do not mean a damaged file
        raise
    except Exception as error:  # OpenCV, Pillow and tifffile each raise their own errors
        reason = shorten(str(error), 120, placeholder=" ...") or type(error).__name__
        kind = "a" if "not supported" in reason else "a damaged"  # older packages say this of some compressions
        raise ContractError(f"{path}: expected a readable image, got {kind} {name} ({reason})") from None


def recognize(path: str) -> tuple[str, bytes]:
    """Return the format of a file (a key of FORMATS) and its content, which is empty for a volume."""
    if is_volume(path):
        return "NIfTI", b""  # its decoder reads the file once for all slices
    data = read_bytes(path)
    has_name, has_mark = path.lower().endswith(".dcm"), data[128:132] == b"DICM"
    if data[:4] in MAGIC and not (has_name and has_mark):  # the preamble of a DICOM may be the header of a TIFF
        return "TIFF", data
    if has_mark or has_name:  # a damaged .dcm file is reported as DICOM
        return "DICOM", data
    try:
        return str(header(data).format), data
    except Exception:
        got = f"{len(data)} bytes of an unknown format"
        raise ContractError(f"{path}: expected a readable image ({', '.join(FORMATS)}), got {got}") from None


def read_bytes(path: str) -> bytes:
    """Read a regular file. Raises ContractError for anything else, because reading a pipe may never end."""
    try:
        kind = os.stat(path).st_mode
        require(stat.S_ISREG(kind), path, "a regular file", "a folder" if stat.S_ISDIR(kind) else "a pipe or device")
        return Path(path).read_bytes()
    except OSError as error:
        raise ContractError(f"{path}: expected a readable file, got {error.strerror}") from None


def header(data: bytes) -> Image.Image:
    """Open a file with Pillow, which reads only the header."""
    return Image.open(io.BytesIO(data), formats=PILLOW)


def orientation_of(head: Image.Image) -> int:
    """Return the EXIF orientation of a file, 1 to 8; 1 is upright."""
    exif = Image.Exif()  # head.getexif() would decode a PNG without EXIF
    try:
        exif.load(head.info.get("exif", b""))
        return int(exif.get(0x0112, 1))
    except Exception:  # damaged metadata
        return 1


def decode_opencv(path: str, data: bytes, page: Page | None) -> Raster:
    """Decode with OpenCV; palettes, which OpenCV would expand to colors, and animations are decoded with Pillow."""
    head = header(data)
    # In a phone photo (MPO), the image is followed by a thumbnail or a depth map, which do not count as pages.
    name, pages = str(head.format), 1 if head.format == "MPO" else getattr(head, "n_frames", 1)
    if head.mode == "P" or pages > 1:
        return decode_pillow(path, data, page)
    require_size(path, head.height, head.width)
    is_jpeg, remedy = name in ("JPEG", "MPO"), "copy the file again"
    # Decoders silently fill missing rows with gray.
    require(not is_jpeg or is_whole_jpeg(data), path, "a complete JPEG", "one without an end marker", remedy)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # as stored: bits, alpha, orientation
    if array is None:
        raise ContractError(f"{path}: expected a readable image, got a damaged {name}; {remedy}")
    alpha = not_opaque(array[..., 3]) if array.shape[2:] == (4,) else None
    array = array if array.ndim == 2 else cv2.cvtColor(array[..., :3], cv2.COLOR_BGR2RGB)
    lossy = is_jpeg or (name == "WEBP" and is_lossy_webp(data))
    return Raster(array, name, alpha=alpha, lossy=lossy).upright(orientation_of(head))


def decode_pillow(path: str, data: bytes, page: Page | None) -> Raster:
    """Decode one page with Pillow; an image with a palette is returned as indices."""
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
    """Return True if the image data of a JPEG has an end marker; what follows, such as a phone's video, is ignored."""
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        length = int.from_bytes(data[position + 2 : position + 4], "big")  # thumbnails have an end marker, too
        position += 1 if data[position + 1 : position + 2] == b"\xff" else 2 + length  # the first 0xff is padding
    return data.find(b"\xff\xd9", position) >= 0  # never occurs among the entropy-coded pixels


def is_lossy_webp(data: bytes) -> bool:
    """Return True if a WebP file has a lossy (VP8) chunk."""
    position = 12  # after the RIFF header
    while position + 8 <= len(data) and data[position : position + 4] != b"VP8 ":
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + size + size % 2  # chunks are padded to even sizes
    return position + 8 <= len(data)


class Format(NamedTuple):
    """The file suffixes of a format, and the function that decodes it: `decode(path, data, page)`."""

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
"""The supported formats with their decoders; `docs/reference/formats.md` describes them."""

PILLOW = [name for name in FORMATS if name not in ("MPO", "TIFF", "DICOM", "NIfTI")]
"""The formats that Pillow tries to recognize; it detects by itself that a JPEG is an MPO."""

SUFFIXES = tuple(suffix for one in FORMATS.values() for suffix in one.suffixes)


def existing_folder(path: str | Path) -> Path:
    """Return a dataset folder with `~` expanded; raises ContractError if it does not exist."""
    folder = Path(os.path.expanduser(path))
    remedy = "check dataset.root and the options that name folders in it"
    require(folder.is_dir(), "dataset", "a folder that exists", folder, remedy)
    return folder


def files_in(folder: Path, without: Container[Path] = ()) -> list[Path]:
    """List the image files in and below a folder, sorted by path.

    Links are followed. Hidden files and folders, and the folders in `without`, are skipped. Raises ContractError for a
    file name that is not UTF-8, because a table cannot hold it.
    """

    def refuse(error: OSError) -> None:
        raise error

    files: list[Path] = []
    ancestors: dict[str, set[str]] = {}  # the parents of each folder: a link to one of them would never end
    # Without `onerror`, os.walk silently skips folders that cannot be read.
    for current, folders, names in os.walk(existing_folder(folder), onerror=refuse, followlinks=True):
        real, parents = os.path.realpath(current), ancestors.pop(current, set())
        if real in parents:
            folders.clear()
            continue
        # os.walk descends into the folders that remain in this list.
        folders[:] = [name for name in folders if name[0] != "." and Path(current, name) not in without]
        ancestors |= {os.path.join(current, name): parents | {real} for name in folders}
        files += [Path(current, name) for name in names if name[0] != "." and name.lower().endswith(SUFFIXES)]
    for path in files:
        printable = os.fsencode(path).decode(errors="backslashreplace")  # a byte that is not UTF-8 is a lone surrogate
        require(printable == str(path), printable, "a file name in UTF-8", "another encoding", remedy_for_encoding())
    return sorted(files)


def is_volume(path: str) -> bool:
    """Whether a file is a NIfTI volume, by its name."""
    return path.lower().endswith(FORMATS["NIfTI"].suffixes)


def without_suffix(path: PurePath) -> str:
    """Return a path without its suffix, with / between folders; `.nii.gz` counts as one suffix."""
    return re.sub(r"\.(nii\.gz|[^./]+)$", "", path.as_posix(), flags=re.IGNORECASE)


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by their stems in lower case; raises ContractError if two files have the same stem."""
    by_name: dict[str, Path] = {}
    for path in paths:
        first = by_name.setdefault(path.stem.lower(), path)
        require(first == path, str(first), "one file of this name", f"{path} as well", "remove one")
    return by_name
