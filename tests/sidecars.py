"""A sidecar for an image drawn in a test."""

from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.sidecar import Sidecar, matrix_rows


def sidecar_of(volume: Volume, *, voxel_volume_mm3: float = 0.3125) -> Sidecar:
    i, j, k = volume.array.shape
    return Sidecar(
        scan="s",
        patient="",
        shape=(i, j, k),
        spacing_mm=(0.5, 0.5, 5.0),
        tilt_deg=0.0,
        slice_distance_mm=5.0,
        voxel_volume_mm3=voxel_volume_mm3,
        affine=matrix_rows(volume.affine),
        true_affine=matrix_rows(volume.affine),
        hu_min=0,
        hu_max=119,
        share_air=0.0,
        share_brain=0.5,
        share_bone=0.0,
        source_slices=("a", "b", "c", "d"),
        slices_given=4,
        slice_positions_mm=(0.0, 5.0, 10.0, 15.0),
        interpolated=False,
        geometry="label",
        warnings=("padding set to air",),
    ).bound_to(volume.array)
