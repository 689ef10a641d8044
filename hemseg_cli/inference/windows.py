"""Plan the windows that hold the head, for convolutional networks as large in plane as possible.

Windows never grow in depth: a network that learnt on 16 slices has one or two of them left at its
deepest level, where the outer weights of its kernels have learnt nothing, and would decide on a
window of 32.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hemseg_cli.imaging.head_mask import HeadMask
from hemseg_cli.imaging.preprocess import NetworkGrid
from hemseg_cli.inference.sliding_window import Size, WindowBox, regular_windows
from hemseg_cli.inference.subgrid import Range, Subgrid

_SHARED_SLICES = 2


@dataclass(frozen=True)
class WindowRule:
    """What a network asks of its windows.

    `patch`: of the training; `multiple`: what sizes must be multiples of; `resizable`: whether it
    takes other sizes; `most_voxels`: how many voxels a window may have; `overlap`: share of it.
    """

    patch: Size
    multiple: Size
    resizable: bool
    most_voxels: int
    overlap: float


def whole_grid(grid: NetworkGrid) -> Subgrid:
    """Return all of the network's grid."""
    i, j, k = grid.shape
    return (0, i), (0, j), (0, k)


def head_subgrid(
    head: HeadMask, grid: NetworkGrid, margin_mm: float, within: Subgrid | None = None
) -> Subgrid | None:
    """Return the smallest part of the network's grid with the head in `within`, and a margin.

    None where there is no head.
    """
    part = within or whole_grid(grid)
    low, high = _extent_mm(part, grid)
    ranges: list[Range] = []
    for axis, (step, size, origin) in enumerate(
        zip(grid.spacing_mm, grid.shape, grid.origin_mm, strict=True)
    ):
        extent = head.extent_mm(axis, low, high)
        if extent is None:
            return None
        start = max(0, math.floor((extent[0] - margin_mm - origin) / step))
        ranges.append(
            (
                min(start, size - 1),
                min(size, max(start + 1, math.ceil((extent[1] + margin_mm - origin) / step) + 1)),
            )
        )
    return ranges[0], ranges[1], ranges[2]


def plan_windows(
    head: HeadMask, grid: NetworkGrid, rule: WindowRule, *, margin_mm: float
) -> list[WindowBox]:
    """Return the windows on the network's grid that together hold the head."""
    part = _at_least(
        head_subgrid(head, grid, margin_mm) or whole_grid(grid), rule.patch, grid.shape
    )
    slabs = list(
        regular_windows((*rule.patch[:2], part[2][1] - part[2][0]), rule.patch, rule.overlap)
    )
    return [
        window
        for number in range(len(slabs))
        for window in _slab(head, grid, rule, margin_mm, part, slabs, number)
    ]


def covered(windows: Sequence[WindowBox], shape: Size) -> Subgrid:
    """Return the smallest part of a grid that holds all windows as far as they lie in it."""
    insides = [window.inside(shape) for window in windows]
    i, j, k = (
        (min(box[axis].start for box in insides), max(box[axis].stop for box in insides))
        for axis in range(3)
    )
    return i, j, k


def shifted(window: WindowBox, part: Subgrid) -> WindowBox:
    """Return the window in voxels of the part."""
    return WindowBox(_moved(window.start, [-start for start, _ in part]), window.size)


def split(window: WindowBox, rule: WindowRule) -> Iterator[WindowBox]:
    """Split a window into as few overlapping ones as keep to `most_voxels`.

    The axis with the most patches in it is cut first.
    """
    if math.prod(window.size) <= rule.most_voxels:
        yield window
        return
    order = sorted(range(3), key=lambda axis: -window.size[axis] / rule.patch[axis])
    axis = next((axis for axis in order if window.size[axis] > rule.multiple[axis]), None)
    if axis is None or _smallest(window.size, rule.multiple):
        yield window
        return
    size, multiple = window.size[axis], rule.multiple[axis]
    piece = min(size - multiple, _up(math.ceil(size * (1 + rule.overlap) / 2), multiple))
    for start in (0, size - piece):
        first, pieces = list(window.start), list(window.size)
        first[axis] += start
        pieces[axis] = piece
        yield from split(
            WindowBox((first[0], first[1], first[2]), (pieces[0], pieces[1], pieces[2])), rule
        )


