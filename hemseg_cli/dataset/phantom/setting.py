"""Draw how a phantom is scanned: pose, gantry tilt, and which part of the head the stack covers."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.dataset.phantom.gantry import Gantry, Pose
from hemseg_cli.dataset.phantom.head import Head
from hemseg_cli.dataset.phantom.lesions import Lesion

_TILTS_DEG = (0.0, -18.0, 0.0, 12.5, -24.0, 22.0, -8.0, 30.0)
# How many mm more (or less) a stack covers below and above than base and vertex: most end there,
# some go on to the third vertebra, some leave out part of the base or the vertex.
_COVERAGES_MM = ((0.0, 0.0),) * 5 + ((48.0, 0.0), (48.0, 0.0), (-22.0, 0.0), (0.0, -22.0))
_LESION_SAMPLES = 16


def draw_setting(
    head: Head, slices: tuple[int, int], matrix: int, number: int, rng: np.random.Generator
) -> tuple[Gantry, Pose]:
    """Draw gantry and pose of the data set's scan `number` (which sets the tilt).

    The table is set so that no hemorrhage is cut off, and a slice passes close to the middle of the
    first one: none may be missed.
    """
    count = int(rng.integers(slices[0], slices[1] + 1))
    tilt_deg = _TILTS_DEG[number % len(_TILTS_DEG)]
    below_mm, above_mm = _COVERAGES_MM[int(rng.integers(len(_COVERAGES_MM)))]
    covered_mm = float(rng.uniform(138.0, 165.0)) + below_mm + above_mm
    pose = Pose(
        (float(rng.uniform(-6, 6)), float(rng.uniform(-60, 10)), float(rng.uniform(-300, 300))),
        yaw_deg=float(rng.uniform(-7, 7)),
        roll_deg=float(rng.uniform(-4, 4)),
    )
    fov_mm = float(rng.choice([222.0, 230.0, 240.0, 250.0]))

    # Isocentre near the middle of brain and skull base.
    shift = np.array([0.0, 0.0, 2.0 + (above_mm - below_mm) / 2])
    centre = np.array(pose.centre_mm) + rng.uniform(-4.0, 4.0, 3) + shift
    noise_hu, miss = float(rng.uniform(2.5, 4.0)), float(rng.uniform(-0.15, 0.15))
    gantry = Gantry(matrix, count, fov_mm, 1.0, tilt_deg, tuple(centre.tolist()), noise_hu)
    if not head.hemorrhages:
        return replace(gantry, slice_distance_mm=_distance_mm(covered_mm, count)), pose

    # Heights of the hemorrhages above the middle of the stack, along the slices' normal.
    points = [_points_inside(shape) @ pose.rotation for shape in head.hemorrhages]
    offset = np.array(pose.centre_mm) - centre
    heights = [(part + offset) @ gantry.normal for part in points]
    low, high = min(h.min() for h in heights), max(h.max() for h in heights)
    distance_mm = _distance_mm(max(covered_mm, 1.1 * float(high - low)), count)
    half = distance_mm * (count - 1) / 2
    up = min(max(0.0, float(high) - half), float(low) + half)
    if up == 0.0:
        up = min(0.0, float(low) + half)

    # Then by a part of a slice, towards the middle of the first hemorrhage.
    at = (float(np.mean(heights[0])) - up + half) / distance_mm
    up += (at - round(at) + miss) * distance_mm
    centre[2] += up / math.cos(math.radians(tilt_deg))
    return replace(gantry, slice_distance_mm=distance_mm, centre_mm=tuple(centre.tolist())), pose


def _distance_mm(covered_mm: float, count: int) -> float:
    """Return the slice distance in halves of a millimetre that covers a length."""
    return max(2.5, round(2.0 * covered_mm / count) / 2.0)


def _points_inside(shape: Lesion) -> NDArray[np.float64]:
    """Return sample points of a lesion, [n, 3] head mm; its centre where all samples miss it."""
    steps = np.linspace(-shape.reach_mm, shape.reach_mm, _LESION_SAMPLES)
    axes = np.meshgrid(*(at + steps for at in shape.centre), indexing="ij")
    points = np.stack([axis.ravel() for axis in axes], axis=1)
    inside = points[shape.distance(*points.T) < 0]
    return inside if len(inside) else np.array([shape.centre])
