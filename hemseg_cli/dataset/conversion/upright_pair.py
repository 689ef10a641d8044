"""Resample image and label of a tilted scan together onto an upright grid."""

from pathlib import Path

import numpy as np

from hemseg_cli.imaging.dicom.series import upright
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.imaging.resampling import resample_planes
from hemseg_cli.imaging.sidecar import Sidecar
from hemseg_cli.imaging.upright import UprightGrid, label_on


def make_upright_pair(
    volume: Volume, sidecar: Sidecar, label: Path | None, new_label: Path | None
) -> tuple[Volume, Sidecar, int | None]:
    """Return the upright image, its sidecar and the voxels of its label.

    The label is written to `new_label` on the image's grid, its volume kept. `volume` comes from
    `assemble`; its slices may have been interpolated to even steps, and the label's are then too.
    """
    image, new_sidecar = upright(volume, sidecar)
    if label is None or new_label is None:
        return image, new_sidecar, None

    mask = (read_volume(label).array > 0).astype(np.float32)
    positions, count = np.array(sidecar.slice_positions_mm), volume.array.shape[2]
    if len(positions) != count:
        # Slices stand for unequal lengths: each weighs as far as half way to its neighbours.
        even = np.linspace(0.0, positions[-1], count)
        mask = resample_planes(mask.transpose(2, 0, 1), positions, even).transpose(1, 2, 0)

    i, j, k = image.array.shape
    sheared = Volume(mask, np.array(sidecar.true_affine))
    upright_mask = label_on(UprightGrid((i, j, k), image.affine), sheared)
    write_volume(new_label, Volume(upright_mask, image.affine))
    return image, new_sidecar, int(np.count_nonzero(upright_mask))
