"""Slices grouped into scans: one patient, study, series, and one acquisition within it.

A series UID alone is not enough: anonymisers give one to two patients, and scanners put two
acquisitions, two kernels or a scout into one series. What certainly is not one scan is taken
apart; what may be one stays together, for `stack` to check with its pixels at hand.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.dicom.elements import numbers, text_value, unsigned

LOCALIZER_REASON = "a localizer: it lies across the other slices"

_SAME_DIRECTION_COSINE = 0.995  # within 6 degrees, as tilted parts of one protocol are not
_FEWEST_SLICES_OF_A_SCAN = 3
_SAME_SPACING_MM = _SAME_POSITION_MM = 0.01
_LEAST_OVERLAP_STEPS = 1.5

# In this order the first one that differs, and whose values lie over each other, takes a series
# apart (PS3.3 C.7.6.1, C.8.2.1): what the scanner did, what it made of it, and when.
_ACQUISITION_KEYS = ("image_type", "acquisition", "kernel", "temporal")


@dataclass(frozen=True)
class SliceHeader:
    """Hold what decides to which scan a file belongs.

    `place` (position and unit normal, LPS mm) is None where the header has none, as in a
    multi-frame object (`is_multiframe`), whose frames have places of their own.
    """

    file: str
    series: tuple[str, str, str]
    series_number: str
    size: tuple[int | None, int | None]
    spacing: tuple[float, float] | None
    place: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    acquisition: dict[str, str]
    is_multiframe: bool = False


def slice_header(dataset: FileDataset, file: str, folder: str) -> SliceHeader:
    """Take from a parsed header what groups it; a series without UID is that of its folder."""
    series = text_value(dataset, "series") or f"folder {folder}"
    return SliceHeader(
        file=file,
        series=(text_value(dataset, "patient"), text_value(dataset, "study"), series),
        series_number=text_value(dataset, "series_number"),
        size=(unsigned(dataset, "rows"), unsigned(dataset, "columns")),
        spacing=_spacing(dataset),
        place=_place(dataset),
        acquisition={key: text_value(dataset, key) for key in _ACQUISITION_KEYS},
        is_multiframe=text_value(dataset, "frames") not in ("", "0", "1"),
    )


def group_into_scans(
    headers: Sequence[SliceHeader],
) -> tuple[list[list[SliceHeader]], list[SliceHeader]]:
    """Return the slices of each scan, and the localizers found by how they lie.

    Patient, study and series always keep scans apart; so do direction, size and pixel spacing
    where there are enough slices of each to make a scan; and an element of the acquisition where
    the slices of two values lie over each other, which no single pass of a scanner does.
    """
    scans: list[list[SliceHeader]] = []
    localizers: list[SliceHeader] = []
    for series in _grouped(headers, lambda one: one.series):
        parts, across = _without_localizers(series)
        localizers += across
        for part in parts:
            for alike in _by_grid(part):
                scans += _by_acquisition(alike)
    return scans, localizers


def _without_localizers(
    series: list[SliceHeader],
) -> tuple[list[list[SliceHeader]], list[SliceHeader]]:
    """Return the slices of each direction, and those few that lie across the most usual one."""
    directions: list[tuple[NDArray[np.float64], list[SliceHeader]]] = []
    placeless: list[SliceHeader] = []
    for one in series:
        if one.place is None:
            placeless.append(one)
            continue
        normal = one.place[1]
        for known, members in directions:
            if abs(float(known @ normal)) >= _SAME_DIRECTION_COSINE:
                members.append(one)
                break
        else:
            directions.append((normal, [one]))

    if not directions:
        # Each multi-frame object is a scan; slices without a place are one, which is refused whole.
        scans = [[one] for one in placeless if one.is_multiframe]
        lost = [one for one in placeless if not one.is_multiframe]
        return [*scans, lost] if lost else scans, []

    groups = sorted((members for _normal, members in directions), key=len, reverse=True)
    scans = [groups[0]]
    localizers: list[SliceHeader] = []
    for members in groups[1:]:
        if len(members) >= _FEWEST_SLICES_OF_A_SCAN:
            scans.append(members)
        else:
            localizers += members

    # A slice that has lost its place belongs to the largest part, which then names it.
    scans[0] = scans[0] + placeless
    return scans, localizers


def _by_grid(slices: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Take apart slices of other size or pixel spacing, where each kind could be a scan."""
    kinds = _grouped(slices, lambda one: (one.size, _rounded(one.spacing)))
    if len(kinds) > 1 and min(map(len, kinds)) >= _FEWEST_SLICES_OF_A_SCAN:
        return kinds
    return [slices]


def _by_acquisition(slices: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Take slices apart by the first element whose values lie over each other."""
    for key in _ACQUISITION_KEYS:
        groups = _grouped(slices, lambda one, key=key: one.acquisition[key])  # type: ignore[misc]
        if len(groups) > 1 and _lie_over_each_other(groups):
            return [part for group in groups for part in _by_acquisition(group)]
    return [slices]


def _lie_over_each_other(groups: list[list[SliceHeader]]) -> bool:
    """Tell whether two groups share a stretch along the normal of more than a slice step.

    A scanner that counts every rotation as an acquisition makes groups that lie side by side.
    """
    if any(one.place is None for group in groups for one in group):
        return False

    spans = [_span(group, groups[0]) for group in groups]
    longest = max(spans, key=lambda span: span[2])
    for other in spans:
        if other is longest:
            continue
        shared = min(longest[1], other[1]) - max(longest[0], other[0])
        if shared >= _LEAST_OVERLAP_STEPS * longest[3] > 0:
            return True
        # Two passes over one place alone: a scan of one or two slices, done again.
        if longest[2] <= 2 and other[2] <= 2 and abs(shared) < _SAME_POSITION_MM:
            return True
    return False


def _span(
    group: list[SliceHeader], reference: list[SliceHeader]
) -> tuple[float, float, int, float]:
    """Return first and last position along the normal, the count, and the median step, mm."""
    normal = reference[0].place[1] if reference[0].place else np.array([0.0, 0.0, 1.0])
    along = np.sort([float(normal @ one.place[0]) for one in group if one.place is not None])
    # Slices at one place are themselves of two scans: no step lies between them.
    steps = np.diff(along)
    steps = steps[steps > _SAME_POSITION_MM]
    step = float(np.median(steps)) if len(steps) else 0.0
    return float(along[0]), float(along[-1]), len(along), step


def _grouped(
    slices: Iterable[SliceHeader], key: Callable[[SliceHeader], Hashable]
) -> list[list[SliceHeader]]:
    groups: dict[Hashable, list[SliceHeader]] = defaultdict(list)
    for one in slices:
        groups[key(one)].append(one)
    return list(groups.values())


def _rounded(spacing: tuple[float, float] | None) -> tuple[int, int] | None:
    if spacing is None:
        return None
    return round(spacing[0] / _SAME_SPACING_MM), round(spacing[1] / _SAME_SPACING_MM)


def _spacing(dataset: FileDataset) -> tuple[float, float] | None:
    try:
        rows, columns = numbers(dataset, "spacing", 2, "spacing")
    except FileFormatError:
        return None
    return rows, columns


def _place(dataset: FileDataset) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    try:
        position = np.array(numbers(dataset, "position", 3, "position"))
        cosines = np.array(numbers(dataset, "orientation", 6, "orientation"))
    except FileFormatError:
        return None

    normal = np.cross(cosines[:3], cosines[3:])
    length = float(np.linalg.norm(normal))
    return (position, normal / length) if 0.5 < length < 2 else None
