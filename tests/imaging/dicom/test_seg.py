import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from hemseg_cli.core.classes import PREDEFINED
from hemseg_cli.core.errors import CaseError
from hemseg_cli.dataset.phantom.dataset import make_phantom
from hemseg_cli.imaging.dicom.derived import source_headers, valid_uid
from hemseg_cli.imaging.dicom.origin import UNKNOWN, Algorithm
from hemseg_cli.imaging.dicom.seg import write_seg
from hemseg_cli.imaging.dicom.series import assemble, read_slices
from tests.dicom_series import read_seg

UNET = Algorithm("unet", "0.1.0", "0123456789abcdef")
pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("highdicom") is None, reason="extra dicom is not installed"
    ),
    pytest.mark.filterwarnings(
        "ignore::UserWarning"
    ),  # pydicom of the phantom's ID_... identifiers
]


@pytest.fixture(scope="module")
def series(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[float, list[Path], tuple[int, ...], list[str]]]:
    """Every phantom scan: tilt, slice files in order along the normal, shape, slice ids."""
    folder = tmp_path_factory.mktemp("phantom")
    found = []
    for scan in make_phantom(folder, seed=3, patients=6, matrix=32, slices=(5, 8), smallest_ml=3.0):
        slices = read_slices(
            scan.scan,
            scan.slices,
            lambda name: (folder / "stage_2_train" / f"ID_{name}.dcm").read_bytes(),
        )
        volume, sidecar = assemble(scan.scan, slices)
        names = sidecar.source_slices
        found.append(
            (
                scan.tilt_deg,
                [folder / "stage_2_train" / f"ID_{name}.dcm" for name in names],
                volume.array.shape,
                names,
            )
        )
    return found


def test_mask_of_every_series_tilted_or_not_reads_back_voxel_by_voxel(
    series: list[tuple[float, list[Path], tuple[int, ...], list[str]]], tmp_path: Path
) -> None:
    assert any(abs(tilt) > 5 for tilt, *_ in series)
    for number, (_, files, shape, _) in enumerate(series):
        mask = (np.random.default_rng(number).random(shape) > 0.7).astype(np.uint8)
        mask[:, :, 0] = 0  # an empty slice stays in its place
        write_seg(tmp_path / "seg.dcm", mask, source_headers(files, UNKNOWN), algorithm=UNET)
        got, names, positions = read_seg(tmp_path / "seg.dcm")
        headers = [dcmread(file, stop_before_pixels=True) for file in files]
        assert np.array_equal(got, mask)
        assert names == [valid_uid(header.SOPInstanceUID) for header in headers]
        assert np.allclose(positions, [header.ImagePositionPatient for header in headers])


def test_another_reader_finds_the_same_frames(
    series: list[tuple[float, list[Path], tuple[int, ...], list[str]]], tmp_path: Path
) -> None:
    sitk = pytest.importorskip("SimpleITK")
    _, files, shape, _ = series[0]
    mask = np.zeros(shape, dtype=np.uint8)
    mask[4:9, 10:12, 2:4] = 1
    write_seg(tmp_path / "seg.dcm", mask, source_headers(files, UNKNOWN), algorithm=UNET)
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "seg.dcm")))
    assert sorted(np.count_nonzero(frames, axis=(1, 2)).tolist()) == sorted(
        np.count_nonzero(mask, axis=(0, 1)).tolist()
    )
    dataset = dcmread(tmp_path / "seg.dcm")
    assert dataset.Modality == "SEG"
    assert (
        dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Hemorrhage"
    )


def test_same_mask_gives_the_same_identifiers(
    series: list[tuple[float, list[Path], tuple[int, ...], list[str]]], tmp_path: Path
) -> None:
    _, files, shape, _ = series[0]
    for name in ("a.dcm", "b.dcm"):
        write_seg(
            tmp_path / name,
            np.ones(shape, dtype=np.uint8),
            source_headers(files, UNKNOWN),
            algorithm=UNET,
        )
    assert dcmread(tmp_path / "a.dcm").SOPInstanceUID == dcmread(tmp_path / "b.dcm").SOPInstanceUID


