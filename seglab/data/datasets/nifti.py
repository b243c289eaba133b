"""Slices of NIfTI volumes, such as CT and MR scans."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from seglab.contract import ContractError, require
from seglab.data.dataset import Item, one_of
from seglab.data.datasets.folder import Folder, Masks
from seglab.data.prepare_data import foreground_ids
from seglab.images.image_io import read_image
from seglab.images.medical import read_header

WHO = "dataset nifti"


@dataclass(frozen=True, kw_only=True)
class Nifti(Folder):
    """Folders of volumes and masks, with the options of `Folder`; each slice is an item, each volume a group.

    axis: the stored axis (0, 1 or 2) across which slices are taken. empty_slices: if False, slices without foreground
    are left out of all splits.
    """

    axis: int = 2
    empty_slices: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(WHO, self, axis=(0, 1, 2))

    def decode(self, path: str, page: int | None = None) -> np.ndarray:
        return read_image(path, (self.axis, page), self.read_bands)

    def items(self) -> list[Item]:
        require(self.page is None, WHO, "no page, as all slices are read", self.page, "leave dataset.page out")
        items = super().items()
        if self.empty_slices:
            return items
        keep = foreground_ids(items, self)  # cached: reading all volumes takes long
        return [item if item.fault or item.id in keep else replace(item, left_out="no foreground") for item in items]

    def file_warnings(self, items: Sequence[Item]) -> list[str]:
        warnings, mismatches, orientations = [], [], Counter[str]()
        pairs = {item.files[0]: item.mask_files for item in items if not item.fault}  # a volume has many items
        for volume, paths in pairs.items():
            image, masks = read_header(volume), {path: read_header(path) for path in paths}
            orientations[image.orientation] += 1
            places = {path: mask.place for path, mask in masks.items() if image.misses(mask)}
            mismatches += [f"{path} has {place}, its image has {image.place}" for path, place in places.items()]
        if mismatches:
            number = f"{len(mismatches)} of {sum(map(len, pairs.values()))}"
            words = f"{number} masks differ from their images in position or voxel size; the first: {mismatches[0]}"
            warnings.append(f"{words}; check that they belong to the same scan")
        if len(orientations) > 1:
            kinds = ", ".join(f"{count} {kind}" for kind, count in orientations.most_common())
            words = f"volumes of several orientations ({kinds}), so that some slices are turned or mirrored"
            warnings.append(f"{words}; nibabel.as_closest_canonical converts all to RAS")
        return warnings

    def items_of(self, base: Item, image: Path | None, masks: Masks) -> list[Item]:
        """Build an item for each slice, or one with a fault if image and masks do not match."""
        (volume,) = super().items_of(base, image, masks)  # for the list of its files, and a fault if one is missing
        if volume.fault:
            return [volume]
        try:
            header = read_header(volume.files[0])  # without voxels: hundreds of volumes are listed in seconds
            for path in volume.mask_files:
                mask = read_header(path)
                require(mask[:2] == header[:2], path, f"the size and orientation of its image, {header}", mask)
        except ContractError as error:
            return [replace(volume, fault=str(error))]
        items = []
        for number in range(header.shape[self.axis]):
            slice_item = replace(base, id=f"{base.id}_{'xyz'[self.axis]}{number:03}", page=(self.axis, number))
            items += super().items_of(slice_item, image, masks)
        return items
