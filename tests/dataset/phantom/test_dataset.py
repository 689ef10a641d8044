"""The phantom against SimpleITK's reader, the published layout and other ways to volumes."""

import gzip
import hashlib
import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from hemseg_cli.core.errors import HemsegError
from hemseg_cli.dataset.phantom.dataset import PhantomScan, make_phantom

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


@pytest.fixture(autouse=True)
def identifiers_that_are_no_uids() -> Iterator[None]:
    with pydicom.config.disable_value_validation():
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PhantomScan]]:
    folder = tmp_path_factory.mktemp("phantom")
    return folder, make_phantom(
        folder, seed=3, patients=6, matrix=48, slices=(10, 13), smallest_ml=3.0
    )


def label_of(folder: Path, scan: PhantomScan) -> nib.Nifti1Image:
    with zipfile.ZipFile(folder / "labels.zip") as archive:
        return nib.Nifti1Image.from_bytes(
            gzip.decompress(archive.read(f"phantom/{scan.split}/label/{scan.scan}.nii.gz"))
        )


def read_by_itk(folder: Path, scan: PhantomScan) -> sitk.Image:
    return sitk.ReadImage(
        [str(folder / "stage_2_train" / f"ID_{slice_id}.dcm") for slice_id in scan.slices]
    )


def headers(folder: Path, scan: PhantomScan) -> list[pydicom.Dataset]:
    return [
        pydicom.dcmread(folder / "stage_2_train" / f"ID_{slice_id}.dcm") for slice_id in scan.slices
    ]


def test_label_grid_is_the_one_itk_reads_from_the_series(
    small: tuple[Path, list[PhantomScan]],
) -> None:
    folder, scans = small
    for scan in scans:
        image, label = read_by_itk(folder, scan), label_of(folder, scan)
        steps = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        affine = np.eye(4)
        affine[:3] = np.diag([-1, -1, 1]) @ np.column_stack([steps, image.GetOrigin()])
        assert image.GetSize() == label.shape
        np.testing.assert_allclose(label.affine, affine, atol=1e-3)


def test_headers_hold_the_published_elements_and_no_other(
    small: tuple[Path, list[PhantomScan]],
) -> None:
    folder, scans = small
    for scan in scans:
        for slice_id, dataset in zip(scan.slices, headers(folder, scan), strict=True):
            assert [element.keyword for element in dataset] == ELEMENTS
            assert dataset.SOPInstanceUID == f"ID_{slice_id}"
            assert dataset.SeriesInstanceUID == f"ID_{scan.scan}"
            assert dataset.PatientID == scan.patient
            assert dataset.StudyID == ""
            assert dataset.RescaleSlope == 1


def test_pixel_formats_cover_what_the_published_slices_have(tmp_path: Path) -> None:
    scans = make_phantom(tmp_path, seed=0, patients=7, matrix=16, slices=(4, 4), smallest_ml=3.0)
    seen = [headers(tmp_path, scan)[0] for scan in scans]
    assert {dataset.BitsStored for dataset in seen} == {12, 16}
    assert {dataset.PixelRepresentation for dataset in seen} == {0, 1}
    assert {dataset.RescaleIntercept for dataset in seen} == {-1024, -1000, 0, 1}
    assert {isinstance(dataset.WindowCenter, pydicom.multival.MultiValue) for dataset in seen} == {
        True,
        False,
    }
    assert {int(dataset.pixel_array.min()) for dataset in seen} >= {-2000, -2048, -3024}


def test_identifiers_and_file_names_are_those_of_the_archives(
    small: tuple[Path, list[PhantomScan]],
) -> None:
    folder, scans = small
    files = sorted(path.name for path in (folder / "stage_2_train").iterdir())
    assert files == sorted(f"ID_{slice_id}.dcm" for scan in scans for slice_id in scan.slices)
    assert all(re.fullmatch(r"ID_[0-9a-f]{9}\.dcm", name) for name in files)
    assert all(re.fullmatch(r"[0-9a-f]{10}", scan.scan) for scan in scans)
    assert all(re.fullmatch(r"ID_[0-9a-f]{8}", scan.patient) for scan in scans)
    with zipfile.ZipFile(folder / "labels.zip") as archive:
        labels = {name for name in archive.namelist() if not name.endswith("/")}
    assert labels == {f"phantom/{scan.split}/label/{scan.scan}.nii.gz" for scan in scans}


def test_manifest_rows_are_unordered_and_repeat_ids(small: tuple[Path, list[PhantomScan]]) -> None:
    folder, scans = small
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert [row["scan_"] for row in rows] == [scan.scan for scan in scans]
    assert all(list(row) == ["patient", "scan_", "slice_list"] for row in rows)
    assert all(
        set(row["slice_list"]) == set(scan.slices) for row, scan in zip(rows, scans, strict=True)
    )
    assert any(len(row["slice_list"]) > len(set(row["slice_list"])) for row in rows)
    assert all(
        tuple(row["slice_list"]) != scan.slices for row, scan in zip(rows, scans, strict=True)
    )


