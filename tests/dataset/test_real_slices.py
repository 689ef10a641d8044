"""Five real RSNA slices against the published manifest, label and what HU must be."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from hemseg_cli.dataset.labels.archive import LabelArchive
from hemseg_cli.dataset.labels.manifest import ManifestRow, read_manifest
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.hounsfield import to_hu
from hemseg_cli.imaging.dicom.slice import Slice, read_slice


@dataclass(frozen=True)
class RealSlice:
    """A slice as this package reads it, its manifest row, and its published label."""

    name: str
    k: int
    file: bytes
    read: Slice
    row: ManifestRow
    label: Any

    @property
    def hu(self) -> Any:
        return to_hu([self.read])[0][0]

    @property
    def mask(self) -> Any:
        return sitk.GetArrayFromImage(self.label)[self.k] > 0


@pytest.fixture(scope="module")
def slices(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[RealSlice]:
    folder, published = shared_data / "rsna-slices", shared_data / "hemseg"
    table = folder / "table.csv"
    if not table.is_file() or not (published / "HemSeg-500.zip").is_file():
        pytest.skip("the real slices (shared/data/rsna-slices) are not here")
    rows = {row.scan: row for row in read_manifest(published / "annotion_file_info_500.jsonl")}

    found = []
    with LabelArchive(published / "HemSeg-500.zip") as archive:
        for line in csv.DictReader(table.read_text(encoding="utf-8").splitlines()):
            # SimpleITK reads the label: an oracle for shape, place and order of its slices.
            file = tmp_path_factory.mktemp("label") / f"{line['scan']}.nii.gz"
            file.write_bytes(archive.read(archive.members[line["scan"]]))
            data = (folder / f"{line['slice']}.dcm").read_bytes()
            with quiet_pydicom():
                one = read_slice(data, line["slice"])
            label = sitk.ReadImage(str(file))
            name = line["slice"].removeprefix("ID_")
            row = rows[line["scan"]]
            found.append(RealSlice(name, int(line["label_k"]), data, one, row, label))
    assert len(found) == 5
    return found


def test_manifest_lists_the_slice_and_its_patient(slices: list[RealSlice]) -> None:
    for one in slices:
        with quiet_pydicom():
            header = pydicom.dcmread(io.BytesIO(one.file), stop_before_pixels=True)
        assert one.name in one.row.slices
        assert header.PatientID == one.row.patient
        assert len(one.row.slices) == one.label.GetSize()[2]


def test_label_slice_lies_where_the_slice_does(slices: list[RealSlice]) -> None:
    for one in slices:
        place = one.label.TransformIndexToPhysicalPoint((0, 0, one.k))
        # The label's header drops the shear of a tilted gantry: x, and the distance along z hold.
        assert one.read.position_mm[0] == pytest.approx(place[0], abs=1e-3), one.name
        spacing = one.label.GetSpacing()
        assert (one.read.columns, one.read.rows) == one.label.GetSize()[:2]
        between_rows, between_columns = one.read.spacing_mm
        assert (between_columns, between_rows) == pytest.approx(spacing[:2], abs=1e-4)


def test_values_are_hounsfield_units(slices: list[RealSlice]) -> None:
    for one in slices:
        with quiet_pydicom():
            theirs = pydicom.dcmread(io.BytesIO(one.file))
        hu = one.hu
        soft = hu[(hu >= -20) & (hu <= 90)]
        assert 20 < np.median(soft) < 55, one.name  # brain or muscle
        assert hu.min() >= -1100, one.name
        assert hu.max() > 600, one.name

        # Where nothing has to be repaired the values are those of the DICOM rescale.
        plain = theirs.pixel_array * float(theirs.RescaleSlope) + float(theirs.RescaleIntercept)
        tissue = (hu > -200) & (hu < 300)
        if not one.read.wraps:
            np.testing.assert_array_equal(hu[tissue], plain[tissue])


def test_label_outlines_blood(slices: list[RealSlice]) -> None:
    in_mask = [one for one in slices if one.mask.any()]
    assert in_mask
    for one in in_mask:
        blood = one.hu[one.mask]
        ring = _grown(one.mask, 12) & ~_grown(one.mask, 4)
        around = one.hu[ring & (one.hu > 0) & (one.hu < 80)]
        assert 40 < blood.mean() < 75, one.name
        assert blood.mean() > around.mean() + 8, one.name


def _grown(mask: Any, pixels: int) -> Any:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    return sitk.GetArrayFromImage(sitk.BinaryDilate(image, [pixels, pixels])) > 0
