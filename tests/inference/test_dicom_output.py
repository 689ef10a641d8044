"""SEG, SR and PDF of one scan, read back with highdicom and checked with dicom3tools."""

import importlib.util
import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import CTImageStorage, generate_uid

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, PREDEFINED, LabelClass
from hemseg_cli.imaging.dicom.derived import label_of
from hemseg_cli.imaging.dicom.origin import Algorithm
from hemseg_cli.inference.formats import CaseOutput, chosen_formats
from hemseg_cli.inference.inputs.finding import path_inputs
from hemseg_cli.inference.inputs.reading import read_scan
from hemseg_cli.inference.measures import lesion_rows, measure
from hemseg_cli.inference.subgrid import Probability
from tests.dicom_files import PIXEL_MM, STEP_MM, slice_bytes

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("highdicom") is None, reason="extra dicom is not installed"
    ),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

FIVE = PREDEFINED[1:6]
SHAPE = (20, 24, 7)
DCMQI = ("segimage2itkimage", "tid1500reader")
FORMATS = "nifti-per-class,dicom-seg,dicom-sr,dicom-pdf"


def _output(
    folder: Path, classes: tuple[LabelClass, ...], *, tilt_deg: float = 0.0
) -> tuple[CaseOutput, NDArray[np.uint8], list[Path]]:
    """A series in `folder/ct`, its output, and the mask on the axes of its slices.

    Each class but the last has two lesions: boxes of its value, in slices 1 to 3 and 4 to 5.
    """
    (folder / "ct").mkdir(parents=True)
    study, series, frame = (generate_uid() for _ in range(3))
    files = []
    rng = np.random.default_rng(1)
    for number in range(SHAPE[2]):
        hu = rng.integers(20, 80, (SHAPE[1], SHAPE[0]), dtype=np.int16)
        files.append(folder / "ct" / f"{9 - number}.dcm")
        files[-1].write_bytes(
            slice_bytes(
                number,
                hu=hu,
                tilt_deg=tilt_deg,
                SOPInstanceUID=generate_uid(),
                SOPClassUID=CTImageStorage,
                StudyInstanceUID=study,
                SeriesInstanceUID=series,
                FrameOfReferenceUID=frame,
            )
        )

    (source,) = path_inputs([folder / "ct"]).sources
    scan = read_scan(source)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    for number, each in enumerate(classes[: max(1, len(classes) - 1)]):
        mask[2:5, 4 * number + 1 : 4 * number + 3, 1:4] = each.value
        mask[9 : 11 + number, 4 * number + 1 : 4 * number + 4, 4:6] = each.value

    # From the axes of the slices to canonical ones, as the scan itself went.
    flips = tuple(slice(None, None, -1) if flip else slice(None) for flip in scan.change.flipped)
    canonical = np.ascontiguousarray(mask.transpose(scan.change.axes)[flips])
    assert np.array_equal(scan.on_file_axes(canonical).array, mask)
    values = np.ones((*([len(classes)] if len(classes) > 1 else []), *canonical.shape))
    i, j, k = canonical.shape
    certain = Probability(values.astype(np.float32), ((0, i), (0, j), (0, k)), (i, j, k))
    measured = measure(
        "ct",
        canonical,
        scan.volume,
        voxel_volume_mm3=scan.voxel_volume_mm3,
        probability=certain,
        deviation=None,
        threshold=0.5,
        classes=classes,
    )
    algorithm = Algorithm("unet", "0.1.0", "0123456789abcdef")
    output = CaseOutput(
        "ct",
        scan,
        canonical,
        certain,
        measured,
        algorithm,
        classes,
        {row.key: folder / f"ct{row.suffix}" for row in chosen_formats(FORMATS)},
    )
    for row in chosen_formats(FORMATS):
        row.write(output.files[row.key], output)
    return output, mask, files


