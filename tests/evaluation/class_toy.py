"""A small data set of three classes, and runs that hold drawn label maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hemseg_cli.core.cases import Case, write_cases
from hemseg_cli.core.classes import LabelClass, write_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.imaging.nifti import Volume, write_volume
from tests.evaluation.toy import Workplace

SHAPE = (24, 22, 10)
SPACING_MM = (0.5, 0.5, 5.0)
AFFINE = np.diag([-0.5, -0.5, 5.0, 1.0])
VOXEL_ML = 1.25 / 1000
TRUTH = (LabelClass(1, "IPH"), LabelClass(2, "SDH"), LabelClass(3, "SAH"))
PREDICTED = (LabelClass(1, "SAH"), LabelClass(2, "IPH"), LabelClass(3, "SDH"))
TO_PREDICTED = {0: 0, 1: 2, 2: 3, 3: 1}
SCANS = tuple(f"scan{n}" for n in range(6))


def label_map(n: int) -> np.ndarray[Any, Any]:
    """The n-th truth: IPH in all scans, SDH in every second, SAH in none but the last two."""
    drawn = np.zeros(SHAPE, dtype=np.uint8)
    drawn[4 : 9 + n, 5:11, 3:6] = 1
    if n % 2:
        drawn[2:20, 15:18, 4:8] = 2
    if n > 3:
        drawn[15:18, 3:9, 1:4] = 3
    return drawn


def perturbed(n: int, *, seed: int) -> np.ndarray[Any, Any]:
    """The n-th truth shifted, partly erased, and some of its IPH called SDH."""
    random = np.random.default_rng((seed, n))
    drawn = np.roll(label_map(n), random.integers(-1, 2, 3), (0, 1, 2))
    drawn[random.random(SHAPE) < 0.1] = 0
    drawn[(drawn == 1) & (random.random(SHAPE) < 0.2)] = 2
    return drawn


def make_place(root: Path, *, truth: Sequence[LabelClass] = TRUTH) -> Workplace:
    folder = root / "data" / "toy"
    cases = [
        Case(
            scan,
            f"p{n}",
            "test",
            SHAPE[2],
            f"test/label/{scan}.nii.gz",
            f"test/image/{scan}.nii.gz",
            voxel_volume_mm3=1.25,
        )
        for n, scan in enumerate(SCANS)
    ]
    write_cases(folder / "cases.csv", cases)
    write_classes(DataDirectory(folder), truth)
    for n, scan in enumerate(SCANS):
        write_volume(folder / "test" / "label" / f"{scan}.nii.gz", Volume(label_map(n), AFFINE))
        hu = (30 + 40 * (label_map(n) > 0)).astype(np.int16)
        write_volume(folder / "test" / "image" / f"{scan}.nii.gz", Volume(hu, AFFINE))
    return Workplace(root)


def add_run(place: Workplace, name: str, maps: Sequence[np.ndarray[Any, Any]]) -> RunDirectory:
    """A run whose classes have other values than the data set's."""
    values = np.array([TO_PREDICTED[value] for value in range(4)], dtype=np.uint8)
    run = place.run(name, lambda _: None)
    for scan, drawn in zip(SCANS, maps, strict=True):
        write_volume(run.prediction_file("test", scan), Volume(values[drawn], AFFINE))
    write_classes(DataDirectory(run.predictions("test")), PREDICTED)
    return run
