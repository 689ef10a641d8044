"""Slices put in order: what has to agree, where each slice lies along the normal, and the geometry of the whole.

All vectors here are LPS, as DICOM has them; `Stack` hands its affines out as RAS.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.dicom.slice import Slice
from hemseg_cli.imaging.geometry import Affine, lps_to_ras

_SAME_POSITION_MM = 0.01
_STEP_TOLERANCE = 0.02  # of the step; DICOM positions are decimal strings, rounded to 0.001 or 0.01 mm by some scanners
_STEP_TOLERANCE_MM = 0.05
_GAP_TOLERANCE = 0.1
_SAME_CORNER_MM = 0.25  # half a pixel
_NAMED_AT_MOST = 12
_FEWEST_ALTERNATING_STEPS = 4
_FEW = 3

Vector = NDArray[np.float64]


class Faults:
    """What is wrong with a scan: each reason once, with the slices that it holds for."""

    def __init__(self) -> None:
        self._slices: dict[str, list[str]] = defaultdict(list)
        self._hint = ""

    def __bool__(self) -> bool:
        return bool(self._slices)

    def add(self, reason: str, names: Iterable[str], hint: str = "") -> None:
        """Note one reason for these slices."""
        self._slices[reason] += names
        self._hint = self._hint or hint

    def raise_if_any(self, scan: str) -> None:
        """CaseError that names the scan, each reason, and its slices."""
        if self._slices:
            raise CaseError(
                f"{scan}: "
                + "; ".join(f"{why}: {named(names)}" for why, names in self._slices.items()),
                hint=self._hint,
            )


@dataclass(frozen=True)
class Stack:
    """Slices in order along the normal, and the steps between them."""

    slices: tuple[Slice, ...]
    warnings: tuple[str, ...]
    distances_mm: Vector
    """Position of each slice along the normal, mm, from the first."""
    even: bool

    @property
    def length_mm(self) -> float:
        """From the first slice to the last along the normal, mm."""
        return float(self.distances_mm[-1])

    @property
    def even_count(self) -> int:
        """Slices at even steps nearest to the usual one, from the first slice to the last."""
        return (
            len(self.slices)
            if self.even
            else max(2, round(self.length_mm / _usual(np.diff(self.distances_mm))) + 1)
        )

    def label_affine(self, count: int) -> Affine:
        """What ITK's series reader gives for `count` slices, to RAS mm.

        The third direction stands at right angles to the slices; its step is the distance between
        slice *origins*: the shear is dropped.
        """
        return self._affine(_normal(self.slices[0]) * np.linalg.norm(self._step(count)))

    def true_affine(self, count: int) -> Affine:
        """With the slices where they lie: sheared where the gantry was tilted. To RAS mm."""
        return self._affine(self._step(count))

    def _step(self, count: int) -> Vector:
        first, last = (np.array(self.slices[index].position_mm) for index in (0, -1))
        return np.asarray((last - first) / (count - 1))

    def _affine(self, step: Vector) -> Affine:
        first = self.slices[0]
        row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
        between_rows, between_columns = first.spacing_mm
        affine = np.eye(4)
        affine[:3, :3] = np.column_stack([row * between_columns, column * between_rows, step])
        affine[:3, 3] = first.position_mm
        return lps_to_ras(affine)


def stack(scan: str, slices: Sequence[Slice], *, uneven: str = "refuse") -> Stack:
    """Order the slices and check that they make one volume.

    CaseError names every fault and its slices.

    `uneven`: refuse or resample; with resample uneven steps along one line are let through
    (`Stack.even` is then False).
    """
    faults = Faults()
    _check_agreement(slices, faults)
    faults.raise_if_any(scan)
    normal = _normal(slices[0])
    ordered = sorted(slices, key=lambda one: float(normal @ one.position_mm))
    ordered, warnings = _without_copies(ordered, normal, faults)
    faults.raise_if_any(scan)
    if len(ordered) < 2:
        faults.add("a single slice has no slice distance", [one.name for one in ordered])
        faults.raise_if_any(scan)
    positions = np.array([one.position_mm for one in ordered])
    even = _check_steps(ordered, positions, normal, uneven, faults)
    faults.raise_if_any(scan)
    intercepts = Counter(one.intercept for one in ordered)
    if len(intercepts) > 1:
        listed = ", ".join(
            f"{value:g} ({count} slices)" for value, count in sorted(intercepts.items())
        )
        warnings.append(
            f"intercepts differ between slices: {listed}; each slice was rescaled with its own"
        )
    distances = (positions - positions[0]) @ normal
    return Stack(tuple(ordered), tuple(warnings), distances, even)


def counted(names: Sequence[str], total: int) -> str:
    """Which slices: by name where they are few, else how many of how many."""
    return named(names) if len(names) <= _FEW else f"{len(names)} of {total} slices"


def named(names: Iterable[str]) -> str:
    """The first slice names, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _usual(steps: Vector) -> float:
    """The step that most slices have (to 0.1 mm), mm; the median of those that round to it."""
    rounded = np.round(steps, 1)
    most = Counter(rounded.tolist()).most_common(1)[0][0]
    return float(median_low(steps[rounded == most].tolist()))