def _segments(path: Path, files: list[Path]) -> NDArray[np.uint8]:
    """The pixels of a SEG, [k, row, column, segment], for the slices in order."""
    import highdicom

    uids = [dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files]
    return np.asarray(
        highdicom.seg.segread(path).get_pixels_by_source_instance(
            uids, combine_segments=False, ignore_spatial_locations=True
        )
    )


def _groups(path: Path) -> list[Any]:
    import highdicom.sr

    content = highdicom.sr.srread(path).content
    return list(content.get_volumetric_roi_measurement_groups())


def _numbers(group: Any) -> tuple[float, float, float | None]:
    """Volume, ABC/2 and mean HU of a group."""
    by_name: dict[str, list[float]] = {}
    for one in group.get_measurements():
        by_name.setdefault(one.name.meaning, []).append(float(one.value))
    volume, abc2 = by_name["Volume"]
    return volume, abc2, by_name.get("Attenuation Coefficient", [None])[0]


def _lesions(group: Any) -> int:
    """How many lesions a group counts."""
    (found,) = [one.value for one in group.get_measurements() if one.name.value == "246206008"]
    return int(found)


@pytest.mark.parametrize("classes", [HEMORRHAGE_ONLY, FIVE], ids=["one class", "five classes"])
@pytest.mark.parametrize("tilt_deg", [0.0, 18.5])
def test_every_format_passes_the_validator_and_reads_back(
    tmp_path: Path, classes: tuple[LabelClass, ...], tilt_deg: float
) -> None:
    output, mask, files = _output(tmp_path, classes, tilt_deg=tilt_deg)
    pixels = _segments(output.files["dicom-seg"], files)
    for number, each in enumerate(classes):
        expected = (mask == each.value).transpose(2, 1, 0)
        assert np.array_equal(pixels[..., number], expected)

    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools is not installed: not validated")
    for key in ("dicom-seg", "dicom-sr", "dicom-pdf"):
        answer = subprocess.run(
            ["dciodvfy", str(output.files[key])], capture_output=True, text=True, check=False
        )
        assert [line for line in answer.stderr.splitlines() if line.startswith("Error")] == []


def test_segmentation_of_an_even_series_is_a_volume_of_highdicom(tmp_path: Path) -> None:
    import highdicom

    output, mask, files = _output(tmp_path, FIVE)
    volume = highdicom.seg.segread(output.files["dicom-seg"]).get_volume(combine_segments=True)
    got = np.asarray(volume.array)
    numbers = np.zeros(256, dtype=np.uint8)
    for number, each in enumerate(FIVE, start=1):
        numbers[each.value] = number
    expected = numbers[mask].transpose(2, 1, 0)

    # highdicom's order of slices is its own; its affine says which way they go.
    first = dcmread(files[0], stop_before_pixels=True).ImagePositionPatient
    place = volume.affine[:3, 3]
    if not np.allclose(place, np.array(first, dtype=float), atol=1e-3):
        got = got[::-1]
    assert np.array_equal(got, expected)
    assert np.allclose(sorted(volume.spacing), sorted([STEP_MM, PIXEL_MM, PIXEL_MM]), atol=1e-3)


