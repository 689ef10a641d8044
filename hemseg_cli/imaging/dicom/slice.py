"""One DICOM slice: what the converter needs of its header, checked, and its stored pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.dicom.elements import (
    numbers,
    parse,
    reading,
    text_value,
    unsigned,
)
from hemseg_cli.imaging.dicom.pixels import PixelLayout, pixel_cells, pixel_layout
from hemseg_cli.imaging.geometry import FARTHEST_MM, LEAST_SPACING_MM, MOST_SPACING_MM

_MOST_PIXELS_PER_SIDE = 8192
_MOST_FRAMES = 4096
_UNIT_TOLERANCE = 1e-3  # of the length of a direction, and of the cosine of two
_HIGHEST_WRAPPED_INTERCEPT = -100


@dataclass(frozen=True, slots=True)
class Slice:
    """Hold one slice. Positions and cosines are LPS.

    `spacing_mm` is (between rows, between columns) as DICOM orders it; `stored` [rows, columns]
    the pixel values without unused bits, not rescaled; `padding` the declared range of values that
    mean "no data"; `outside` the pixels whose cell holds a padding value that the stored bits
    cannot hold, None where there are none.
    """

    name: str
    rows: int
    columns: int
    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None
    stored: NDArray[Any] = field(repr=False)
    outside: NDArray[np.bool_] | None = field(default=None, repr=False)

    @property
    def wraps(self) -> bool:
        """Whether values below zero were wrapped to 12 unsigned bits.

        No intercept leaves room for air (RSNA-2019, see `hounsfield`).
        """
        return (
            self.bits_stored == 12
            and not self.signed
            and self.intercept > _HIGHEST_WRAPPED_INTERCEPT
        )


@dataclass(frozen=True)
class _Place:
    """Hold where a frame lies (LPS mm) and how its values are rescaled."""

    position: Sequence[float]
    orientation: Sequence[float]
    spacing: Sequence[float]
    slope: float
    intercept: float


def read_slice(data: bytes, name: str) -> Slice:
    """Parse one file of one slice. FileFormatError says what is wrong, without the name.

    Call it inside `quiet_pydicom`.
    """
    slices = read_frames(data, name)
    if len(slices) != 1:
        raise FileFormatError(f"a multi-frame object ({len(slices)} frames), not one slice")
    return slices[0]


def read_frames(data: bytes, name: str) -> list[Slice]:
    """Parse the slices of one file: one, or the frames of an enhanced CT (PS3.3 A.38).

    Frames are named `<name>#<number>`, from 1. FileFormatError says what is wrong, without the
    name: the caller names the slices. Call it inside `quiet_pydicom`.
    """
    dataset, pixels = parse(data)
    frames = _frame_count(dataset)
    rows, columns = _size(dataset)
    places = _frame_places(dataset, frames) if frames > 1 else [_slice_place(dataset)]

    layout = pixel_layout(dataset)
    cells = pixel_cells(dataset, pixels, layout, rows, columns, frames)
    padding = _padding(dataset, layout)
    return [
        _slice(
            name if frames == 1 else f"{name}#{number + 1}", place, layout, padding, cells[number]
        )
        for number, place in enumerate(places)
    ]


def _slice(
    name: str,
    place: _Place,
    layout: PixelLayout,
    padding: tuple[int, int] | None,
    cells: NDArray[Any],
) -> Slice:
    _check_place(place)
    x, y, z = place.position
    r1, r2, r3, c1, c2, c3 = place.orientation
    return Slice(
        name=name,
        rows=cells.shape[0],
        columns=cells.shape[1],
        position_mm=(x, y, z),
        orientation=(r1, r2, r3, c1, c2, c3),
        spacing_mm=(place.spacing[0], place.spacing[1]),
        slope=place.slope,
        intercept=place.intercept,
        bits_stored=layout.stored,
        signed=layout.signed,
        padding=padding,
        stored=layout.values(cells),
        outside=_outside(cells, layout, padding),
    )


def _frame_count(dataset: FileDataset) -> int:
    text = text_value(dataset, "frames")
    if text in ("", "0", "1"):
        return 1
    if not text.isdigit() or int(text) > _MOST_FRAMES:
        raise FileFormatError(f"a number of frames of {text[:12]!r}")
    return int(text)


def _size(dataset: FileDataset) -> tuple[int, int]:
    rows, columns = unsigned(dataset, "rows"), unsigned(dataset, "columns")
    if not rows or not columns:
        raise FileFormatError("no image size (Rows, Columns)")
    if max(rows, columns) > _MOST_PIXELS_PER_SIDE:
        raise FileFormatError(f"image size {columns} x {rows} is absurd")

    samples, photometric = unsigned(dataset, "samples"), text_value(dataset, "photometric")
    if samples not in (None, 1) or photometric not in ("", "MONOCHROME2"):
        raise FileFormatError(
            f"not a plain grayscale image (photometric interpretation {photometric[:16]!r}, "
            f"{samples} samples)"
        )
    return rows, columns


def _slice_place(dataset: FileDataset) -> _Place:
    return _Place(
        numbers(dataset, "position", 3, "position (ImagePositionPatient)"),
        numbers(dataset, "orientation", 6, "orientation (ImageOrientationPatient)"),
        numbers(dataset, "spacing", 2, "spacing (PixelSpacing)"),
        numbers(dataset, "slope", 1, "rescale slope")[0],
        numbers(dataset, "intercept", 1, "rescale intercept")[0],
    )


def _frame_places(dataset: FileDataset, frames: int) -> list[_Place]:
    """Return where each frame lies, from the functional groups (PS3.3 C.7.6.16)."""
    with reading("the functional groups of a multi-frame object cannot be read"):
        shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
        groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if len(groups) != frames:
        raise FileFormatError(
            f"a multi-frame object of {frames} frames that does not say where they lie",
            hint="export the series as single slices, or as enhanced CT",
        )

    with reading("the functional groups of a multi-frame object cannot be read"):
        return [
            _Place(
                _of_frame("PlanePositionSequence", "ImagePositionPatient", 3, own, shared[0]),
                _of_frame("PlaneOrientationSequence", "ImageOrientationPatient", 6, own, shared[0]),
                _of_frame("PixelMeasuresSequence", "PixelSpacing", 2, own, shared[0]),
                _of_frame("PixelValueTransformationSequence", "RescaleSlope", 1, own, shared[0])[0],
                _of_frame(
                    "PixelValueTransformationSequence", "RescaleIntercept", 1, own, shared[0]
                )[0],
            )
            for own in groups
        ]


def _of_frame(
    sequence: str, keyword: str, count: int, own: Dataset, shared: Dataset
) -> list[float]:
    """Return the numbers of an element from a frame's own group, or else from the shared one."""
    for group in (own, shared):
        found = group.get(sequence)
        value = found[0].get(keyword) if found else None
        if value is not None:
            numbers_found = [float(part) for part in (value if count > 1 else [value])]
            if len(numbers_found) != count or not np.isfinite(numbers_found).all():
                raise FileFormatError(f"{keyword} of a frame is not {count} numbers")
            return numbers_found
    raise FileFormatError(f"no {keyword} for a frame")


