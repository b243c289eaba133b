"""Files in the formats of the field, made by the libraries that everybody makes them with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., str]:
    """Write a real DICOM file from gray pixels (h, w) uint8 or uint16."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    def write(path: Path, pixels: np.ndarray, kind: str = "MONOCHROME2", bits: int = 16, **tags: object) -> str:
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = pydicom.Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.Rows, data.Columns = pixels.shape[:2]
        data.PhotometricInterpretation, data.SamplesPerPixel, data.PixelRepresentation = kind, 1, 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 8 * pixels.itemsize, bits, bits - 1
        data.PixelData = pixels.tobytes()
        for name, value in tags.items():
            setattr(data, name, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(path, enforce_file_format=True)
        return str(path)

    return write