@pytest.mark.parametrize("classes", [HEMORRHAGE_ONLY, FIVE], ids=["one class", "five classes"])
def test_dcmqi_reads_segmentation_and_report_of_an_even_series(
    tmp_path: Path, classes: tuple[LabelClass, ...]
) -> None:
    # Its programs stand beside Python's own where its package is installed.
    folder = Path(sys.executable).parent
    to_images, reader = (shutil.which(name, path=folder) for name in DCMQI)
    if to_images is None or reader is None:
        pytest.skip("dcmqi is not installed")
    output, mask, _ = _output(tmp_path, classes)
    seg, report = (str(output.files[key]) for key in ("dicom-seg", "dicom-sr"))
    images = tmp_path / "images"
    images.mkdir()
    told = [to_images, "--inputDICOM", seg, "--outputDirectory", str(images), "-t", "nifti"]
    subprocess.run(told, check=True, capture_output=True)

    for number, each in enumerate(classes, start=1):
        read = sitk.ReadImage(str(images / f"{number}.nii.gz"))
        array = sitk.GetArrayFromImage(read).transpose(2, 1, 0) > 0
        # Slices from either end: dcmqi sorts them by position.
        if read.GetDirection()[8] < 0:
            array = array[:, :, ::-1]
        assert np.array_equal(array, mask == each.value)

    told = [reader, "--inputDICOM", report, "--outputMetadata", str(tmp_path / "sr.json")]
    subprocess.run(told, check=True, capture_output=True)
    groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    volumes = {group["TrackingIdentifier"]: group["measurementItems"][0] for group in groups}
    row = output.measured.row
    for each in classes:
        name = label_of(each, classes)
        expected = row.class_ml.get(each.key, row.predicted_ml)
        assert float(volumes[name]["value"]) == pytest.approx(expected, abs=1e-4)


def test_segments_state_what_made_them_and_are_tracked(tmp_path: Path) -> None:
    output, _, _ = _output(tmp_path, FIVE)
    written = dcmread(output.files["dicom-seg"])
    uids = [segment.TrackingUID for segment in written.SegmentSequence]
    assert len(set(uids)) == len(FIVE)
    for segment, each in zip(written.SegmentSequence, FIVE, strict=True):
        assert segment.TrackingID == each.name
        made = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (made.AlgorithmName, made.AlgorithmVersion) == ("hemseg unet", "0.1.0")
        assert "0123456789abcdef" in made.AlgorithmParameters
        assert len(segment.RecommendedDisplayCIELabValue) == 3

    # The report's groups of whole classes are tracked by the same identifiers.
    whole = [group for group in _groups(output.files["dicom-sr"]) if _is_whole(group)]
    assert [group.tracking_uid for group in whole] == uids


def _is_whole(group: Any) -> bool:
    return "lesion" not in group.tracking_identifier


def test_report_of_one_class_has_the_numbers_of_the_tables(tmp_path: Path) -> None:
    output, _, _ = _output(tmp_path, HEMORRHAGE_ONLY, tilt_deg=18.5)
    whole, *lesions = _groups(output.files["dicom-sr"])
    row = output.measured.row
    assert row.mean_hu is not None
    assert _numbers(whole) == pytest.approx((row.predicted_ml, row.abc2_ml, row.mean_hu), abs=0.01)

    # By hand: 3 x 2 x 3 and 2 x 3 x 2 voxels, whose slices lie 5 mm apart along the normal.
    voxel_ml = PIXEL_MM * PIXEL_MM * STEP_MM / 1000
    assert [_numbers(one)[0] for one in lesions] == pytest.approx(
        [18 * voxel_ml, 12 * voxel_ml], abs=1e-4
    )
    for group, lesion in zip(lesions, lesion_rows(output.measured), strict=True):
        expected = (lesion.volume_ml, lesion.abc2_ml, lesion.mean_hu)
        assert _numbers(group) == pytest.approx(expected, abs=0.01)


def test_report_of_five_classes_has_each_class_lesion_and_the_union(tmp_path: Path) -> None:
    import highdicom.sr

    output, mask, _ = _output(tmp_path, FIVE)
    groups = _groups(output.files["dicom-sr"])
    by_name = {group.tracking_identifier: group for group in groups}
    assert len(by_name) == len(groups) == 5 + 4 * 2
    for each in FIVE:
        whole = by_name[each.name]
        assert whole.finding_type.value == each.snomed
        assert _numbers(whole)[0] == pytest.approx(output.measured.row.class_ml[each.key], abs=1e-4)
        assert _lesions(whole) == (0 if each.key == "EDH" else 2)
    # EDH is empty: 0 mL, and no density.
    assert _numbers(by_name["Epidural hemorrhage"]) == (0.0, 0.0, None)

    content = highdicom.sr.srread(output.files["dicom-sr"]).content
    (union,) = content.get_image_measurement_groups()
    assert union.tracking_identifier == "All hemorrhage"
    total_ml = np.count_nonzero(mask) * PIXEL_MM * PIXEL_MM * STEP_MM / 1000
    assert float(union.get_measurements()[0].value) == pytest.approx(total_ml, abs=1e-3)
    assert _lesions(union) == output.measured.row.lesions


