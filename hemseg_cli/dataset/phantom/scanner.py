"""A CT scanner for the phantom head: slice thickness, partial volume, texture and noise.

The head is sampled where the scanner's voxels truly lie (see `gantry`); the volumes carry the grid
that ITK's readers and the published labels give it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.dataset.phantom.anatomy import draw_anatomy
from hemseg_cli.dataset.phantom.gantry import Gantry, Plane, Pose, texture_on
from hemseg_cli.dataset.phantom.head import Head
from hemseg_cli.dataset.phantom.hemorrhages import BLEEDING_KINDS, with_hemorrhages
from hemseg_cli.dataset.phantom.painting import paint_head
from hemseg_cli.dataset.phantom.shapes import Array
from hemseg_cli.imaging.geometry import Affine
from hemseg_cli.imaging.nifti import Volume

_THROUGH_SLICE = (-1 / 3, 0.0, 1 / 3)  # planes averaged over the slice thickness, in thicknesses
ALL_BLOOD = dict.fromkeys(BLEEDING_KINDS, 1)
"""Label values of a data set of one class: every kind of hemorrhage is 1."""


@dataclass(frozen=True)
class DrawnScan:
    """One scan in memory, [i, j, k] on the grid that ITK gives the series.

    `image` in HU (int16), `label` 0 and 1 (int16).
    """

    image: Volume
    label: Volume
    true_affine: Affine
    truth_ml: float
    voxel_volume_mm3: float
    tilt_deg: float


def draw_head(
    seed: int = 0,
    *,
    gantry: Gantry | None = None,
    volumes_ml: tuple[float, ...] = (20.0, 3.0),
    ventricular: bool = False,
) -> DrawnScan:
    """Scan one head, which depends on `seed`, `volumes_ml` and `ventricular`, not on the gantry."""
    gantry = gantry or Gantry()
    rng = np.random.default_rng([seed, 1])
    head = with_hemorrhages(draw_anatomy(rng), list(volumes_ml), rng, ventricular=ventricular)
    image, label = scan_head(
        head, gantry, np.random.default_rng([seed, 2]), pose=Pose(gantry.centre_mm)
    )
    return DrawnScan(
        image=Volume(image, gantry.label_affine),
        label=Volume(label, gantry.label_affine),
        true_affine=gantry.true_affine,
        truth_ml=sum(head.truth_ml()),
        voxel_volume_mm3=gantry.voxel_volume_mm3,
        tilt_deg=gantry.tilt_deg,
    )


def scan_head(
    head: Head,
    gantry: Gantry,
    rng: np.random.Generator,
    *,
    pose: Pose,
    values: Mapping[str, int] = ALL_BLOOD,
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """HU and label of a scan, int16 [i, j, k] each, stored slice by slice (k slowest).

    `values`: class key of a lesion -> its value in the label; others are drawn and not labelled.
    A voxel is labelled where its centre lies in blood: the voxel count is then an unbiased estimate
    of the volume (Cavalieri).
    """
    size = gantry.matrix
    hu = np.empty((gantry.slices, size, size), dtype=np.int16)
    label = np.zeros((gantry.slices, size, size), dtype=np.int16)
    rotation, affine = pose.rotation, gantry.true_affine
    for k in range(gantry.slices):
        folds, texture = (
            texture_on(waves, Plane.of(rotation, pose, affine, k, 0.0, gantry))
            for waves in (head.cavity.folds, head.texture)
        )
        planes = [
            Plane.of(rotation, pose, affine, k, offset * gantry.slice_distance_mm, gantry)
            for offset in _THROUGH_SLICE
        ]
        mean = np.mean(
            [paint_head(head, plane, folds, texture) for plane in planes], axis=0, dtype=np.float32
        )
        mean += _noise(rng, size, gantry.noise_hu)
        hu[k] = np.rint(np.clip(mean, -1024, 3071))
        _mark_lesions(head, Plane.of(rotation, pose, affine, k, 0.0, gantry), label[k], values)
    return hu.transpose(2, 1, 0), label.transpose(2, 1, 0)


def _mark_lesions(head: Head, plane: Plane, label: Array, values: Mapping[str, int]) -> None:
    # From the last to the first: what two share belongs to the first, edema is what is left.
    for shape in reversed((*head.hemorrhages, *head.edema)):
        window = plane.window(shape.centre, shape.reach_mm)
        if window is not None and shape.kind in values:
            label[window][shape.distance(*plane.points(*window)) < 0.0] = values[shape.kind]


def _noise(rng: np.random.Generator, size: int, std_hu: float) -> Array:
    """Draw Gaussian noise as a reconstruction filter correlates it, float32 [row, column]."""
    white = rng.standard_normal((size + 1, size + 1), dtype=np.float32)
    return (white[1:, 1:] + 0.5 * (white[:-1, 1:] + white[1:, :-1])) * np.float32(
        std_hu / math.sqrt(1.5)
    )
