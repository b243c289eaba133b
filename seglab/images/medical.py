"""Read gray DICOM files with pydicom, always on a dark background, and slices of NIfTI volumes with nibabel.

Slices are not resampled: the first of a slice's two axes runs to the right, the second down.
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

WINDOWS = ("full", "percentile", "header")  # how values of a DICOM map to black and white
LAST = 2  # the default axis across which slices are taken
reading = Lock()


def read_dicom(path: str, window: str = "full", page: Page | None = None) -> np.ndarray:
    """Decode a gray DICOM (MONOCHROME1 or 2) to (h, w) uint16 with a dark background.

    window: `full` scales the range of the stored bits to 16 bits, `header` the file's own window. Raises ContractError,
    naming the file, if it is no DICOM, truncated, without pixels, in color, or has several frames and no `page`.
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
    gray = pixels.ndim == 2 and kind.startswith("MONOCHROME")  # palette indices (ultrasound) are (h, w), too
    require(gray, path, "a gray image (h, w)", got)
    low = -(2 ** (bits - 1)) if data.get("PixelRepresentation") == 1 else 0
    scaled = rescale(pixels, *(header_window(data, path) if window == "header" else (low, low + 2**bits - 1)))
    return ~scaled if kind == "MONOCHROME1" else scaled


def decode_dicom(path: str, data: bytes, page: Page | None) -> Raster:
    """Decode one frame, with the range of its stored bits scaled to uint8 or uint16."""
    gray = read_dicom(path, "full", page)
    low = (gray >> 8).astype(np.uint8)  # 8 stored bits, scaled to 16, are multiples of 257
    return Raster(low if (low * np.uint16(257) == gray).all() else gray, "DICOM")


@contextmanager
def one_sentence(path: str, expected: str = "a DICOM with pixels") -> Iterator[None]:
    """Convert any exception that a library raises for an invalid file into a one-sentence ContractError."""
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        is_other_format = type(error).__name__ == "InvalidDicomError"  # an HTML page, or an empty file
        reason = "another kind of file" if is_other_format else shorten(text, 120, placeholder=" ...")
        raise ContractError(f"{path}: expected {expected}, got {reason}") from None


def header_window(data: Any, path: str) -> tuple[float, float]:
    """Return the darkest and the brightest value of the window in a DICOM header (the first, if it has several)."""
    window = [data.get(name) for name in ("WindowCenter", "WindowWidth")]  # None for a tag that is present but empty
    require(None not in window, path, "a window in its header", "none", "set dataset.window=full")
    center, width = (float(np.atleast_1d(np.asarray(value, float))[0]) for value in window)
    return center - width / 2, center + width / 2


class Header(NamedTuple):
    """The header of a volume: its size, the orientation of its axes, such as RAS, and its affine from voxels to mm."""

    shape: tuple[int, ...]
    orientation: str
    affine: np.ndarray

    @property
    def place(self) -> str:
        """The voxel spacing and the origin of the volume, as text."""
        spacing, origin = np.linalg.norm(self.affine[:3, :3], axis=0), self.affine[:3, 3]
        return f"voxels of {'x'.join(f'{x:.4g}' for x in spacing)} mm from ({', '.join(f'{x:.4g}' for x in origin)})"

    def misses(self, other: "Header") -> bool:
        """Whether another volume starts over a voxel away, has voxel sizes over 1 % different, or is tilted by 8°."""
        relative = np.linalg.pinv(self.affine) @ other.affine  # in voxels of this volume; the identity if they coincide
        return bool(abs(relative[:3, 3]).max() > 1 or abs(relative.diagonal() - 1).max() > 0.01)

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {self.orientation}"


def read_header(path: str) -> Header:
    """Read only the header of a volume; raises ContractError unless it has three axes."""
    import nibabel

    with one_sentence(path, "a NIfTI volume"):
        image: Any = nibabel.load(path)
        shape, affine, codes = image.shape, image.affine, nibabel.aff2axcodes(image.affine)
    flat = len(shape) >= 3 and all(size == 1 for size in shape[3:])
    require(flat, path, "a volume with three axes", "x".join(map(str, shape)), "save each part as a separate file")
    return Header(shape[:3], "".join(code or "?" for code in codes), affine)


# Eight: threads may work on two volumes at once, each an image with a few masks.
@lru_cache(maxsize=8)
def read_volume(path: str, changed: int) -> np.ndarray:
    """Read a volume in its stored type, or as float32 if that is float64 or scaled; memory-mapped if uncompressed."""
    import nibabel

    shape, image = read_header(path).shape, nibabel.load(path)
    values = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    require(values.dtype.kind in "iuf", path, "a number in each voxel", values.dtype)
    return (values.astype(np.float32) if values.dtype == np.float64 else values).reshape(shape, order="F")


def decode_nifti(path: str, data: bytes, page: Page | None) -> Raster:
    """Decode one slice, whose first axis runs to the right; NaN is no data."""
    axis = page[0] if isinstance(page, tuple) else LAST
    with reading:  # otherwise several threads would read the same volume
        volume = read_volume(path, os.stat(path).st_mtime_ns)
    number = choose_page(path, volume.shape[axis], page)
    pixels = volume[(slice(None),) * axis + (number,)].T  # `take` would copy the volume, which is in Fortran order
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    return Raster(pixels, "NIfTI", no_data=np.nan if np.isnan(pixels).any() else None)


def encode_nifti(labels: np.ndarray, like: str) -> bytes:
    """Encode labels (x, y, z) uint8 as `.nii.gz`, at the position in space of the volume `like`."""
    import nibabel

    source: Any = nibabel.load(like)
    image = nibabel.Nifti1Image(labels, None, source.header, dtype=np.uint8)
    image.header["cal_min"] = image.header["cal_max"] = 0  # the display range of the scan does not fit labels
    image.header.extensions.clear()  # may hold the DICOM header of the scan, with the name of the patient
    for field in ("descrip", "aux_file", "db_name"):
        image.header[field] = b""
    return gzip.compress(image.to_bytes(), 6, mtime=0)
