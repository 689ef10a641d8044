"""Checks that slices make one scan: what has to agree, and the steps between them.

All vectors are LPS mm.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.dicom.faults import Faults, named
from hemseg_cli.imaging.dicom.slice import Slice
from hemseg_cli.imaging.geometry import MOST_SPACING_MM
from hemseg_cli.imaging.uneven import (
    FEWEST_STEPS_OF_A_PART,
    STEP_TOLERANCE_MM,
    step_tolerance_mm,
    usual_step_mm,
)

Uneven = Literal["refuse", "resample", "keep"]
"""What becomes of uneven slice steps; keep: the slices stay as they were acquired."""
Vector = NDArray[np.float64]

_SAME_POSITION_MM = 0.01
_LEAST_STEP_MM = 0.1  # no CT scanner reconstructs slices closer together
_SIDEWAYS_TOLERANCE_MM = 0.25
_GAP_TOLERANCE = 0.1
_SAME_CORNER_MM = 0.25  # half a pixel
_FEWEST_ALTERNATING_STEPS = 4
_MOST_TILT_DEG = 60.0  # twice what a gantry can
_OWN_FOLDER_HINT = "put the files of each scan into a folder of its own"
_RESAMPLE_HINT = (
    "--set convert.uneven=resample   interpolates the slices to even steps "
    "(convert, layout rsna: with --geometry true)"
)


def check_agreement(slices: Sequence[Slice], faults: Faults) -> None:
    """Note slices that differ from most in size, rescale slope, direction or pixel spacing."""
    exact: tuple[tuple[str, Callable[[Slice], object]], ...] = (
        ("image size", lambda one: (one.columns, one.rows)),
        ("rescale slope", lambda one: one.slope),
    )
    for what, key in exact:
        usual = Counter(key(one) for one in slices).most_common(1)[0][0]
        for one in slices:
            if key(one) != usual:
                faults.add(f"{what} {key(one)} differs from the others' {usual}", [one.name])

    # Decimal strings are rounded, and not by every slice alike: what counts is where the rounding
    # puts the far corner of a slice, not how many digits agree.
    usual_slice = _usual_slice(slices)
    for one in slices:
        if _far_corner_distance_mm(one, usual_slice) > _SAME_CORNER_MM:
            faults.add(_difference(one, usual_slice), [one.name])


def without_copies(
    ordered: Sequence[Slice], normal: Vector, faults: Faults
) -> tuple[list[Slice], list[str]]:
    """Drop slices that repeat their neighbour in place and pixels, and say which.

    Two different ones at one place are a fault.
    """
    kept: list[Slice] = []
    dropped = []
    for one in ordered:
        last = kept[-1] if kept else None
        if last is None or _along(normal, one, last) > _SAME_POSITION_MM:
            kept.append(one)
        elif one.intercept == last.intercept and np.array_equal(one.stored, last.stored):
            dropped.append(f"{one.name} (as {last.name})")
        else:
            faults.add(
                "two different slices at one position", [last.name, one.name], _OWN_FOLDER_HINT
            )
    return kept, [f"copies of a slice dropped: {named(dropped)}"] if dropped else []


def check_steps(
    ordered: Sequence[Slice], positions: Vector, normal: Vector, uneven: Uneven, faults: Faults
) -> bool:
    """Tell whether the steps are even; note gaps, uneven steps and slices off the line."""
    along = np.diff(positions, axis=0) @ normal
    usual = usual_step_mm(along)
    tolerance = step_tolerance_mm(usual)

    if _is_no_stack(ordered, positions, normal, along, faults):
        return False
    if _wanders(ordered, positions, normal, tolerance, faults):
        return False

    odd = np.flatnonzero(np.abs(along - usual) > tolerance).tolist()
    if not odd:
        return True
    if _alternates(along):
        faults.add(
            f"two scans that lie over each other: steps of {along[0]:.2f} mm and {along[1]:.2f} mm "
            "in turn, beginning with",
            [ordered[0].name],
            _OWN_FOLDER_HINT,
        )
    elif gaps := _gaps(along, odd, usual):
        for index, step in gaps.items():
            missing = round(along[index] / step) - 1
            faults.add(
                f"{missing} missing (step {along[index]:.2f} mm, the others {step:.2f} mm) between",
                [f"{ordered[index].name} and {ordered[index + 1].name}"],
            )
    elif uneven == "refuse":
        steps = sorted(set(np.round(along[odd], 2).tolist()))[:6]
        faults.add(
            f"uneven slice steps: {', '.join(f'{step:.2f}' for step in steps)} mm where the "
            f"others have {usual:.2f} mm, after",
            [ordered[index].name for index in odd],
            _RESAMPLE_HINT,
        )
    return False


def normal_of(one: Slice) -> Vector:
    """Return the unit normal of a slice."""
    normal = np.cross(one.orientation[:3], one.orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal))


def _along(normal: Vector, one: Slice, other: Slice) -> float:
    return float(normal @ np.subtract(one.position_mm, other.position_mm))


def _usual_slice(slices: Sequence[Slice]) -> Slice:
    """Return a slice with the orientation and spacing that most have, to three digits."""

    def kind(one: Slice) -> tuple[float, ...]:
        return tuple(round(value, 3) for value in (*one.orientation, *one.spacing_mm))

    usual = Counter(kind(one) for one in slices).most_common(1)[0][0]
    return next(one for one in slices if kind(one) == usual)


def _far_corner_distance_mm(one: Slice, other: Slice) -> float:
    """Return how far two slices' last pixels lie apart, mm, were their first ones in one place."""
    corners = [
        np.array(each.orientation[:3]) * each.spacing_mm[1] * (each.columns - 1)
        + np.array(each.orientation[3:]) * each.spacing_mm[0] * (each.rows - 1)
        for each in (one, other)
    ]
    return float(np.linalg.norm(corners[0] - corners[1]))


