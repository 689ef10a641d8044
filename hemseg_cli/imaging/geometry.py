"""The conventions of every array and affine in this project, and the formulas that need them.

* Arrays are indexed `[i, j, k]` as NIfTI stores them (i fastest in the file); with channels `[c, i,
  j, k]`. For an axial head CT i and j lie in the slice and k counts slices.
* An affine is 4 x 4, float64, from index to **RAS+** millimetres (NIfTI, nibabel). DICOM and
  SimpleITK speak **LPS+**: `lps_to_ras` converts at that border and nowhere else. SimpleITK and
  torch arrays made from an image are `[k, j, i]`.
* Canonical: axes permuted and flipped so that i, j, k run nearest to R, A, S.
* Tilt: with the gantry tilted by t the slices lie oblique to the table, but each next slice starts
  straight along the table. ITK's readers (and the published labels) write a right-angled affine
  whose z spacing is the distance between slice *origins*, dropping the shear; the distance along
  the slice normal is that times cos(t). A sheared affine keeps all of it, and its determinant is
  the true voxel volume.
* Units stand in the name: `_mm`, `_deg`, `_mm3`, `_ml`.
"""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import FileFormatError

Affine = NDArray[np.float64]

VoxelVolume = float | NDArray[np.float64]
"""mm3 of every voxel; where slices differ in thickness, an array that broadcasts to [i, j, k]."""

SAME_GRID_MM = 0.05
"""Two files of ours are on one grid when no corner lies further apart: a tenth of a pixel.

The rounding of a header's float32 numbers and of a qform's quaternion stays below it.
"""

SAME_PLACE_MM = 0.2
"""A stranger's image and mask are a pair when no corner lies further apart: below half a pixel."""

TILTED_FROM_DEG = 0.5
"""Slices that lean by less are taken as straight: the cosine then differs from 1 by 4e-5."""

LEAST_SPACING_MM, MOST_SPACING_MM = 0.01, 100.0
"""No head CT has voxels smaller or larger than this, in any direction."""

FARTHEST_MM = 10_000.0
"""No scanner's origin lies further away."""

_RIGHT_ANGLE_TOLERANCE = 1e-3  # cosine between two step vectors
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def lps_to_ras(affine: Affine) -> Affine:
    """Turn an affine to LPS millimetres into one to RAS millimetres, and the other way round.

    The map is its own inverse.
    """
    return _LPS_TO_RAS @ affine


