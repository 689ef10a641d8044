import base64
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from hemseg_cli.core.cases import read_cases
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.imaging.nifti import Volume, write_volume
from hemseg_cli.reporting.packing import pack_hu, pack_mask, shrink
from hemseg_cli.reporting.report import report
from hemseg_cli.reporting.results import CaseResult, read_run
from hemseg_cli.reporting.viewer import Viewer, build_viewer, choose_scans
from tests.reporting.workplace import Workplace

Make = Callable[..., Workplace]


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)


def view(place: Workplace, run: str = "dynunet-1", **options: int) -> Viewer:
    results = [read_run(RunDirectory(place.run(run)), "test")]
    cases = read_cases(place.config.data.cases_file)
    return build_viewer(
        results, cases, place.config.data.folder, **({"count": 3, "matrix": 256} | options)
    )


def results(*dices: float | None) -> list[CaseResult]:
    return [CaseResult(f"s{n}", "", {"dice": dice}) for n, dice in enumerate(dices)]


@pytest.mark.parametrize(
    ("count", "chosen"),
    [
        (0, []),
        (1, [("median", "s1")]),
        (2, [("worst", "s3"), ("best", "s0")]),
        (3, [("worst", "s3"), ("median", "s1"), ("best", "s0")]),
        (
            9,
            [
                ("worst", "s3"),
                ("rank 2 of 5", "s2"),
                ("median", "s1"),
                ("rank 4 of 5", "s4"),
                ("best", "s0"),
            ],
        ),
    ],
)
def test_scans_are_chosen_from_worst_to_best(count: int, chosen: list[tuple[str, str]]) -> None:
    found = choose_scans(results(0.9, 0.6, 0.5, 0.0, 0.8, None), count)
    assert [(role, result.scan) for role, result in found] == chosen


def test_a_single_scan_is_shown_once() -> None:
    assert len(choose_scans(results(0.4), 3)) == 1


def test_hu_survive_packing_within_a_grey_step() -> None:
    hu = np.random.default_rng(0).uniform(-300, 400, (3, 5, 7)).astype(np.float32)
    grey = np.cumsum(unpacked(pack_hu(hu)).reshape(3, 5, 7), axis=2, dtype=np.uint8)
    back = grey.astype(np.float32) * 300 / 255 - 100
    assert np.abs(back - np.clip(hu, -100, 200)).max() <= 300 / 255 / 2 + 1e-4


def test_masks_are_packed_a_bit_a_pixel() -> None:
    mask = np.random.default_rng(1).random((2, 3, 5)) > 0.5
    assert (np.unpackbits(unpacked(pack_mask(mask)))[:30].reshape(2, 3, 5) == mask).all()


def test_shrinking_averages_blocks_and_repeats_the_edge() -> None:
    hu = np.arange(12, dtype=np.int16).reshape(1, 3, 4)
    small, factor = shrink(hu, 2)
    assert factor == 2
    assert small.tolist() == [[[2.5, 4.5], [8.5, 10.5]]]


def test_slices_stand_as_a_radiologist_reads_them(make_workplace: Make) -> None:
    """Arrays are L-P-S: high i is the patient's left, which is on the right of the picture.

    High j is posterior, which is down.
    """
    place = make_workplace(scans=("aa",))
    data = place.config.data.folder
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    hu = np.full((20, 30, 4), 50, dtype=np.int16)
    label, mask = np.zeros((20, 30, 4), dtype=np.uint8), np.zeros((20, 30, 4), dtype=np.uint8)
    label[18, 2, 3] = 1  # left, anterior, top slice
    mask[1, 28, 0] = 1  # right, posterior, lowest slice
    write_volume(data / "test/image/aa.nii.gz", Volume(hu, affine))
    write_volume(data / "test/label/aa.nii.gz", Volume(label, affine))
    write_volume(place.run() / "predictions/test/aa.nii.gz", Volume(mask, affine))
    values = view(place).scans[0].values
    assert (values["slices"], values["mask"]) == (4, {"rows": 30, "columns": 20})
    truth = np.unpackbits(unpacked(values["truth"]["data"])).reshape(4, 30, 20)
    predicted = np.unpackbits(unpacked(values["predictions"][0]["data"])).reshape(4, 30, 20)
    assert np.argwhere(truth).tolist() == [[3, 2, 18]]
    assert np.argwhere(predicted).tolist() == [[0, 28, 1]]
    assert values["truth"]["voxels"] == [0, 0, 0, 1]
    assert values["truth"]["ml"][3] == pytest.approx(0.011, abs=5e-4)


def test_a_missing_image_leaves_the_scan_out_and_says_so(make_workplace: Make) -> None:
    place = make_workplace()
    (worst, *_) = view(place).scans
    (place.config.data.folder / f"test/image/{worst.scan}.nii.gz").unlink()
    result = report(place.config)
    assert worst.scan not in result.viewer_scans
    assert len(result.viewer_scans) == 4
    assert "does not exist" in result.viewer_left_out[worst.scan]
    assert f"Scan {worst.scan} is not in the viewer" in result.html.read_text()


def test_a_mask_of_another_shape_leaves_the_scan_out(make_workplace: Make) -> None:
    place = make_workplace(scans=("aa",))
    write_volume(
        place.run() / "predictions/test/aa.nii.gz", Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    )
    assert "is 4 x 4 x 4 voxels" in view(place).left_out["aa"]


def test_without_a_case_table_the_page_is_made_without_viewer(make_workplace: Make) -> None:
    place = make_workplace()
    place.config.data.cases_file.unlink()
    result = report(place.config)
    assert result.viewer_scans == ()
    assert all("no case table" in reason for reason in result.viewer_left_out.values())
    assert result.html.is_file()
