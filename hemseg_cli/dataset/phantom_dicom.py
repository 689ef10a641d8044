"""Phantom scans as RSNA-2019 publishes them: one bare DICOM file per slice, under meaningless names.

Elements, identifiers and pixel formats are those found in the RSNA slices: `ID_...` where a UID belongs, no InstanceNumber,
no SOPClassUID.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, CTImageStorage, ExplicitVRLittleEndian

from hemseg_cli.dataset.phantom_scanner import Gantry
from hemseg_cli.imaging.geometry import lps_to_ras


@dataclass(frozen=True)
class PixelFormat:
    """How a scanner stores HU.

    `padding`: stored value outside the reconstruction circle (None: no circle). `wraps`: values beyond 12 bits wrapped around, and the
    header's intercept is not the one that was used (the rollover of some RSNA files).
    """

    name: str
    bits: int
    signed: bool
    intercept: int
    padding: int | None = None
    wraps: bool = False
    window: tuple[str | tuple[str, ...], str | tuple[str, ...]] = ("40", "80")  # centre and width; some headers hold two of each

    def stored(self, hu: NDArray[np.int16]) -> NDArray[np.int16] | NDArray[np.uint16]:
        """HU [i, j, k] as the 16-bit words of the file."""
        if self.wraps:
            return (np.clip(hu, -1000, 3095) % 4096).astype(np.uint16)
        low, high = (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)
        values = np.clip(hu.astype(np.int32) - self.intercept, low, high)
        if self.padding is not None:
            values[_outside_circle(hu.shape[0])] = self.padding
        return values.astype(np.int16) if self.signed else values.astype(np.uint16)


PIXEL_FORMATS = (
    PixelFormat("signed 16 bit, circle", 16, True, -1024, padding=-2000),
    PixelFormat("unsigned 12 bit", 12, False, -1024, window=(("00040", "00040"), ("00080", "00080"))),
    PixelFormat("signed 16 bit, intercept -1000", 16, True, -1000, padding=-2048),
    PixelFormat("unsigned 16 bit", 16, False, -1024, window=("36", "80")),
    PixelFormat("unsigned 12 bit, intercept -1000", 12, False, -1000),
    PixelFormat("signed 12 bit", 12, True, -1024, window=("30", "80")),
    PixelFormat("signed 16 bit, intercept 0", 16, True, 0, padding=-3024),
    PixelFormat("unsigned 12 bit, wrapped", 12, False, 1, wraps=True),
)


@dataclass(frozen=True)
class Identifiers:
    """What the headers of a scan carry, without the leading `ID_`: patient 8, study and series 10, slices 9 hex digits each."""

    patient: str
    study: str
    series: str
    slices: tuple[str, ...]


def write_series(folder: Path, hu: NDArray[np.int16], gantry: Gantry, pixels: PixelFormat, ids: Identifiers) -> None:
    """Write `ID_<slice>.dcm` for each slice of `hu` [i, j, k]; `ids.slices` goes with k, bottom to top."""
    stored = pixels.stored(hu)
    dataset = _header(gantry, pixels, ids, hu.shape[0])
    lps = lps_to_ras(gantry.true_affine)
    for k, slice_id in enumerate(ids.slices):
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{int(slice_id, 16)}")
        _set(dataset, "SOPInstanceUID", "UI", f"ID_{slice_id}")
        _set(dataset, "ImagePositionPatient", "DS", [f"{value:.6f}" for value in lps[:3, 3] + k * lps[:3, 2]])
        dataset.PixelData = np.ascontiguousarray(stored[:, :, k].T).astype("<u2", copy=False).tobytes()
        buffer = io.BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=False)  # enforcing would want a valid SOPInstanceUID
        (folder / f"ID_{slice_id}.dcm").write_bytes(buffer.getvalue())


def _header(gantry: Gantry, pixels: PixelFormat, ids: Identifiers, size: int) -> Dataset:
    dataset = Dataset()
    dataset.preamble = bytes(128)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.FileMetaInformationGroupLength = 0  # filled in when written
    dataset.file_meta.FileMetaInformationVersion = b"\0\1"
    dataset.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    orientation = (1.0, 0.0, 0.0, *(gantry.column_step * [-1.0, -1.0, 1.0]))
    for keyword, vr, value in (
        ("Modality", "CS", "CT"),
        ("PatientID", "LO", f"ID_{ids.patient}"),
        ("StudyInstanceUID", "UI", f"ID_{ids.study}"),
        ("SeriesInstanceUID", "UI", f"ID_{ids.series}"),
        ("StudyID", "SH", ""),
        ("ImageOrientationPatient", "DS", [f"{part + 0.0:.6f}" for part in orientation]),
        ("SamplesPerPixel", "US", 1),
        ("PhotometricInterpretation", "CS", "MONOCHROME2"),
        ("Rows", "US", size),
        ("Columns", "US", size),
        ("PixelSpacing", "DS", [f"{gantry.pixel_mm:.6f}"] * 2),
        ("BitsAllocated", "US", 16),
        ("BitsStored", "US", pixels.bits),
        ("HighBit", "US", pixels.bits - 1),
        ("PixelRepresentation", "US", int(pixels.signed)),
        ("WindowCenter", "DS", _several(pixels.window[0])),
        ("WindowWidth", "DS", _several(pixels.window[1])),
        ("RescaleIntercept", "DS", str(pixels.intercept)),
        ("RescaleSlope", "DS", "1"),
    ):
        _set(dataset, keyword, vr, value)
    return dataset


def _set(dataset: Dataset, keyword: str, vr: str, value: object) -> None:
    """Set an element as it is: these identifiers are no valid UIDs."""
    dataset.add(DataElement(keyword, vr, value, validation_mode=pydicom_config.IGNORE))


def _several(value: str | tuple[str, ...]) -> str | list[str]:
    return value if isinstance(value, str) else list(value)


def _outside_circle(size: int) -> NDArray[np.bool_]:
    away = (np.arange(size) - (size - 1) / 2) ** 2
    return np.asarray(away[:, None] + away[None, :] > (size / 2) ** 2)
