"""Read and write TIFF with tifffile: any number of bits and bands, and the metadata in their tags."""

import io
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import cv2
import numpy as np

from seglab.contract import require
from seglab.images.raster import Page, Raster, choose_page, not_opaque, require_size

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first four bytes: either byte order, TIFF and BigTIFF
ORIENTATION, GDAL_NO_DATA = 274, 42113  # tags: as in EXIF, and GDAL's value of pixels without data
WHITE_IS_0, PALETTE, YCBCR = 0, 3, 6  # values of the tag PhotometricInterpretation; 1 is gray, 2 is RGB
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)  # pixel size, tie points, transformation, coordinates
Tags = Sequence[tuple[int, int, int, Any, bool]]  # code, dtype, count, value, writeonce: the extratags of tifffile


def georeference(path: str) -> Tags:
    """Return the GeoTIFF tags of a file's first page; an empty list if it has none or is not a TIFF."""
    import tifffile

    with open(path, "rb") as file:  # called for every predicted image, most of which are not TIFF
        if file.read(4) not in MAGIC:
            return []
    with tifffile.TiffFile(path) as tiff:
        tags = [tag for tag in tiff.pages.first.tags if tag.code in GEOREFERENCE]
        return [(int(tag.code), int(tag.dtype), tag.count, tag.value, True) for tag in tags]


def encode_tiff(pixels: np.ndarray, tags: Tags, palette: bytes = b"") -> bytes:
    """Encode an image (h, w), with a palette of RGB triples if given, as a compressed TIFF with these tags."""
    import tifffile

    options: dict[str, Any] = {"photometric": "minisblack"}
    if palette:
        colors = np.zeros((256, 3), np.uint16)
        triples = np.frombuffer(palette, np.uint8).reshape(-1, 3)
        colors[: len(triples)] = triples * np.uint16(257)  # TIFF palettes have 16 bits per color
        options = {"photometric": "palette", "colormap": np.ascontiguousarray(colors.T)}
    buffer = io.BytesIO()
    # metadata=None: without the description of the array's shape that tifffile adds by default.
    tifffile.imwrite(buffer, pixels, compression="zlib", metadata=None, extratags=tags, **options)
    return buffer.getvalue()


def decode_tiff(path: str, data: bytes, page: Page | None) -> Raster:
    """Decode one page; OpenCV decodes unusual color spaces (CMYK, YCbCr, Lab)."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # damaged files raise as well
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        all_pages: list[Any] = list(file.pages)
        # Overviews (bit 0 of the subfile type) and transparency masks (bit 2) do not count as pages.
        pages = [entry for entry in all_pages if not int(entry.subfiletype) & 5] or all_pages
        selected = pages[choose_page(path, len(pages), page)]
        require_size(path, selected.imagelength, selected.imagewidth)
        lossy, kind, bits = int(selected.compression) in (6, 7), int(selected.photometric), selected.bitspersample
        if kind > PALETTE and not (kind == YCBCR and lossy):  # tifffile converts YCbCr to RGB only in JPEG
            array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if len(pages) == 1 else None
            require(array is not None, path, "gray, RGB or a palette", selected.photometric.name, "convert it")
            return Raster(np.ascontiguousarray(np.asarray(array)[..., 2::-1]), "TIFF", lossy=lossy)
        require(selected.axes in ("YX", "YXS", "SYX"), path, "rows, columns and bands", selected.axes)
        array = selected.asarray() if selected.axes != "SYX" else np.moveaxis(selected.asarray(), 0, 2)  # planar
        palette = alpha = None
        if kind == PALETTE:
            colors = selected.colormap.T
            palette = (colors >> 8 if colors.max() > 255 else colors).astype(np.uint8)  # some writers use 8 bits
        elif bits < 8:
            array = array.astype(np.uint8) * (255 // (2**bits - 1))
        if kind == WHITE_IS_0 and array.dtype.kind == "u":
            array = array.dtype.type(255 if bits < 8 else 2**bits - 1) - array  # 12 bits come as uint16
        if [int(code) for code in selected.extrasamples] in ([1], [2]):  # declared as alpha
            array, alpha = array[..., :-1], not_opaque(array[..., -1])
        no_data = None
        with suppress(KeyError, ValueError):  # no such tag, or one that holds "None"
            no_data = float(str(selected.tags[GDAL_NO_DATA].value).strip("\0 "))
        orientation = int(selected.tags[ORIENTATION].value) if ORIENTATION in selected.tags else 1
    array = array[..., 0] if array.shape[2:] == (1,) else array
    return Raster(np.ascontiguousarray(array), "TIFF", palette, alpha, lossy, no_data=no_data).upright(orientation)
