"""The phantom against SimpleITK's reader, the published layout, and volumes worked out in another way."""

import gzip
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from hemseg_cli.dataset.phantom import PhantomScan, make_phantom

ELEMENTS = [
    "SOPInstanceUID",
    "Modality",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "StudyID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "PixelData",
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PhantomScan]]:
    folder = tmp_path_factory.mktemp("phantom")
    return folder, make_phantom(folder, seed=3, patients=6, matrix=48, slices=(10, 13))


def label_of(folder: Path, scan: PhantomScan) -> nib.Nifti1Image:
    with zipfile.ZipFile(folder / "labels.zip") as archive:
        return nib.Nifti1Image.from_bytes(gzip.decompress(archive.read(f"phantom/{scan.split}/label/{scan.scan}.nii.gz")))


def read_by_itk(folder: Path, scan: PhantomScan) -> sitk.Image:
    return sitk.ReadImage([str(folder / "stage_2_train" / f"ID_{slice_id}.dcm") for slice_id in scan.slices])


def headers(folder: Path, scan: PhantomScan) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(folder / "stage_2_train" / f"ID_{slice_id}.dcm") for slice_id in scan.slices]


def test_label_grid_is_the_one_itk_reads_from_the_series(small: tuple[Path, list[PhantomScan]]) -> None:
    folder, scans = small
    for scan in scans:
        image, label = read_by_itk(folder, scan), label_of(folder, scan)
        steps = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        affine = np.eye(4)
        affine[:3] = np.diag([-1, -1, 1]) @ np.column_stack([steps, image.GetOrigin()])
        assert image.GetSize() == label.shape
        np.testing.assert_allclose(label.affine, affine, atol=1e-3)
