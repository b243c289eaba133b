"""Write images and masks, in memory or in files anywhere, to a folder that `dataset=folder` reads."""

from collections.abc import Hashable, Iterable, Mapping, Set
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import cv2
import numpy as np
import pandas as pd

from seglab.contract import require

Source: TypeAlias = "np.ndarray | str | Path"
GROUP = r"^g(\d+)_"  # finds the number of an image's group in the file names of `write_pairs`


def write_pairs(
    images: Iterable[Source], masks: Iterable[Source], groups: Iterable[Hashable] | None, place: Path
) -> Path:
    """Write images and masks to a folder below `place`, named by a hash of arrays and file paths; return the folder.

    images: (h, w) or (h, w, 3) in RGB order, uint8 or uint16, or paths of image files, which are linked. masks: (h, w),
    foreground above 0, or paths. groups: the group of each image, such as its patient; None: all are independent.
    Raises ContractError if counts, shapes or types do not fit.
    """
    for name, given in (("images", images), ("masks", masks), ("groups", () if groups is None else groups)):
        fits = isinstance(given, Iterable) and not isinstance(given, str | Mapping | Set)
        require(fits, "compare", f"{name} as a list with an entry for each image", type(given).__name__)
    images, masks = list(images), list(masks)
    groups = list(range(len(images)) if groups is None else groups)  # indexing a pandas Series would use its labels
    got = f"{len(images)} images, {len(masks)} masks and {len(groups)} groups"
    fits = len(images) == len(masks) == len(groups) > 0
    require(fits, "compare", "a mask and a group for each image", got)
    missing = pd.Series(groups, dtype=object).isna()
    wrong = [group for group, none in zip(groups, missing, strict=True) if none or not isinstance(group, Hashable)]
    require(not wrong, "compare", "a group for each image, such as the name of its patient", repr(wrong[:1]))
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    digest = blake2b(digest_size=8)
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".partial", dir=place) as temporary:  # on the same disk, so that it can be renamed
        for k, (image, mask) in enumerate(zip(images, masks, strict=True)):
            name = f"g{numbers[groups[k]]:05d}_{k:05d}"
            others = [type(x).__name__ for x in (image, mask) if not isinstance(x, np.ndarray | str | PathLike)]
            require(not others, "compare", f"arrays or paths as image {k} and mask", others[:1], "use numpy.asarray")
            if isinstance(image, np.ndarray):
                has_shape = image.size > 0 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3)))
                fits = has_shape and image.dtype in (np.uint8, np.uint16)
                got = f"{image.shape} {image.dtype}"
                remedy = "scale its values to 0 to 255 and use .astype('uint8')" if has_shape else ""
                require(fits, "compare", f"image {k} as (h, w) or (h, w, 3), uint8 or uint16", got, remedy)
            if isinstance(image, np.ndarray) and isinstance(mask, np.ndarray):
                fits = mask.shape == image.shape[:2]
                require(fits, "compare", f"a mask of shape {image.shape[:2]} for image {k}", mask.shape)
            if isinstance(mask, np.ndarray):
                require(bool(np.isfinite(mask).all()), "compare", f"a mask without NaN for image {k}")
                mask = np.where(mask > 0, 255, 0).astype(np.uint8)
            for source, kind in ((image, "images"), (mask, "masks")):
                digest.update(f"{name} {kind} {write(source, Path(temporary, 'pairs', kind, name))}".encode())
        folder = place / digest.hexdigest()
        try:
            Path(temporary, "pairs").rename(folder)
        except OSError:  # an earlier call or another process has made the same folder
            if not folder.exists():
                raise
    return folder


def write(source: Source, place: Path) -> str:
    """Write an array as PNG, or link a file; return the hash of the array or the path of the file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, np.ndarray):
        bgr = cv2.cvtColor(source, cv2.COLOR_RGB2BGR) if source.ndim == 3 and source.shape[2] == 3 else source
        data = cv2.imencode(".png", bgr)[1].tobytes()
        place.with_suffix(".png").write_bytes(data)
        return blake2b(data, digest_size=8).hexdigest()
    file = Path(source).resolve()
    require(file.is_file(), "compare", "an array or an existing file", source)
    place.with_suffix(file.suffix).symlink_to(file)
    return str(file)  # the dataset hashes its content