def _slab(
    head: HeadMask,
    grid: NetworkGrid,
    rule: WindowRule,
    margin_mm: float,
    part: Subgrid,
    slabs: Sequence[WindowBox],
    number: int,
) -> Iterator[WindowBox]:
    """The windows of one step along k.

    The steps at both ends answer only for what their neighbour does not cover (and two slices of
    it).

    The head is narrow there, so that fewer windows hold it.
    """
    first, depth = part[2][0], rule.patch[2]
    starts = [first + slab.start[2] for slab in slabs]
    start, last = starts[number], len(slabs) - 1
    low = max(start, starts[number - 1] + depth - _SHARED_SLICES) if 0 < number == last else start
    high = (
        min(start + depth, starts[1] + _SHARED_SLICES)
        if number == 0 and last > 1
        else start + depth
    )
    low, high = max(low, part[2][0]), min(high, part[2][1])
    own = head_subgrid(head, grid, margin_mm, (part[0], part[1], (low, high)))
    if own is None:
        return
    i, j, _ = _at_least(own, rule.patch, grid.shape)
    for window in _in_plane(i, j, start, rule, grid.shape):
        if _holds_head(
            head, grid, WindowBox((*window.start[:2], low), (*window.size[:2], high - low))
        ):
            yield window


def _in_plane(i: Range, j: Range, start: int, rule: WindowRule, shape: Size) -> Iterator[WindowBox]:
    """The windows from slice `start` on that hold the rectangle.

    As few as memory allows, or those of the training.
    """
    if rule.resizable:
        yield from split(_fitted(i, j, start, rule, shape), rule)
        return
    for window in regular_windows(
        (i[1] - i[0], j[1] - j[0], rule.patch[2]), rule.patch, rule.overlap
    ):
        yield WindowBox((window.start[0] + i[0], window.start[1] + j[0], start), rule.patch)


def _fitted(i: Range, j: Range, start: int, rule: WindowRule, shape: Size) -> WindowBox:
    """The rectangle, from slice `start` on, grown to sizes that the network takes.

    It stays inside the grid where there is room.
    """
    depth = rule.patch[2]
    sizes = [
        _up(stop - start, multiple)
        for (start, stop), multiple in zip((i, j), rule.multiple[:2], strict=True)
    ]
    if (*sizes, depth) == rule.multiple:
        sizes[0] *= 2  # instance normalisation needs two voxels at the deepest level
    first, second = (
        _placed(own, size, extent)
        for own, size, extent in zip((i, j), sizes, shape[:2], strict=True)
    )
    return WindowBox((first, second, start), (sizes[0], sizes[1], depth))


def _at_least(part: Subgrid, least: Size, shape: Size) -> Subgrid:
    """The part grown to at least these sizes, as far as the grid reaches."""
    grown = []
    for own, size, extent in zip(part, least, shape, strict=True):
        wanted = min(max(own[1] - own[0], size), extent)
        start = _placed(own, wanted, extent)
        grown.append((start, start + wanted))
    return grown[0], grown[1], grown[2]


def _placed(own: Range, size: int, extent: int) -> int:
    """Where a range of `size` starts that lies around `own`.

    Inside 0..extent if it fits, else with the padding on both sides.
    """
    if size >= extent:
        return -((size - extent) // 2)
    start = own[0] - (size - (own[1] - own[0])) // 2
    return min(max(start, 0), extent - size)


def _holds_head(head: HeadMask, grid: NetworkGrid, window: WindowBox) -> bool:
    inside = window.inside(grid.shape)
    i, j, k = ((part.start, part.stop) for part in inside)
    low, high = _extent_mm((i, j, k), grid)
    return bool(head.within(low, high).any())


def _extent_mm(part: Subgrid, grid: NetworkGrid) -> tuple[list[float], list[float]]:
    """The centres of a part's first and last voxel, mm from the canonical voxel [0, 0, 0]."""
    along = list(zip(part, grid.spacing_mm, grid.origin_mm, strict=True))
    return (
        [start * step + origin for (start, _), step, origin in along],
        [(stop - 1) * step + origin for (_, stop), step, origin in along],
    )


def _smallest(size: Size, multiple: Size) -> bool:
    return (
        sum(n // m for n, m in zip(size, multiple, strict=True)) <= 4
    )  # one more cut would leave one voxel at the deepest level


def _moved(start: Size, by: Sequence[int]) -> Size:
    i, j, k = (here + shift for here, shift in zip(start, by, strict=True))
    return i, j, k


def _up(number: int, multiple: int) -> int:
    return max(1, math.ceil(number / multiple)) * multiple
