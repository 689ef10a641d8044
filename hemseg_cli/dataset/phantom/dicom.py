"""Phantom scans as RSNA-2019 publishes them.

One bare DICOM file per slice, under meaningless names.

Elements, identifiers and pixel formats are those found in the RSNA slices: `ID_...` where a UID
belongs, no InstanceNumber, no SOPClassUID.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, CTImageStorage, ExplicitVRLittleEndian

from hemseg_cli.dataset.phantom.gantry import Gantry
from hemseg_cli.imaging.geometry import lps_to_ras


@dataclass(frozen=True)
class PixelFormat:
    """How a scanner stores HU.

    `padding`: stored value outside the reconstruction circle (None: no circle). `wraps`: values
    beyond 12 bits wrapped around, and the header's intercept is not the one that was used (the
    rollover of some RSNA files).
    """

    name: str
    bits: int
    signed: bool
    intercept: int
    padding: int | None = None
    wraps: bool = False
    window: tuple[str | tuple[str, ...], str | tuple[str, ...]] = (
        "40",
        "80",
    )  # centre and width; some headers hold two of each

    def stored(self, hu: NDArray[np.int16]) -> NDArray[np.int16] | NDArray[np.uint16]:
        """HU [i, j, k] as the 16-bit words of the file."""
        if self.wraps:
            return (np.clip(hu, -1000, 3095) % 4096).astype(np.uint16)
        low, high = (
            (-(1 << self.bits - 1), (1 << self.bits - 1) - 1)
            if self.signed
            else (0, (1 << self.bits) - 1)
        )
        values = np.clip(hu.astype(np.int32) - self.intercept, low, high)
        if self.padding is not None:
            values[_outside_circle(hu.shape[0])] = self.padding
        return values.astype(np.int16) if self.signed else values.astype(np.uint16)


PIXEL_FORMATS = (
    PixelFormat("signed 16 bit, circle", 16, True, -1024, padding=-2000),
    PixelFormat(
        "unsigned 12 bit", 12, False, -1024, window=(("00040", "00040"), ("00080", "00080"))
    ),
    PixelFormat("signed 16 bit, intercept -1000", 16, True, -1000, padding=-2048),
    PixelFormat("unsigned 16 bit", 16, False, -1024, window=("36", "80")),
    PixelFormat("unsigned 12 bit, intercept -1000", 12, False, -1000),
    PixelFormat("signed 12 bit", 12, True, -1024, window=("30", "80")),
    PixelFormat("signed 16 bit, intercept 0", 16, True, 0, padding=-3024),
    PixelFormat("unsigned 12 bit, wrapped", 12, False, 1, wraps=True),
)


@dataclass(frozen=True)
class Identifiers:
    """What the headers of a scan carry, without the leading `ID_`.

    Patient 8, study and series 10, slices 9 hex digits each.
    """

    patient: str
    study: str
    series: str
    slices: tuple[str, ...]


def write_series(
    folder: Path, hu: NDArray[np.int16], gantry: Gantry, pixels: PixelFormat, ids: Identifiers
) -> None:
    """Write `ID_<slice>.dcm` for each slice of `hu` [i, j, k].

    `ids.slices` goes with k, bottom to top.
    """
    stored = pixels.stored(hu).astype("<u2", copy=False).transpose(2, 1, 0)
    header = _header(gantry, pixels, ids, hu.shape[0])
    lps = lps_to_ras(gantry.true_affine)
    for k, slice_id in enumerate(ids.slices):
        position = "\\".join(f"{value:16.6f}" for value in lps[:3, 3] + k * lps[:3, 2])
        own = header.replace(_FILE_UID, f"2.25.1{int(slice_id, 16):011d}".encode())
        own = own.replace(_SLICE_UID, f"ID_{slice_id}".encode()).replace(
            _POSITION, position.encode()
        )
        (folder / f"ID_{slice_id}.dcm").write_bytes(own + np.ascontiguousarray(stored[k]).tobytes())


# What differs between the slices of a scan, as it stands in the header that pydicom writes once for
# all of them.
_FILE_UID = b"2.25.1" + b"0" * 11
_SLICE_UID = b"ID_" + b"0" * 9
_POSITION = b"\\".join([b"1" * 16] * 3)


def _header(gantry: Gantry, pixels: PixelFormat, ids: Identifiers, size: int) -> bytes:
    """Return all before the pixels' bytes, with place holders for what differs by slice."""
    dataset = Dataset()
    dataset.preamble = bytes(128)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.FileMetaInformationGroupLength = 0  # filled in when written
    dataset.file_meta.FileMetaInformationVersion = b"\0\1"
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(_FILE_UID.decode())
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    for keyword, vr, value in _elements(gantry, pixels, ids, size):
        # As they are: these identifiers are no valid UIDs.
        dataset.add(DataElement(keyword, vr, value, validation_mode=pydicom_config.IGNORE))
    pixel_bytes = 2 * size * size
    dataset.PixelData = bytes(pixel_bytes)
    buffer = io.BytesIO()
    dcmwrite(
        buffer, dataset, enforce_file_format=False
    )  # enforcing would want a valid SOPInstanceUID
    return buffer.getvalue()[:-pixel_bytes]


def _elements(
    gantry: Gantry, pixels: PixelFormat, ids: Identifiers, size: int
) -> Iterator[tuple[str, str, object]]:
    """Keyword, VR and value of every element but the pixels."""
    orientation = (1.0, 0.0, 0.0, *(gantry.column_step * [-1.0, -1.0, 1.0]))
    yield "SOPInstanceUID", "UI", _SLICE_UID.decode()
    yield "Modality", "CS", "CT"
    yield "PatientID", "LO", f"ID_{ids.patient}"
    yield "StudyInstanceUID", "UI", f"ID_{ids.study}"
    yield "SeriesInstanceUID", "UI", f"ID_{ids.series}"
    yield "StudyID", "SH", ""
    yield "ImagePositionPatient", "DS", _POSITION.decode().split("\\")
    yield "ImageOrientationPatient", "DS", [f"{part + 0.0:.6f}" for part in orientation]
    yield "SamplesPerPixel", "US", 1
    yield "PhotometricInterpretation", "CS", "MONOCHROME2"
    yield "Rows", "US", size
    yield "Columns", "US", size
    yield "PixelSpacing", "DS", [f"{gantry.pixel_mm:.6f}"] * 2
    yield "BitsAllocated", "US", 16
    yield "BitsStored", "US", pixels.bits
    yield "HighBit", "US", pixels.bits - 1
    yield "PixelRepresentation", "US", int(pixels.signed)
    yield "WindowCenter", "DS", _several(pixels.window[0])
    yield "WindowWidth", "DS", _several(pixels.window[1])
    yield "RescaleIntercept", "DS", str(pixels.intercept)
    yield "RescaleSlope", "DS", "1"


def _several(value: str | tuple[str, ...]) -> str | list[str]:
    return value if isinstance(value, str) else list(value)


def _outside_circle(size: int) -> NDArray[np.bool_]:
    away = (np.arange(size) - (size - 1) / 2) ** 2
    return np.asarray(away[:, None] + away[None, :] > (size / 2) ** 2)