def _bounds(group: Any) -> list[float]:
    """The interval of a group's volume, mL."""
    wanted = {"VOLLOW": 0, "VOLHIGH": 1}
    found = {}
    for one in group.get_measurements():
        if one.derivation is not None and one.derivation.value in wanted:
            found[one.derivation.value] = float(one.value)
    return [found[key] for key in wanted if key in found]


def test_report_and_page_state_the_interval_of_each_volume(tmp_path: Path) -> None:
    import highdicom.sr

    from hemseg_cli.inference.dicom_output import write_report
    from hemseg_cli.inference.summary_page import page_table

    output, _, _ = _output(tmp_path, FIVE)
    row = replace(
        output.measured.row,
        volume_low_ml=1.25,
        volume_high_ml=9.5,
        class_low_ml={"IPH": 0.5},
        class_high_ml={"IPH": 2.75},
    )
    told = replace(output, measured=replace(output.measured, row=row))
    write_report(tmp_path / "told.dcm", told)
    by_name = {group.tracking_identifier: group for group in _groups(tmp_path / "told.dcm")}
    assert _bounds(by_name["Intraparenchymal hemorrhage"]) == [0.5, 2.75]
    assert _bounds(by_name["Intraparenchymal hemorrhage, lesion 1"]) == []
    assert _bounds(by_name["Subdural hemorrhage"]) == []
    (union,) = highdicom.sr.srread(tmp_path / "told.dcm").content.get_image_measurement_groups()
    assert _bounds(union) == [1.25, 9.5]
    if validator := shutil.which("dciodvfy"):
        answer = subprocess.run(
            [validator, str(tmp_path / "told.dcm")], capture_output=True, text=True, check=False
        )
        assert not [line for line in answer.stderr.splitlines() if line.startswith("Error")]

    intervals = {cells[0]: cells[2] for cells in page_table(told, 20)}
    assert intervals["All hemorrhage"] == "1.25 to 9.50"
    assert intervals["Intraparenchymal hemorrhage"] == "0.50 to 2.75"
    assert intervals["Subdural hemorrhage"] == "-"

    # A scan of one class has the interval of its whole volume.
    one, _, _ = _output(tmp_path / "one", HEMORRHAGE_ONLY)
    row = replace(one.measured.row, volume_low_ml=0.0, volume_high_ml=1.0)
    told = replace(one, measured=replace(one.measured, row=row))
    write_report(tmp_path / "one.dcm", told)
    assert _bounds(_groups(tmp_path / "one.dcm")[0]) == [0.0, 1.0]


def test_report_of_very_many_lesions_has_the_largest_and_counts_all(tmp_path: Path) -> None:
    from hemseg_cli.inference.dicom_output import write_report

    output, _, _ = _output(tmp_path, HEMORRHAGE_ONLY)
    first, second = output.measured.lesions
    many = replace(output.measured, lesions=(*[first] * 40, *[second] * 40))
    write_report(tmp_path / "many.dcm", replace(output, measured=many))
    whole, *lesions = _groups(tmp_path / "many.dcm")
    assert _lesions(whole) == 80
    assert [_numbers(one)[0] for one in lesions] == pytest.approx(
        [first.volume_ml] * 40 + [second.volume_ml] * 10, abs=1e-4
    )