def grid_distance_mm(
    shape_a: Sequence[int], affine_a: Affine, shape_b: Sequence[int], affine_b: Affine
) -> float:
    """Return the largest distance between the same corner of two grids, mm.

    Both affines go from index to RAS mm. Infinity where the shapes differ or an affine is not
    finite. Compare it with `SAME_GRID_MM` or `SAME_PLACE_MM`: between the corners of two affine
    grids no voxel lies further apart than the corners do.
    """
    if tuple(shape_a) != tuple(shape_b):
        return math.inf

    # A NaN or an infinity in a header must not read as "near": numpy's max would give NaN.
    difference = np.asarray(affine_a, dtype=np.float64) - np.asarray(affine_b, dtype=np.float64)
    if not np.isfinite(difference).all():
        return math.inf

    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in shape_a))])
    return float(np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max())


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Return the lengths of the three step vectors, mm.

    For k that is the distance between slice origins.
    """
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def check_spacing(name: str, affine: Affine) -> None:
    """Raise FileFormatError, naming `name`, where a spacing or the origin is none of a head CT."""
    steps = spacing_mm(affine)
    shown = " x ".join(f"{step:.4g}" for step in steps)
    if not all(LEAST_SPACING_MM <= step <= MOST_SPACING_MM for step in steps):
        raise FileFormatError(
            f"{name} has voxels of {shown} mm: no head CT has ({LEAST_SPACING_MM:g} to "
            f"{MOST_SPACING_MM:g} mm)",
            hint="is the unit of length wrong (NIfTI: xyzt_units)?",
        )

    if float(np.abs(affine[:3, 3]).max()) > FARTHEST_MM:
        raise FileFormatError(f"{name} has an absurd origin: {affine[:3, 3].tolist()} mm")

    # Three steps of good length that lie in one plane span no voxel.
    if header_voxel_volume_mm3(affine) < 1e-3 * math.prod(steps):
        raise FileFormatError(f"{name} has no usable affine (sform and qform): {affine.tolist()}")


def header_voxel_volume_mm3(affine: Affine) -> float:
    """Return |det| of the step vectors, mm3: the volume that the header claims."""
    return float(abs(np.linalg.det(affine[:3, :3])))


def is_sheared(affine: Affine) -> bool:
    """Tell whether the step vectors do not stand at right angles.

    The affine then carries the true slice steps.
    """
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(steps.T @ steps - np.eye(3)).max() > _RIGHT_ANGLE_TOLERANCE)


def slice_normal(affine: Affine) -> NDArray[np.float64]:
    """Return the unit normal of the slices (RAS), pointing to the head.

    The slice axis is the one nearest to S, as in an axial scan.
    """
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    axis = _slice_axis(steps)

    normal = np.cross(steps[:, (axis + 1) % 3], steps[:, (axis + 2) % 3])
    normal /= np.linalg.norm(normal)
    return np.asarray(normal if normal[2] >= 0 else -normal, dtype=np.float64)


def tilt_deg(affine: Affine) -> float:
    """Return the gantry tilt, degrees: the angle between slice normal and table axis.

    Positive where the normal leans to anterior. The table moves along S (DICOM PS3.3
    C.7.6.2.1.1, patient lying straight), so this is a head-first or feet-first axial scan's tilt.
    """
    normal = slice_normal(affine)
    angle = math.degrees(math.acos(min(1.0, float(normal[2]))))
    return -angle if normal[1] < 0 else angle


def is_right_angled_tilt(affine: Affine) -> bool:
    """Tell whether an affine is oblique without shear.

    Its slice step then means one of two things: ITK's readers put the distance between slice
    origins there, every other tool the distance along the normal.
    """
    return abs(tilt_deg(affine)) > TILTED_FROM_DEG and not is_sheared(affine)


def true_voxel_volume_mm3(affine: Affine) -> float:
    """Return the voxel volume of an ITK-read tilted series, mm3.

    Sheared affine: |det|. Right-angled and tilted: z spacing is taken as the distance between slice
    origins (ITK's readers, the published labels), so the volume is the header's times cos(tilt). A
    straight scan: the header's. Only for files that are known to be ITK's, as our own sidecars,
    case tables and the HemSeg labels say: of any other file take `header_voxel_volume_mm3`.
    """
    volume = header_voxel_volume_mm3(affine)
    if not is_right_angled_tilt(affine):
        return volume

    return volume * math.cos(math.radians(tilt_deg(affine)))


def foreign_voxel_volume_mm3(affine: Affine) -> tuple[float, str]:
    """Return the voxel volume of a file of unknown origin, mm3, and a warning or "".

    The determinant is what the header says, and right for an oblique scan or a resampled one. Of a
    tilted series that ITK has read it is too large by 1/cos(tilt); the affine does not tell the
    two apart, so that the warning gives both values.
    """
    volume = header_voxel_volume_mm3(affine)
    if not is_right_angled_tilt(affine):
        return volume, ""

    tilt, other = tilt_deg(affine), true_voxel_volume_mm3(affine)
    return volume, (
        f"slices tilted by {tilt:.1f} degrees without shear: {volume:.4g} mm3 a voxel, as the "
        f"header says; {other:.4g} mm3 ({other / volume - 1:+.1%}) if ITK has read "
        "a tilted gantry's slices (convert the DICOM with hemseg to be sure)"
    )


def true_steps_mm(affine: Affine, tilt: float) -> NDArray[np.float64]:
    """Return the step vectors i, j, k as columns, RAS mm, of an ITK-read series tilted by `tilt`.

    A sheared affine has them already. In a right-angled one the slice step is the distance between
    slice origins: it is turned from the slice normal to the table's axis, which lies `tilt` degrees
    towards posterior (the sign of `tilt_deg`). The determinant is the true voxel volume.
    """
    steps = np.array(affine[:3, :3], dtype=np.float64)
    if abs(tilt) <= TILTED_FROM_DEG or is_sheared(affine):
        return steps

    # The table's axis lies in the plane of the normal and the direction in the slice that points
    # to anterior.
    normal = slice_normal(affine)
    anterior = np.array([0.0, 1.0, 0.0]) - normal[1] * normal
    anterior /= np.linalg.norm(anterior)
    angle = math.radians(tilt)
    table = math.cos(angle) * normal - math.sin(angle) * anterior

    axis = _slice_axis(steps / np.linalg.norm(steps, axis=0))
    length = float(np.linalg.norm(steps[:, axis]))
    steps[:, axis] = math.copysign(length, float(steps[:, axis] @ normal)) * table
    return steps


def _slice_axis(steps: NDArray[np.float64]) -> int:
    return int(np.argmax(np.abs(steps[2])))
