import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hemseg_cli.imaging.geometry import true_voxel_volume_mm3
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import to_canonical
from hemseg_cli.inference.measures import (
    Measured,
    lesion_rows,
    measure,
    write_lesions,
    write_volumes,
)
from hemseg_cli.inference.subgrid import Probability


def _measured(mask: np.ndarray, affine: np.ndarray, probability: float = 0.9) -> Measured:
    scan, _ = to_canonical(Volume(np.where(mask, 65, 30).astype(np.int16), affine))
    canonical = to_canonical(Volume(mask, affine))[0].array
    i, j, k = canonical.shape
    output = Probability(
        canonical.astype(np.float32) * np.float32(probability), ((0, i), (0, j), (0, k)), (i, j, k)
    )
    return measure(
        "scan",
        canonical,
        scan,
        voxel_volume_mm3=true_voxel_volume_mm3(affine),
        probability=output,
        deviation=None,
        threshold=0.5,
    )


def _tilted(degrees: float) -> np.ndarray:
    """A right-angled header as ITK writes it.

    0.5 mm pixels, slice origins 5 mm / cos(tilt) apart.
    """
    angle = math.radians(degrees)
    affine = np.eye(4)
    affine[:3, 0] = [-0.5, 0, 0]
    affine[:3, 1] = [0, -0.5 * math.cos(angle), 0.5 * math.sin(angle)]
    affine[:3, 2] = np.array([0, math.sin(angle), math.cos(angle)]) * 5.0 / math.cos(angle)
    return affine


@pytest.mark.parametrize("degrees", [0.0, 22.0, -22.0, 30.0])
def test_volume_through_a_tilted_gantry_agrees_with_hand_calculation(degrees: float) -> None:
    mask = np.zeros((40, 40, 8), dtype=np.uint8)
    mask[10:30, 10:30, 2:6] = 1
    by_hand_ml = 20 * 20 * 4 * 0.5 * 0.5 * 5.0 / 1000
    row = _measured(mask, _tilted(degrees)).row
    assert row.predicted_ml == pytest.approx(by_hand_ml, rel=1e-3)
    assert row.largest_ml == pytest.approx(by_hand_ml, rel=1e-3)
    assert row.mean_hu == pytest.approx(65.0)
    assert row.mean_probability == pytest.approx(0.9)


def test_empty_mask_is_a_row_of_zeros_that_needs_no_review() -> None:
    measured = _measured(np.zeros((6, 6, 3), dtype=np.uint8), np.eye(4))
    row = measured.row
    assert (row.predicted_ml, row.lesions, row.largest_ml, row.abc2_ml, row.mean_hu) == (
        0.0,
        0,
        0.0,
        0.0,
        None,
    )
    assert not row.review
    assert lesion_rows(measured) == []


def test_small_lesion_is_flagged_with_its_reason() -> None:
    mask = np.zeros((6, 6, 3), dtype=np.uint8)
    mask[2, 2, 1] = 1
    row = _measured(mask, np.eye(4)).row
    assert row.review
    assert row.review_reason == "small (0.00 mL)"


def test_tables_hold_every_scan_and_lesion_sorted(tmp_path: Path) -> None:
    mask = np.zeros((20, 20, 4), dtype=np.uint8)
    mask[2:4, 2:4, 1] = 1
    mask[10:16, 10:16, 1:3] = 1
    measured = _measured(mask, np.diag([1.0, 1.0, 5.0, 1.0]))
    rows = [replace(measured.row, scan=scan) for scan in ("b", "a")]
    write_volumes(tmp_path / "volumes.csv", rows)
    write_lesions(tmp_path / "lesions.csv", reversed(lesion_rows(measured)))
    with (tmp_path / "volumes.csv").open() as file:
        volumes = list(csv.DictReader(file))
    assert [line["scan"] for line in volumes] == ["a", "b"]
    assert float(volumes[0]["predicted_ml"]) == 0.38  # (4 + 72) voxels of 5 mm3
    assert volumes[0]["lesions"] == "2"
    with (tmp_path / "lesions.csv").open() as file:
        lesions = list(csv.DictReader(file))
    assert [(line["lesion"], float(line["volume_ml"])) for line in lesions] == [
        ("1", 0.36),
        ("2", 0.02),
    ]
    assert [float(lesions[0][f"centroid_{axis}_mm"]) for axis in "ras"] == pytest.approx(
        [12.5, 12.5, 7.5]
    )