def test_source_file_holds_size_and_hash_of_archive_and_manifest(
    small: tuple[Path, list[PhantomScan]],
) -> None:
    folder, _scans = small
    source = json.loads((folder / "source.json").read_text())
    assert source["dataset"] == "phantom"
    for name in ("archive", "manifest"):
        data = (folder / source[name]["file"]).read_bytes()
        assert source[name]["bytes"] == len(data)
        assert source[name]["sha256"] == hashlib.sha256(data).hexdigest()


def test_splits_keep_patients_together_and_some_patients_come_twice(
    small: tuple[Path, list[PhantomScan]],
) -> None:
    _folder, scans = small
    splits = defaultdict(set)
    for scan in scans:
        splits[scan.patient].add(scan.split)
    assert all(len(names) == 1 for names in splits.values())
    assert {scan.split for scan in scans} == {"train", "val", "test"}
    assert sorted(Counter(scan.patient for scan in scans).values()) == [1, 1, 1, 1, 2, 2]


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    def digest(name: str, seed: int) -> str:
        make_phantom(
            tmp_path / name, seed=seed, patients=3, matrix=24, slices=(5, 6), smallest_ml=3.0
        )
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        text = "".join(
            f"{path.relative_to(tmp_path / name)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
            for path in files
        )
        return hashlib.sha256(text.encode()).hexdigest()

    assert digest("a", 1) == digest("b", 1)
    assert digest("c", 2) != digest("d", 1)


def test_matrix_size_changes_neither_heads_nor_splits_nor_geometry(tmp_path: Path) -> None:
    coarse = make_phantom(
        tmp_path / "16", seed=5, patients=3, matrix=16, slices=(6, 6), smallest_ml=3.0
    )
    fine = make_phantom(
        tmp_path / "40", seed=5, patients=3, matrix=40, slices=(6, 6), smallest_ml=3.0
    )
    same = (
        "scan",
        "patient",
        "split",
        "slices",
        "hemorrhages_ml",
        "tilt_deg",
        "fov_mm",
        "slice_distance_mm",
    )
    assert [[getattr(scan, name) for name in same] for scan in coarse] == [
        [getattr(scan, name) for name in same] for scan in fine
    ]
    for a, b in zip(coarse, fine, strict=True):
        middles = [
            label_of(folder, scan).affine @ [(n - 1) / 2, (n - 1) / 2, 0, 1]
            for folder, scan, n in ((tmp_path / "16", a, 16), (tmp_path / "40", b, 40))
        ]
        np.testing.assert_allclose(middles[0], middles[1], atol=1e-3)


def test_labels_are_int16_binary_and_never_empty(small: tuple[Path, list[PhantomScan]]) -> None:
    folder, scans = small
    labels = [label_of(folder, scan) for scan in scans]
    assert {label.get_data_dtype() for label in labels} == {np.dtype(np.int16)}
    assert all(set(np.unique(np.asarray(label.dataobj))) == {0, 1} for label in labels)
    assert {nib.aff2axcodes(label.affine) for label in labels} == {("L", "P", "S")}
    assert Counter(int(label.header["sform_code"]) for label in labels) == {1: 7, 0: 1}
    assert {int(label.header["qform_code"]) for label in labels} == {1}


def test_labelled_voxels_are_blood_in_the_series_that_itk_reads(
    small: tuple[Path, list[PhantomScan]],
) -> None:
    folder, scans = small
    for scan in scans:
        hu = sitk.GetArrayFromImage(read_by_itk(folder, scan)).astype(float)
        if "wrapped" in scan.pixels:
            # The rule for rolled-over RSNA files, by hand: add 1000, wrap at 4096, intercept -1000.
            stored = hu - 1 + 1000
            hu = np.where(stored >= 4096, stored - 4096, stored) - 1000
        blood = hu[np.asarray(label_of(folder, scan).dataobj).T == 1]
        air, bone = np.percentile(hu, 5), np.percentile(hu, 99)
        assert 40 < np.median(blood) < 80
        assert air <= -950
        assert 400 < bone < 1500


def test_truth_is_the_sum_of_hemorrhages_between_0_05_and_60_ml(
    small: tuple[Path, list[PhantomScan]],
) -> None:
    folder, scans = small
    truth = {
        entry["scan"]: entry for entry in json.loads((folder / "truth.json").read_text())["scans"]
    }
    for scan in scans:
        assert 1 <= len(scan.hemorrhages_ml) <= 4
        assert all(0.05 <= volume < 61 for volume in scan.hemorrhages_ml)
        assert scan.truth_ml == pytest.approx(sum(scan.hemorrhages_ml), abs=1e-3)
        assert truth[scan.scan]["truth_ml"] == scan.truth_ml
        assert truth[scan.scan]["voxel_volume_mm3"] == pytest.approx(
            float(headers(folder, scan)[0].PixelSpacing[0]) ** 2 * scan.slice_distance_mm
        )


def test_too_small_a_phantom_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HemsegError, match="3 patients"):
        make_phantom(tmp_path, patients=2)
