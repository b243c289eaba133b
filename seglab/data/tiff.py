"""TIFF by tifffile: any number of bits and bands, and what its tags say about them."""

from __future__ import annotations

import io
import logging
from typing import Any

import cv2
import numpy as np

from seglab.contract import require
from seglab.data.raster import Raster, choose_page, not_opaque, require_size

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first four bytes."""

WHITE_IS_0, PALETTE, YCBCR = 0, 3, 6
"""Values of the tag PhotometricInterpretation; 1 is gray, 2 is RGB."""


def decode_tiff(path: str, data: bytes, page: int | None) -> Raster:
    """Decode one page; unusual colors (CMYK, YCbCr, Lab) by OpenCV."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is damaged raises as well
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        # Overviews (bit 0 of the subfile type) and transparency masks (bit 2) are no pages of their own.
        every: list[Any] = list(file.pages)
        pages = [one for one in every if not int(one.subfiletype) & 5]
        number = choose_page(path, len(pages), page)
        chosen = pages[number]
        require_size(path, chosen.imagelength, chosen.imagewidth)
        lossy, kind = int(chosen.compression) in (6, 7), int(chosen.photometric)
        orientation = int(chosen.tags[274].value) if 274 in chosen.tags else 1
        if kind > PALETTE and not (kind == YCBCR and lossy):  # tifffile makes RGB of the YCbCr of a JPEG alone
            require(number == 0, path, "pages in gray, RGB or with a palette", chosen.photometric.name)
            array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            require(array is not None, path, "gray, RGB or a palette", chosen.photometric.name, "convert it")
            return Raster(np.ascontiguousarray(np.asarray(array)[..., 2::-1]), "TIFF", lossy=lossy)
        array = plain(chosen.asarray(), chosen, path)
        palette = None if kind != PALETTE else eight_bits(chosen.colormap).T
        extra = [int(one) for one in chosen.extrasamples]
    if kind == WHITE_IS_0 and array.dtype.kind == "u":
        array = np.bitwise_not(array)
    alpha = None
    if extra in ([1], [2]):  # what its writer calls alpha
        array, alpha = array[..., :-1], not_opaque(array[..., -1])
    array = array[..., 0] if array.shape[2:] == (1,) else array
    return Raster(np.ascontiguousarray(array), "TIFF", palette, alpha, lossy).upright(orientation)


def plain(array: np.ndarray, page: Any, path: str) -> np.ndarray:
    """Bring bands behind rows and columns, and less than 8 bits of gray to 0 .. 255."""
    require(page.axes in ("YX", "YXS", "SYX"), path, "rows, columns and bands", page.axes)
    array = np.moveaxis(array, 0, 2) if page.axes == "SYX" else array
    if int(page.photometric) != PALETTE and page.bitspersample < 8:
        return array.astype(np.uint8) * (255 // (2**page.bitspersample - 1))
    return array


def eight_bits(colors: np.ndarray) -> np.ndarray:
    """Bring a color map of 16 bits to 8; some writers have put 8 into it."""
    return (colors >> 8 if colors.max() > 255 else colors).astype(np.uint8)
