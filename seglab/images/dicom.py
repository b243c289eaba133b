"""Gray DICOM files by pydicom: dark background, whatever the file calls white."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from seglab.contract import ContractError, require
from seglab.images.raster import Page, Raster, choose_page, require_size
from seglab.images.resize import spread

WINDOWS = ("full", "percentile", "header")


def read_dicom(path: str, window: str = "full", page: Page | None = None) -> np.ndarray:
    """Decode a gray DICOM (MONOCHROME1 or 2) to (h, w) uint16 with dark background.

    window: `full` spreads the stored bits over 16, `header` the file's own window. Raises a ContractError that names
    the file if it is no DICOM, is truncated, has no pixels, several frames without a choice, or is in color.
    """
    import pydicom
    from pydicom.pixels import pixel_array

    with one_sentence(path):
        data = pydicom.dcmread(path)
        frames, bits, kind = int(data.get("NumberOfFrames") or 1), int(data.BitsStored), data.PhotometricInterpretation
        require_size(path, data.Rows, data.Columns)
        number = choose_page(path, frames, page)
        pixels = pixel_array(data, index=number if frames > 1 else None)
    require(pixels.ndim == 2, path, "a gray image (h, w)", "x".join(map(str, pixels.shape)))
    low = -(2 ** (bits - 1)) if data.get("PixelRepresentation") == 1 else 0
    gray = spread(pixels, *(header_window(data, path) if window == "header" else (low, low + 2**bits - 1)))
    return ~gray if kind == "MONOCHROME1" else gray


def decode_dicom(path: str, data: bytes, page: Page | None) -> Raster:
    """Decode one frame, its stored bits spread over 8 or 16."""
    gray = read_dicom(path, "full", page)
    low = (gray >> 8).astype(np.uint8)
    return Raster(low if (low * np.uint16(257) == gray).all() else gray, "DICOM")


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
