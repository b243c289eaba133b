"""Gray DICOM files by pydicom, dark background whatever they call white, and slices of NIfTI volumes by nibabel.

A slice is not resampled: the first of its two axes runs to the right, the second down.
"""

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from textwrap import shorten
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from seglab.contract import ContractError, require
from seglab.images.raster import Page, Raster, choose_page, require_size
from seglab.images.resize import rescale

WINDOWS = ("full", "percentile", "header")  # of a DICOM's values, from black to white
LAST = 2  # the axis across which slices are taken where none is named
reading = Lock()


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
    got = kind if pixels.ndim == 2 else "x".join(map(str, pixels.shape))
    gray = pixels.ndim == 2 and kind.startswith("MONOCHROME")  # the indices of a palette (ultrasound) are (h, w), too
    require(gray, path, "a gray image (h, w)", got)
    low = -(2 ** (bits - 1)) if data.get("PixelRepresentation") == 1 else 0
    found = rescale(pixels, *(header_window(data, path) if window == "header" else (low, low + 2**bits - 1)))
    return ~found if kind == "MONOCHROME1" else found


def decode_dicom(path: str, data: bytes, page: Page | None) -> Raster:
    """Decode one frame, its stored bits spread over 8 or 16."""
    gray = read_dicom(path, "full", page)
    low = (gray >> 8).astype(np.uint8)  # 8 stored bits, spread over 16, are the multiples of 257
    return Raster(low if (low * np.uint16(257) == gray).all() else gray, "DICOM")


@contextmanager
def one_sentence(path: str, expected: str = "a DICOM with pixels") -> Iterator[None]:
    """Turn what libraries raise for a file that is not what it should be, a dozen kinds, into a ContractError."""
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        other = type(error).__name__ == "InvalidDicomError"  # a page of a web server, or an empty file
        reason = "another kind of file" if other else shorten(text, 120, placeholder=" ...")
        raise ContractError(f"{path}: expected {expected}, got {reason}") from None


def header_window(data: Any, path: str) -> tuple[float, float]:
    """Give the darkest and brightest value of a DICOM's own window (its first, where it has several)."""
    window = [data.get(name) for name in ("WindowCenter", "WindowWidth")]  # None for a tag that is there but empty
    require(None not in window, path, "a window in its header", "none", "set dataset.window=full")
    center, width = (float(np.atleast_1d(np.asarray(one, float))[0]) for one in window)
    return center - width / 2, center + width / 2


class Header(NamedTuple):
    """What a volume says of itself: its size, which way its axes point, such as RAS, and where its voxels lie in mm."""

    shape: tuple[int, ...]
    orientation: str
    affine: np.ndarray

    @property
    def place(self) -> str:
        """Where the voxels lie, in words."""
        spacing, origin = np.linalg.norm(self.affine[:3, :3], axis=0), self.affine[:3, 3]
        return f"voxels of {'x'.join(f'{x:.4g}' for x in spacing)} mm from ({', '.join(f'{x:.4g}' for x in origin)})"

    def misses(self, other: "Header") -> bool:
        """Whether another volume begins over a voxel away, has voxels that differ by over 1 %, or is tilted by 8°."""
        relative = np.linalg.pinv(self.affine) @ other.affine  # in voxels of this one; the unit matrix in one place
        return bool(abs(relative[:3, 3]).max() > 1 or abs(relative.diagonal() - 1).max() > 0.01)

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {self.orientation}"


def read_header(path: str) -> Header:
    """Read the header alone; raises a ContractError for what is no volume of three axes."""
    import nibabel

    with one_sentence(path, "a NIfTI volume"):
        image: Any = nibabel.load(path)
        shape, affine, codes = image.shape, image.affine, nibabel.aff2axcodes(image.affine)
    flat = len(shape) >= 3 and all(size == 1 for size in shape[3:])
    require(flat, path, "a volume of three axes", "x".join(map(str, shape)), "save each part as a file of its own")
    return Header(shape[:3], "".join(code or "?" for code in codes), affine)


# Threads pass from one volume to the next: an image and a few masks of both.
@lru_cache(maxsize=8)
def read_volume(path: str, changed: int) -> np.ndarray:
    """Read a volume in its stored kind of number, or float32 where the header scales it; mapped if not compressed."""
    import nibabel

    shape, image = read_header(path).shape, nibabel.load(path)
    values = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    require(values.dtype.kind in "iuf", path, "a number in each voxel", values.dtype)
    return (values.astype(np.float32) if values.dtype == np.float64 else values).reshape(shape, order="F")


def decode_nifti(path: str, data: bytes, page: Page | None) -> Raster:
    """Decode one slice, of which the first of its axes runs to the right; NaN is no data."""
    axis = page[0] if isinstance(page, tuple) else LAST
    with reading:  # or several threads would read the same volume
        volume = read_volume(path, os.stat(path).st_mtime_ns)
    number = choose_page(path, volume.shape[axis], page)
    pixels = volume[(slice(None),) * axis + (number,)].T  # `take` would copy the volume, which is in Fortran's order
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    return Raster(pixels, "NIfTI", no_data=np.nan if np.isnan(pixels).any() else None)


def encode_nifti(labels: np.ndarray, like: str) -> bytes:
    """Encode labels (x, y, z) uint8 as `.nii.gz`, at the place in space that another volume's header says."""
    import nibabel

    source: Any = nibabel.load(like)
    image = nibabel.Nifti1Image(labels, None, source.header, dtype=np.uint8)
    image.header["cal_min"] = image.header["cal_max"] = 0  # the brightness of the scan, not of labels
    return gzip.compress(image.to_bytes(), 6, mtime=0)
