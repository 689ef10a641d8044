"""Small DICOM slices for tests, with any element missing, wrong or damaged.

Positions and cosines are LPS.
"""

import io
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

SIZE = 16
STEP_MM = 5.0
PIXEL_MM = 0.5


def slice_id(number: int) -> str:
    """Nine hexadecimal digits; their order says nothing about the slices' order."""
    return f"{(number * 0x9E3779B97 + 0x123456789) % 16**9:09x}"


def head_pixels(number: int, size: int = SIZE) -> NDArray[np.int16]:
    """HU of one small slice: air, a ring of bone, brain that differs from slice to slice."""
    hu = np.full((size, size), -1000, dtype=np.int16)
    hu[2:-2, 2:-2] = 1000
    hu[3:-3, 3:-3] = 30 + number
    hu[4, 5] = 60
    return hu


def slice_bytes(
    number: int,
    *,
    hu: NDArray[np.int16] | None = None,
    tilt_deg: float = 0.0,
    intercept: float = -1024,
    dtype: str = "<i2",
    bits_stored: int = 16,
    position: tuple[float, float, float] | None = None,
    pixel_data: bytes | None = None,
    transfer_syntax: UID = ExplicitVRLittleEndian,
    **elements: Any,
) -> bytes:
    """One file. `elements`: keyword = value replaces an element, None leaves it out.

    Values are written as they are.
    """
    hu = head_pixels(number) if hu is None else hu
    tilt = math.radians(tilt_deg)
    stored = (hu.astype(np.int32) - round(intercept)).astype(dtype)
    values: dict[str, tuple[str, Any]] = {
        "SOPInstanceUID": ("UI", f"ID_{slice_id(number)}"),
        "Modality": ("CS", "CT"),
        "PatientID": ("LO", "ID_0a1b2c3d"),
        "StudyInstanceUID": ("UI", "ID_2222222222"),
        "SeriesInstanceUID": ("UI", "ID_1111111111"),
        "StudyID": ("SH", ""),
        "ImagePositionPatient": (
            "DS",
            [
                f"{value:.6f}"
                for value in position or (-40.0, -30.0, 10 + number * STEP_MM / math.cos(tilt))
            ],
        ),
        "ImageOrientationPatient": (
            "DS",
            ["1", "0", "0", "0", f"{math.cos(tilt):.9f}", f"{-math.sin(tilt):.9f}"],
        ),
        "SamplesPerPixel": ("US", 1),
        "PhotometricInterpretation": ("CS", "MONOCHROME2"),
        "Rows": ("US", hu.shape[0]),
        "Columns": ("US", hu.shape[1]),
        "PixelSpacing": ("DS", [str(PIXEL_MM), str(PIXEL_MM)]),
        "BitsAllocated": ("US", 16),
        "BitsStored": ("US", bits_stored),
        "HighBit": ("US", bits_stored - 1),
        "PixelRepresentation": ("US", int(np.dtype(dtype).kind == "i")),
        "RescaleIntercept": ("DS", f"{intercept:g}"),
        "RescaleSlope": ("DS", "1"),
    }
    dataset = Dataset()
    for keyword, (vr, value) in values.items():
        dataset.add(DataElement(keyword, vr, value, validation_mode=pydicom_config.IGNORE))
    for keyword, value in elements.items():
        if value is None:
            del dataset[keyword]
        else:
            vr = dataset[keyword].VR if keyword in dataset else None
            _put(dataset, keyword, vr, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # identifiers as RSNA's are no valid UIDs
        return _bytes(
            dataset,
            f"ID_{slice_id(number)}",
            transfer_syntax,
            stored.tobytes() if pixel_data is None else pixel_data,
        )


def _bytes(dataset: Dataset, instance: str, transfer_syntax: UID, pixel_data: bytes) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(instance)
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.PixelData = pixel_data
    dataset["PixelData"].is_undefined_length = transfer_syntax.is_encapsulated
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def head(
    count: int = 6, changes: Mapping[int, Mapping[str, Any]] | None = None, **common: Any
) -> dict[str, bytes]:
    """The slices of a small head by id, in no order of place; `changes` goes by slice number."""
    files = {
        slice_id(n): slice_bytes(n, **{**common, **(changes or {}).get(n, {})})
        for n in range(count)
    }
    return dict(sorted(files.items()))


def _put(dataset: Dataset, keyword: str, vr: str | None, value: Any) -> None:
    if vr is None:
        setattr(dataset, keyword, value)
    else:
        dataset.add(DataElement(keyword, vr, value, validation_mode=pydicom_config.IGNORE))
