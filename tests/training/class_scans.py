"""Scans with five kinds of bleeding, each of a place and density of its own, for the tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.cases import Case, write_cases
from hemseg_cli.core.classes import PREDEFINED, LabelClass, write_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.imaging.nifti import Volume, write_volume
from tests.training.scans import AFFINE

KINDS: tuple[LabelClass, ...] = PREDEFINED[1:6]
"""IPH, IVH, SAH, SDH and EDH with the values 2 to 6."""
_HU = {"IPH": 72, "IVH": 60, "SAH": 48, "SDH": 24, "EDH": 12}
"""The densities are drawn to be told apart, not after nature."""


def draw_scan(
    keys: Sequence[str], *, seed: int, shape: tuple[int, int, int] = (32, 32, 8)
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Draw brain of 35 HU in air, and a box of each kind at a random place of its own sixth."""
    random = np.random.default_rng(seed)
    image = 35 + random.normal(0, 1.5, shape)
    label = np.zeros(shape, dtype=np.uint8)
    places = random.permutation(6)
    for kind, place in zip(KINDS, places, strict=False):
        if kind.key not in keys:
            continue
        i = 4 + 8 * (place % 3) + random.integers(0, 3)
        j = 4 + 13 * (place // 3) + random.integers(0, 4)
        k = random.integers(1, 4)
        box = (slice(i, i + 6), slice(j, j + 8), slice(k, k + 4))
        image[box] += _HU[kind.key] - 35
        label[box] = kind.value
    image[:3], image[-3:] = -1000, -1000
    label[:3], label[-3:] = 0, 0
    return image.astype(np.int16), label


def class_data(
    root: Path,
    name: str,
    *,
    drawn: Sequence[str],
    labelled: Sequence[str] | None = None,
    train: int = 4,
    val: int = 2,
    seed: int = 0,
) -> None:
    """Write the data set `root/data/<name>`: scans with the kinds `drawn`.

    `labelled`: the kinds that its labels and `classes.toml` know (None: all that are drawn).
    """
    known = [kind for kind in KINDS if kind.key in (labelled or drawn)]
    directory = DataDirectory(root / "data" / name)
    cases = []
    for number, split in enumerate(["train"] * train + ["val"] * val):
        scan = f"{name}-{number}"
        image, label = draw_scan(drawn, seed=seed + number)
        label[~np.isin(label, [kind.value for kind in known])] = 0
        case = Case(
            scan,
            patient=f"p-{scan}",
            split=split,
            label=f"{split}/label/{scan}.nii.gz",
            image=f"{split}/image/{scan}.nii.gz",
        )
        write_volume(directory.path / case.image, Volume(image, AFFINE))
        write_volume(directory.path / case.label, Volume(label, AFFINE))
        cases.append(case)
    write_cases(directory.cases_file, cases)
    write_classes(directory, known)
