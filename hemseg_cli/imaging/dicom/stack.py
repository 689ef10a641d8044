"""Slices put in order along their normal, and the geometry of the whole.

All vectors here are LPS, as DICOM has them; `Stack` hands its affines out as RAS.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.dicom.faults import Faults
from hemseg_cli.imaging.dicom.slice import Slice
from hemseg_cli.imaging.dicom.stack_checks import (
    Uneven,
    Vector,
    check_agreement,
    check_steps,
    normal_of,
    without_copies,
)
from hemseg_cli.imaging.geometry import Affine, lps_to_ras
from hemseg_cli.imaging.uneven import usual_step_mm

_MOST_EVEN_SLICES = 4096


@dataclass(frozen=True)
class Stack:
    """Hold slices in order along the normal, and where they lie.

    `distances_mm`: position of each slice along the normal, mm, from the first.
    """

    slices: tuple[Slice, ...]
    warnings: tuple[str, ...]
    distances_mm: Vector
    even: bool

    @property
    def length_mm(self) -> float:
        """From the first slice to the last along the normal, mm."""
        return float(self.distances_mm[-1])

    @property
    def even_count(self) -> int:
        """How many slices at even steps nearest to the usual one reach from first to last."""
        if self.even:
            return len(self.slices)
        return max(2, round(self.length_mm / usual_step_mm(np.diff(self.distances_mm))) + 1)

    def label_affine(self, count: int) -> Affine:
        """Return what ITK's series reader gives for `count` slices, to RAS mm.

        The third direction stands at right angles to the slices; its step is the distance between
        slice *origins*: the shear is dropped.
        """
        return self._affine(normal_of(self.slices[0]) * np.linalg.norm(self._step(count)))

    def true_affine(self, count: int) -> Affine:
        """Return the affine with the slices where they lie, sheared where the gantry was tilted.

        To RAS mm.
        """
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


def stack(scan: str, slices: Sequence[Slice], *, uneven: Uneven = "refuse") -> Stack:
    """Order the slices and check that they make one volume.

    CaseError names every fault and its slices. `uneven`: with resample and keep, uneven steps along
    one line are let through (`Stack.even` is then False).
    """
    faults = Faults()
    check_agreement(slices, faults)
    faults.raise_if_any(scan)

    # By place alone: names mean nothing, and RSNA's files have no instance number.
    normal = normal_of(slices[0])
    ordered = sorted(slices, key=lambda one: float(normal @ one.position_mm))
    ordered, warnings = without_copies(ordered, normal, faults)
    faults.raise_if_any(scan)
    if len(ordered) < 2:
        faults.add("a single slice has no slice distance", [one.name for one in ordered])
        faults.raise_if_any(scan)

    positions = np.array([one.position_mm for one in ordered])
    even = check_steps(ordered, positions, normal, uneven, faults)
    faults.raise_if_any(scan)

    distances = (positions - positions[0]) @ normal
    found = Stack(tuple(ordered), (*warnings, *_intercept_notes(ordered)), distances, even)
    if found.even_count > _MOST_EVEN_SLICES:
        raise CaseError(
            f"{scan}: {found.even_count} slices at even steps would be needed over "
            f"{found.length_mm:.0f} mm, more than {_MOST_EVEN_SLICES}"
        )
    return found


def _intercept_notes(ordered: Sequence[Slice]) -> list[str]:
    intercepts = Counter(one.intercept for one in ordered)
    if len(intercepts) == 1:
        return []
    listed = ", ".join(f"{value:g} ({count} slices)" for value, count in sorted(intercepts.items()))
    return [f"intercepts differ between slices: {listed}; each slice was rescaled with its own"]