def _normal(one: Slice) -> Vector:
    normal = np.cross(one.orientation[:3], one.orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal))


def _check_agreement(slices: Sequence[Slice], faults: Faults) -> None:
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
        apart_mm = _far_corner_distance_mm(one, usual_slice)
        if apart_mm <= _SAME_CORNER_MM:
            continue
        shown = (one.orientation, usual_slice.orientation), (one.spacing_mm, usual_slice.spacing_mm)
        what, (value, usual) = (
            ("orientation", shown[0])
            if not np.allclose(*shown[0], atol=1e-3)
            else ("pixel spacing", shown[1])
        )
        faults.add(
            f"{what} {tuple(round(part, 4) + 0.0 for part in value)} differs from the others' "
            f"{tuple(round(part, 4) + 0.0 for part in usual)}",
            [one.name],
        )


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


def _without_copies(
    ordered: list[Slice], normal: Vector, faults: Faults
) -> tuple[list[Slice], list[str]]:
    """Drop slices that repeat their neighbour in place and pixels.

    Two different ones at one place are a fault.
    """
    kept: list[Slice] = []
    dropped = []
    for one in ordered:
        last = kept[-1] if kept else None
        if (
            last is None
            or float(normal @ np.subtract(one.position_mm, last.position_mm)) > _SAME_POSITION_MM
        ):
            kept.append(one)
        elif one.intercept == last.intercept and np.array_equal(one.stored, last.stored):
            dropped.append(f"{one.name} (as {last.name})")
        else:
            faults.add("two different slices at one position", [last.name, one.name])
    return kept, [f"copies of a slice dropped: {named(dropped)}"] if dropped else []


def _check_steps(
    ordered: Sequence[Slice], positions: Vector, normal: Vector, uneven: str, faults: Faults
) -> bool:
    """Whether the steps are even; gaps, uneven steps and slices off the line are faults."""
    vectors = np.diff(positions, axis=0)
    along = vectors @ normal
    usual = _usual(along)
    tolerance = max(_STEP_TOLERANCE * usual, _STEP_TOLERANCE_MM)
    odd = np.flatnonzero(np.abs(along - usual) > tolerance).tolist()
    mean = (positions[-1] - positions[0]) / (positions[-1] - positions[0]).dot(normal)
    sideways = np.linalg.norm(
        positions - positions[0] - np.outer((positions - positions[0]) @ normal, mean), axis=1
    )
    off = np.flatnonzero(sideways > max(tolerance, 0.25)).tolist()
    if off:
        faults.add(
            f"slices do not lie on one line (up to {sideways.max():.2f} mm aside)",
            [ordered[index].name for index in off],
        )
        return False
    if not odd:
        return True
    if _alternates(along):
        faults.add(
            f"two scans that lie over each other: steps of {along[0]:.2f} mm and {along[1]:.2f} mm "
            "in turn, beginning with",
            [ordered[0].name],
            hint="put the files of each scan into a folder of its own",
        )
        return False

    multiples = np.round(along[odd] / usual)
    if np.all((multiples >= 2) & (np.abs(along[odd] / usual - multiples) < _GAP_TOLERANCE)):
        for index, count in zip(odd, multiples, strict=True):
            pair = f"{ordered[index].name} and {ordered[index + 1].name}"
            faults.add(
                f"{int(count) - 1} missing (step {along[index]:.2f} mm, the others {usual:.2f} mm) between",
                [pair],
            )
    elif uneven == "refuse":
        steps = ", ".join(
            f"{step:.2f}" for step in sorted(set(np.round(along[odd], 2).tolist()))[:6]
        )
        faults.add(
            f"uneven slice steps: {steps} mm where the others have {usual:.2f} mm, after",
            [ordered[index].name for index in odd],
            hint="--set convert.uneven=resample   interpolates the slices to even steps (convert, layout rsna: with --geometry true)",
        )
    return False


def _alternates(steps: Vector) -> bool:
    """Tell whether two step lengths take turns, as where two scans interleave."""
    if len(steps) < _FEWEST_ALTERNATING_STEPS:
        return False
    first, second = steps[::2], steps[1::2]
    spread = max(float(np.ptp(first)), float(np.ptp(second)))
    apart = abs(float(np.median(first)) - float(np.median(second)))
    return spread <= _STEP_TOLERANCE_MM and apart > 4 * _STEP_TOLERANCE_MM
