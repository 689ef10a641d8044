"""Tiny scans on disk, with a case table, for the tests of training."""

from pathlib import Path

import numpy as np

from hemseg_cli.config import Config, load
from hemseg_cli.core.cases import Case
from hemseg_cli.imaging.geometry import Affine
from hemseg_cli.imaging.nifti import Volume, write_volume

AFFINE = np.array([[-0.5, 0, 0, 10.0], [0, -0.5, 0, 12.0], [0, 0, 5.0, -7.0], [0, 0, 0, 1]])


def ball_scan(
    folder: Path,
    scan: str,
    *,
    shape: tuple[int, int, int] = (32, 28, 10),
    affine: Affine = AFFINE,
    seed: int = 0,
    split: str = "train",
) -> Case:
    """Write brain of about 35 HU with a bleeding of about 65 HU, as `convert` would."""
    random = np.random.default_rng(seed)
    centre = [random.integers(n // 4, 3 * n // 4 + 1) for n in shape]
    grid = np.indices(shape)
    label = sum(((g - c) / (n / 7)) ** 2 for g, c, n in zip(grid, centre, shape, strict=True)) < 1
    image = np.where(label, 65, 35) + random.normal(0, 3, shape)
    image[:3], image[-3:] = -1000, -1000
    case = Case(
        scan,
        patient=f"patient-{scan}",
        split=split,
        label=f"{split}/label/{scan}.nii.gz",
        image=f"{split}/image/{scan}.nii.gz",
    )
    write_volume(folder / case.image, Volume(image.astype(np.int16), affine))
    write_volume(folder / case.label, Volume(label.astype(np.uint8), affine))
    return case


def config_for(root: Path, *assignments: str) -> Config:
    """A configuration whose data set is `root/tiny`, with preprocessing in this process."""
    return load(
        assignments=[f"data.root='{root}'", "data.dataset=tiny", "compute.workers=0", *assignments],
        environ={},
    )
