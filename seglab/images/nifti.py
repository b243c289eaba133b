"""NIfTI volumes by nibabel, a slice at a time, as they are stored: neither turned nor resampled."""

import os
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from seglab.contract import ContractError, require
from seglab.images.raster import Page, Raster, choose_page

LAST = 2
"""The axis across which slices are taken where none is named."""

reading = Lock()


class Header(NamedTuple):
    """What a volume says of itself: its size, and which way its axes point, such as RAS."""

    shape: tuple[int, ...]
    orientation: str

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {self.orientation}"


def read_header(path: str) -> Header:
    """Read the header alone; raises a ContractError for what is no volume of three axes."""
    import nibabel

    try:
        image: Any = nibabel.load(path)
        shape, codes = image.shape, nibabel.aff2axcodes(image.affine)
    except Exception as error:  # nibabel has several kinds for a damaged file
        raise ContractError(f"{path}: expected a NIfTI volume, got {str(error)[:120]}") from None
    flat = len(shape) >= 3 and all(size == 1 for size in shape[3:])
    require(flat, path, "a volume of three axes", "x".join(map(str, shape)), "save each part as a file of its own")
    return Header(shape[:3], "".join(code or "?" for code in codes))


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
