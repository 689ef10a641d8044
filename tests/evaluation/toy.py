"""A small data set with runs that hold drawn masks.

What `evaluate` works on, without training anything.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.config import Config, load
from hemseg_cli.core.cases import Case, with_shared_patients, write_cases
from hemseg_cli.core.run_directory import RunDirectory, mark_latest
from hemseg_cli.imaging.nifti import Volume, write_volume

SHAPE = (32, 30, 10)
SPACING_MM = (0.5, 0.5, 5.0)
AFFINE = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
VOXEL_MM3 = 1.2  # smaller than the header's 1.25: as in a tilted scan
SCANS = ("scan0", "scan1", "scan2", "scan3")
Mask = NDArray[np.uint8]


def block(size: int, *, shift: int = 0) -> Mask:
    """A box of size x 4 x 2 voxels."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[6 + shift : 6 + shift + size, 8:12, 3:5] = 1
    return mask


@dataclass(frozen=True)
class Workplace:
    """`root`: holds data/toy and runs/."""

    root: Path

    def config(self, **options: object) -> Config:
        """The configuration, with `section__key` options."""
        base = {
            "data.root": str(self.root / "data"),
            "data.dataset": "toy",
            "runs.root": str(self.root / "runs"),
            "compute.workers": 0,
        }
        return load(
            None,
            options=base | {key.replace("__", "."): value for key, value in options.items()},
            environ={},
        )

    def run(
        self,
        name: str,
        prediction: Callable[[int], Mask | None],
        *,
        split: str = "test",
        scans: Sequence[str] = SCANS,
    ) -> RunDirectory:
        """A run whose mask of the n-th scan is `prediction(n)`; None: no mask."""
        run = RunDirectory(self.root / "runs" / name)
        run.predictions(split).mkdir(parents=True)
        mark_latest(run)
        run.config_file.write_text(f'[data]\nroot = "{self.root / "data"}"\ndataset = "toy"\n')
        for n, scan in enumerate(scans):
            mask = prediction(n)
            if mask is not None:
                write_volume(run.prediction_file(split, scan), Volume(mask, AFFINE))
        return run


def truth(n: int) -> Mask:
    """The n-th label: 4, 8, 12 or 16 voxels long."""
    return block(4 + 4 * n)


def make_workplace(root: Path) -> Workplace:
    """Four test scans of three patients, one train scan of one of them."""
    folder = root / "data" / "toy"
    patients = ("p0", "p1", "p2", "p2")
    cases = [
        Case(
            scan,
            patient,
            "test",
            SHAPE[2],
            f"test/label/{scan}.nii.gz",
            voxel_volume_mm3=VOXEL_MM3,
            tilt_deg=16.0 * (n % 2),
        )
        for n, (scan, patient) in enumerate(zip(SCANS, patients, strict=True))
    ]
    cases.append(
        Case(
            "scan9", "p9", "train", SHAPE[2], "train/label/scan9.nii.gz", voxel_volume_mm3=VOXEL_MM3
        )
    )
    write_cases(folder / "cases.csv", with_shared_patients(cases))
    for n, scan in enumerate(SCANS):
        write_volume(
            folder / "test" / "label" / f"{scan}.nii.gz", Volume(truth(n).astype(np.int16), AFFINE)
        )
    write_volume(folder / "train" / "label" / "scan9.nii.gz", Volume(truth(0), AFFINE))
    return Workplace(root)
