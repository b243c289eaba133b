"""The output of all decoders, one upright page of an image file, and the checks that they share."""

from typing import NamedTuple, TypeAlias

import numpy as np

from seglab.contract import ContractError, require

Page: TypeAlias = int | tuple[int, int | None]  # a number from 0; or, for volumes only, an axis and a slice number
MAX_PIXELS = 2**30  # also OpenCV's own limit


class Raster(NamedTuple):
    """One page of a file as stored, but upright.

    Args:
        pixels: (h, w), or (h, w, bands) with red first; with a `palette` (k, 3) uint8, its indices (h, w).
        alpha: (h, w), None if there is none or it is opaque everywhere.
        lossy: whether the file was compressed with loss.
        turned: whether the file stores the image rotated or mirrored.
        no_data: the value of pixels without data, which may be NaN.
    """

    pixels: np.ndarray
    format: str
    palette: np.ndarray | None = None
    alpha: np.ndarray | None = None
    lossy: bool = False
    turned: bool = False
    no_data: float | None = None

    def colors(self) -> np.ndarray:
        """Return the pixels with the palette applied."""
        return self.pixels if self.palette is None else self.palette[self.pixels]

    def upright(self, orientation: int) -> "Raster":
        """Rotate and mirror the image by its EXIF orientation, 1 to 8; 1 is upright, and other values are ignored."""
        if orientation not in range(2, 9):
            return self
        down, right = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(orientation - 1) % 4]  # 5 to 8 are 1 to 4 transposed

        def turn(array: np.ndarray) -> np.ndarray:  # a copy: torch rejects negative strides
            return np.ascontiguousarray((array.swapaxes(0, 1) if orientation >= 5 else array)[::down, ::right])

        alpha = None if self.alpha is None else turn(self.alpha)
        return self._replace(pixels=turn(self.pixels), alpha=alpha, turned=True)


def not_opaque(alpha: np.ndarray | None) -> np.ndarray | None:
    """Return an alpha channel, or None if it is opaque everywhere."""
    opaque = alpha is None or (alpha == (np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1)).all()
    return None if opaque else alpha


def require_size(path: str, height: int, width: int) -> None:
    """Raise ContractError if an image has too many pixels to decode, before memory is allocated."""
    fits = 0 < height * width <= MAX_PIXELS
    require(fits, path, "1 to 2^30 pixels", f"{width}x{height} (width x height)", "cut it into parts")


class SeveralPages(ContractError):
    """Raised if a file has several `pages` and none is chosen."""

    def __init__(self, sentence: str, pages: int) -> None:
        super().__init__(sentence)
        self.pages = pages


def choose_page(path: str, pages: int, page: Page | None) -> int:
    """Return the number of the page to read, from 0; a file with a single page needs no choice."""
    if pages == 1:
        return 0
    require(pages > 0, path, "an image", "none: the file is truncated", "copy it again")
    remedy = f"set dataset.page to a number from 0 to {pages - 1}"
    number = page[1] if isinstance(page, tuple) else page
    if number is None:
        raise SeveralPages(f"{path}: expected one page, got {pages} pages; {remedy}", pages)
    require(0 <= number < pages, path, f"page {number}", f"{pages} pages", remedy)
    return number
