"""Image and label of a tilted scan, resampled together onto an upright grid."""

from pathlib import Path

import numpy as np

from hemseg_cli.imaging.dicom.series import Sidecar, upright
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.imaging.resampling import resample_planes
from hemseg_cli.imaging.upright import UprightGrid, label_on


def upright_pair(
    volume: Volume, sidecar: Sidecar, label: Path | None, new_label: Path | None
) -> tuple[Volume, Sidecar]:
    """The image and its sidecar upright (see `imaging.dicom.upright`), the label written to `new_label` on the same grid.

    `volume` comes from `assemble`; its slices may have been interpolated to even steps, and the
    label's are then too. The label's volume is kept; the sidecar tells its voxels.
    """
    image, told = upright(volume, sidecar)
    if label is None or new_label is None:
        return image, told
    mask = (read_volume(label).array > 0).astype(np.float32)
    positions, count = np.array(sidecar["slice_positions_mm"]), volume.array.shape[2]
    if len(positions) != count:
        # Slices stand for unequal lengths: each weighs as far as half way to its neighbours.
        even = np.linspace(0.0, positions[-1], count)
        mask = resample_planes(mask.transpose(2, 0, 1), positions, even).transpose(1, 2, 0)
    shape: tuple[int, int, int] = (image.array.shape[0], image.array.shape[1], image.array.shape[2])
    new = label_on(UprightGrid(shape, image.affine), Volume(mask, np.array(sidecar["true_affine"])))
    write_volume(new_label, Volume(new, image.affine))
    return image, told | {"label_voxels": int(np.count_nonzero(new))}