def _difference(one: Slice, usual: Slice) -> str:
    """Say in what a slice differs from the usual one, with both values."""
    values: Sequence[float]
    others: Sequence[float]
    what, values, others = "pixel spacing", one.spacing_mm, usual.spacing_mm
    if not np.allclose(one.orientation, usual.orientation, atol=1e-3):
        what, values, others = "orientation", one.orientation, usual.orientation

    shown, expected = (tuple(round(part, 4) + 0.0 for part in each) for each in (values, others))
    return f"{what} {shown} differs from the others' {expected}"


def _is_no_stack(
    ordered: Sequence[Slice], positions: Vector, normal: Vector, along: Vector, faults: Faults
) -> bool:
    """Note steps that no scan has: far too long, far too short, or along the slices."""
    longest, shortest = int(np.argmax(along)), int(np.argmin(along))
    if along[longest] > MOST_SPACING_MM:
        faults.add(
            f"slices lie {along[longest]:.0f} mm apart, which no head CT has, between",
            [f"{ordered[longest].name} and {ordered[longest + 1].name}"],
        )
    if along[shortest] < _LEAST_STEP_MM:
        faults.add(
            f"slices lie {along[shortest]:.3g} mm apart, closer than any scanner's, between",
            [f"{ordered[shortest].name} and {ordered[shortest + 1].name}"],
            _OWN_FOLDER_HINT,
        )

    way = positions[-1] - positions[0]
    lean_deg = math.degrees(math.acos(min(1.0, float(way @ normal) / float(np.linalg.norm(way)))))
    if lean_deg > _MOST_TILT_DEG:
        faults.add(
            f"slices are stacked {lean_deg:.1f} degrees off their normal, beginning with",
            [ordered[0].name],
        )
    return bool(faults)


def _wanders(
    ordered: Sequence[Slice], positions: Vector, normal: Vector, tolerance: float, faults: Faults
) -> bool:
    """Note slices that do not lie on the line from the first to the last."""
    from_first = positions - positions[0]
    mean = from_first[-1] / from_first[-1].dot(normal)
    sideways = np.linalg.norm(from_first - np.outer(from_first @ normal, mean), axis=1)

    off = np.flatnonzero(sideways > max(tolerance, _SIDEWAYS_TOLERANCE_MM)).tolist()
    if off:
        faults.add(
            f"slices do not lie on one line (up to {sideways.max():.2f} mm aside)",
            [ordered[index].name for index in off],
        )
    return bool(off)


def _alternates(steps: Vector) -> bool:
    """Tell whether two step lengths take turns, as where two scans interleave."""
    if len(steps) < _FEWEST_ALTERNATING_STEPS:
        return False
    first, second = steps[::2], steps[1::2]
    spread = max(float(np.ptp(first)), float(np.ptp(second)))
    apart = abs(float(np.median(first)) - float(np.median(second)))
    return spread <= STEP_TOLERANCE_MM and apart > 4 * STEP_TOLERANCE_MM


def _gaps(steps: Vector, odd: Sequence[int], usual: float) -> dict[int, float]:
    """Return the steps that lack slices, by index, and the step that those around them have."""
    if _are_gaps(steps, odd, usual):
        return dict.fromkeys(odd, usual)

    # Within a part of a protocol the scan's usual step says nothing: what counts are the steps
    # on either side. Parts begin where the step changes.
    starts = [0, *(np.flatnonzero(np.abs(np.diff(steps)) > step_tolerance_mm(usual)) + 1).tolist()]
    runs = [range(*ends) for ends in pairwise([*starts, len(steps)])]
    gaps: dict[int, float] = {}
    for number, run in enumerate(runs):
        beside = [*runs[:number][-1:], *runs[number + 1 :][:1]]
        longest = max((float(steps[other[0]]) for other in beside), default=math.inf)
        is_long = steps[run[0]] >= (2 - _GAP_TOLERANCE) * longest
        in_a_part = any(len(other) >= FEWEST_STEPS_OF_A_PART for other in beside)
        if is_long and in_a_part and len(run) < FEWEST_STEPS_OF_A_PART:
            gaps |= dict.fromkeys(run, longest)
    return gaps


def _are_gaps(steps: Vector, odd: Sequence[int], usual: float) -> bool:
    """Tell whether the odd steps are missing slices: whole multiples of the usual one.

    Where several follow each other they are the other part of a protocol instead (5 mm at the
    base, 10 mm above), of which no slice is missing.
    """
    multiples = steps[list(odd)] / usual
    whole = np.round(multiples)
    if not np.all((whole >= 2) & (np.abs(multiples - whole) < _GAP_TOLERANCE)):
        return False

    longest = run = 1
    for before, after in pairwise(odd):
        run = run + 1 if after == before + 1 else 1
        longest = max(longest, run)
    return longest < FEWEST_STEPS_OF_A_PART
