"""The conventions of every array and affine in this project, and the few formulas that depend on them.

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

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]

TILTED_FROM_DEG = 0.5
_RIGHT_ANGLE_TOLERANCE = 1e-3
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def lps_to_ras(affine: Affine) -> Affine:
    """An affine to LPS millimetres as one to RAS millimetres, and the other way round.

    The map is its own inverse.
    """
    return _LPS_TO_RAS @ affine


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """The lengths of the three step vectors, mm.

    For k that is the distance between slice origins.
    """
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def header_voxel_volume_mm3(affine: Affine) -> float:
    """|det| of the step vectors, mm3: the volume that the header claims."""
    return float(abs(np.linalg.det(affine[:3, :3])))


def is_sheared(affine: Affine) -> bool:
    """Whether the step vectors do not stand at right angles.

    The affine then carries the true slice steps.
    """
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(steps.T @ steps - np.eye(3)).max() > _RIGHT_ANGLE_TOLERANCE)


def slice_normal(affine: Affine) -> NDArray[np.float64]:
    """Unit normal of the slices (RAS), pointing to the head.

    The slice axis is the one nearest to S, as in an axial scan.
    """
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    axis = _slice_axis(steps)
    normal = np.cross(steps[:, (axis + 1) % 3], steps[:, (axis + 2) % 3])
    normal /= np.linalg.norm(normal)
    return np.asarray(normal if normal[2] >= 0 else -normal, dtype=np.float64)


def tilt_deg(affine: Affine) -> float:
    """Gantry tilt: the angle between slice normal and table axis, degrees, positive where the normal leans to anterior.

    The table moves along S (DICOM PS3.3 C.7.6.2.1.1, patient lying straight), so this is a
    head-first or feet-first axial scan's tilt.
    """
    normal = slice_normal(affine)
    angle = math.degrees(math.acos(min(1.0, float(normal[2]))))
    return -angle if normal[1] < 0 else angle


def true_voxel_volume_mm3(affine: Affine) -> float:
    """Voxel volume with the tilt accounted for, mm3.

    Sheared affine: |det|. Right-angled and tilted: z spacing is taken as the distance between slice
    origins (ITK's readers, the published labels), so the volume is the header's times cos(tilt). A
    straight scan: the header's.
    """
    volume = header_voxel_volume_mm3(affine)
    tilt = tilt_deg(affine)
    if is_sheared(affine) or abs(tilt) <= TILTED_FROM_DEG:
        return volume
    return volume * math.cos(math.radians(tilt))


def _slice_axis(steps: NDArray[np.float64]) -> int:
    return int(np.argmax(np.abs(steps[2])))
