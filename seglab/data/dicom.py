"""Gray DICOM files by pydicom: dark background, whatever the file calls white."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from seglab.contract import ContractError, require
from seglab.data.raster import Raster, choose_page, read_bytes, require_size
from seglab.data.resize import spread

WINDOWS = ("full", "percentile", "header")


def decode_dicom(path: str, data: bytes, page: int | None) -> Raster:
    """Decode one frame in its stored values, uint8 where 8 bits are stored."""
    pixels, found = stored(path, data, page)
    low, high = stored_range(found)
    if found.PhotometricInterpretation == "MONOCHROME1":
        pixels = (low + high - pixels.astype(np.int64)).astype(pixels.dtype)
    lossy = found.get("LossyImageCompression") == "01"
    if (low, high) == (0, 255):
        return Raster(pixels.astype(np.uint8), "DICOM", lossy=lossy)
    return Raster(pixels, "DICOM", lossy=lossy, levels=(low, high))


def read_dicom(path: str, window: str = "full") -> np.ndarray:
    """Decode a gray DICOM (MONOCHROME1 or 2) to (h, w) uint16 with dark background.

    window: `full` spreads the stored bits over 16, `header` the file's own window. Raises a ContractError that names
    the file if it is no DICOM, is truncated, has no pixels, several frames, or colors.
    """
    pixels, found = stored(path, read_bytes(path), None)
    gray = spread(pixels, *(header_window(found, path) if window == "header" else stored_range(found)))
    return ~gray if found.PhotometricInterpretation == "MONOCHROME1" else gray


def stored(path: str, data: bytes, page: int | None) -> tuple[np.ndarray, Any]:
    """Give the stored pixels (h, w) of one frame, and the tags."""
    import pydicom
    from pydicom.pixels import pixel_array

    with one_sentence(path):
        found = pydicom.dcmread(io.BytesIO(data))
        frames = int(found.get("NumberOfFrames") or 1)
        require_size(path, int(found.Rows), int(found.Columns))
        number = choose_page(path, frames, page)
        pixels = pixel_array(found, index=number if frames > 1 else None)
        _ = found.BitsStored, found.PhotometricInterpretation
    require(pixels.ndim == 2, path, "a gray image (h, w)", "x".join(map(str, pixels.shape)))
    return pixels, found


def stored_range(found: Any) -> tuple[int, int]:
    """Give the least and the greatest value that fits into the stored bits."""
    bits, signed = int(found.BitsStored), found.get("PixelRepresentation") == 1
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


@contextmanager
def one_sentence(path: str) -> Iterator[None]:
    """Turn what pydicom raises for a file that is not what it should be, a dozen kinds, into a ContractError."""
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ContractError(f"{path}: expected a DICOM with pixels, got {reason}") from None


def header_window(data: Any, path: str) -> tuple[float, float]:
    """Give the darkest and brightest value of a DICOM's own window (its first, where it has several)."""
    names = ("WindowCenter", "WindowWidth")
    require(all(name in data for name in names), path, "a window in its header", "none", "set dataset.window=full")
    center, width = (float(np.atleast_1d(np.asarray(data[name].value, float))[0]) for name in names)
    return center - width / 2, center + width / 2


def shape_of_dicom(path: str, data: bytes) -> tuple[int, int]:
    """Give the height and width of a DICOM without decoding it."""
    import pydicom

    with one_sentence(path):
        head = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return int(head.Rows), int(head.Columns)