def test_no_name_birth_date_or_institution_is_taken_over(
    series: list[tuple[float, list[Path], tuple[int, ...], list[str]]], tmp_path: Path
) -> None:
    _, files, shape, _ = series[0]
    marked = []
    for file in files:
        dataset = dcmread(file)
        dataset.PatientName, dataset.PatientBirthDate, dataset.InstitutionName = (
            "CANARY^NAME",
            "19010203",
            "CANARY HOSPITAL",
        )
        dataset.save_as(tmp_path / file.name)
        marked.append(tmp_path / file.name)
    write_seg(
        tmp_path / "seg.dcm",
        np.ones(shape, dtype=np.uint8),
        source_headers(marked, UNKNOWN),
        algorithm=UNET,
    )
    content = (tmp_path / "seg.dcm").read_bytes()
    assert b"CANARY" not in content
    assert b"19010203" not in content


def test_mask_that_does_not_fit_the_slices_is_refused(
    series: list[tuple[float, list[Path], tuple[int, ...], list[str]]], tmp_path: Path
) -> None:
    _, files, shape, _ = series[0]
    headers = source_headers(files, UNKNOWN)
    with pytest.raises(CaseError, match="slices, the series"):
        write_seg(
            tmp_path / "seg.dcm",
            np.zeros((*shape[:2], shape[2] + 1), dtype=np.uint8),
            headers,
            algorithm=UNET,
        )
    with pytest.raises(CaseError, match="the mask is"):
        write_seg(
            tmp_path / "seg.dcm",
            np.zeros((4, 4, shape[2]), dtype=np.uint8),
            headers,
            algorithm=UNET,
        )
    assert not (tmp_path / "seg.dcm").exists()


def test_each_class_is_a_segment_with_code_and_colour(
    series: list[tuple[float, list[Path], tuple[int, ...], list[str]]], tmp_path: Path
) -> None:
    import highdicom

    _, files, shape, _ = series[0]
    classes = PREDEFINED[1:6]
    # Values as a data set may have them: neither from 1 nor without gaps. One class is absent.
    values = [class_.value for class_ in classes[:-1]]
    mask = np.random.default_rng(5).choice([0, *values], shape).astype(np.uint8)
    write_seg(
        tmp_path / "seg.dcm", mask, source_headers(files, UNKNOWN), algorithm=UNET, classes=classes
    )

    read = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert read.number_of_segments == 5
    for number, class_ in enumerate(classes, start=1):
        description = read.get_segment_description(number)
        assert description.segment_label == class_.name
        assert description.segmented_property_type.value == class_.snomed
        lab = highdicom.color.CIELabColor.from_dicom_value(
            description.RecommendedDisplayCIELabValue
        )
        assert np.allclose(lab.to_rgb(), class_.colour, atol=3)

    pixels = read.get_pixels_by_source_instance(
        [valid_uid(dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files],
        combine_segments=False,
        ignore_spatial_locations=True,
    )
    for number, class_ in enumerate(classes):
        assert np.array_equal(pixels[..., number].transpose(2, 1, 0), mask == class_.value)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_five_segments_pass_the_validator(
    series: list[tuple[float, list[Path], tuple[int, ...], list[str]]], tmp_path: Path
) -> None:
    _, files, shape, _ = series[0]
    mask = np.random.default_rng(5).integers(0, 7, shape).astype(np.uint8)
    mask[mask == 1] = 0
    write_seg(
        tmp_path / "seg.dcm",
        mask,
        source_headers(files, UNKNOWN),
        algorithm=UNET,
        classes=PREDEFINED[1:6],
    )
    answer = subprocess.run(
        ["dciodvfy", str(tmp_path / "seg.dcm")], capture_output=True, text=True, check=False
    )
    errors = [line for line in answer.stderr.splitlines() if line.startswith("Error")]
    assert errors == []