def _check_place(place: _Place) -> None:
    if max(map(abs, place.position)) > FARTHEST_MM:
        raise FileFormatError(f"absurd position {list(place.position)} mm")

    row, column = np.array(place.orientation[:3]), np.array(place.orientation[3:])
    if (
        abs(row @ row - 1) > _UNIT_TOLERANCE
        or abs(column @ column - 1) > _UNIT_TOLERANCE
        or abs(row @ column) > _UNIT_TOLERANCE
    ):
        raise FileFormatError(
            f"orientation {list(place.orientation)} is not two perpendicular unit vectors"
        )

    if not all(LEAST_SPACING_MM <= step <= MOST_SPACING_MM for step in place.spacing):
        raise FileFormatError(f"absurd pixel spacing {list(place.spacing)} mm")
    if place.slope == 0:
        raise FileFormatError("rescale slope is 0")


def _padding(dataset: FileDataset, layout: PixelLayout) -> tuple[int, int] | None:
    """Return the range of cells that mean "no data" (PS3.3 C.7.5.1.1.2), None where undeclared."""
    value = unsigned(dataset, "padding")
    if value is None:
        return None

    limit = unsigned(dataset, "padding_limit")
    ends = [
        end - 65536 if layout.signed and end > 32767 else end
        for end in (value, value if limit is None else limit)
    ]
    return min(ends), max(ends)


def _outside(
    cells: NDArray[Any], layout: PixelLayout, padding: tuple[int, int] | None
) -> NDArray[np.bool_] | None:
    """Return which cells hold a padding value that the stored bits cannot hold.

    A scanner of 12 bits that pads with -2000 unsigned: masked, it would become bone.
    """
    low, high = layout.limits
    if padding is None or layout.stored == layout.allocated:
        return None
    if low <= padding[0] and padding[1] <= high:
        return None

    found = (cells >= padding[0]) & (cells <= padding[1])
    return np.asarray(found) if found.any() else None