@pytest.mark.parametrize("classes", [HEMORRHAGE_ONLY, FIVE], ids=["one class", "five classes"])
def test_frames_of_a_lesion_are_those_that_show_it(
    tmp_path: Path, classes: tuple[LabelClass, ...]
) -> None:
    output, _, _ = _output(tmp_path, classes)
    frames = dcmread(output.files["dicom-seg"]).pixel_array
    seg_uid = dcmread(output.files["dicom-seg"], stop_before_pixels=True).SOPInstanceUID
    counts = []
    for group in _groups(output.files["dicom-sr"]):
        reference = group.referenced_segment[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == seg_uid
        if _is_whole(group):
            assert "ReferencedFrameNumber" not in reference
            continue
        numbers = reference.ReferencedFrameNumber
        shown = frames[np.array(numbers, ndmin=1) - 1]
        assert all(frame.any() for frame in shown)
        counts.append(len(shown))

    # The boxes that were drawn are three and two slices high.
    assert sorted(counts) == [2] * (len(counts) // 2) + [3] * (len(counts) // 2)
    assert len(counts) == 2 * max(1, len(classes) - 1)


def test_evidence_of_the_report_is_the_segmentation_and_the_slices(tmp_path: Path) -> None:
    output, _, files = _output(tmp_path, HEMORRHAGE_ONLY)
    written = dcmread(output.files["dicom-sr"])
    told = {
        item.ReferencedSOPInstanceUID
        for key in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in written.get(key, [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    expected = {dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files}
    assert told == expected | {dcmread(output.files["dicom-seg"]).SOPInstanceUID}


def test_document_is_one_page_of_the_same_study(tmp_path: Path) -> None:
    output, _, files = _output(tmp_path, FIVE)
    written = dcmread(output.files["dicom-pdf"])
    source = dcmread(files[0], stop_before_pixels=True)
    assert written.StudyInstanceUID == source.StudyInstanceUID
    assert written.SeriesInstanceUID != source.SeriesInstanceUID
    document = written.EncapsulatedDocument[: written.EncapsulatedDocumentLength]
    assert document.startswith(b"%PDF-")
    assert document.rstrip().endswith(b"%%EOF")
    assert document.count(b"/Type /Page\n") == 1


def test_masks_of_the_classes_are_files_of_their_own(tmp_path: Path) -> None:

    output, mask, _ = _output(tmp_path, FIVE, tilt_deg=18.5)
    folder = output.files["nifti-per-class"]
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        f"{each.key}_mask.nii.gz" for each in FIVE
    )
    for each in FIVE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{each.key}_mask.nii.gz")))
        assert np.array_equal(read.transpose(2, 1, 0), mask == each.value)


def test_page_of_many_classes_and_lesions_keeps_to_its_room(tmp_path: Path) -> None:
    from hemseg_cli.inference.summary_page import page_table

    many = tuple(LabelClass(n, f"class{n}") for n in range(1, 31))
    output, _, _ = _output(tmp_path, FIVE)
    lesions = output.measured.by_class["IPH"]
    by_class = {each.key: lesions if n % 2 else () for n, each in enumerate(many)}
    crowded = replace(output, classes=many, measured=replace(output.measured, by_class=by_class))
    rows = [row[0] for row in page_table(crowded, 18)]
    assert len(rows) <= 18
    assert rows[1:4] == ["All hemorrhage", "class2", "class4"]
    assert "and 16 more classes" in rows
    assert rows[-1] == "and 30 smaller lesions"

    rows = [row[0] for row in page_table(output, 12)]
    assert len(rows) == 12
    assert rows[-1] == "and 4 smaller lesions"


def test_codes_that_the_standard_lists_are_its_own() -> None:
    from pydicom.sr.codedict import codes

    by_key = {each.key: each.snomed for each in PREDEFINED}
    assert by_key["hemorrhage"] == codes.SCT.Hemorrhage.value
    assert by_key["edema"] == codes.SCT.Edema.value
