"""Which windows are worth computing: only those with head in them, and for convolutional networks as few and as large as possible."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hemseg_cli.imaging.preprocess import Grid
from hemseg_cli.inference.crops import Part, Range
from hemseg_cli.inference.head import Head
from hemseg_cli.inference.sliding_window import Size, Window, regular_windows

_MOST_PADDING = 1 / 8
_WORTH_TWO_WINDOWS = 0.9
_CONTEXT = 16
_SHARED_SLICES = 2


@dataclass(frozen=True)
class WindowRule:
    """What a network asks of its windows: the training patch, what sizes must be multiples of, whether it takes other sizes.

    `most_voxels`: how many voxels a window may have.
    """

    patch: Size
    multiple: Size
    resizable: bool
    most_voxels: int
    overlap: float


def whole_grid(grid: Grid) -> Part:
    """All of the network's grid."""
    i, j, k = grid.shape
    return (0, i), (0, j), (0, k)


def head_part(head: Head, grid: Grid, margin_mm: float, within: Part | None = None) -> Part | None:
    """The smallest part of the network's grid that holds the head that lies in `within`, and a margin; None where there is none."""
    part = within or whole_grid(grid)
    low = [start * step for (start, _), step in zip(part, grid.spacing_mm, strict=True)]
    high = [(stop - 1) * step for (_, stop), step in zip(part, grid.spacing_mm, strict=True)]
    ranges: list[Range] = []
    for axis, (step, size) in enumerate(zip(grid.spacing_mm, grid.shape, strict=True)):
        extent = head.extent_mm(axis, low, high)
        if extent is None:
            return None
        start = max(0, math.floor((extent[0] - margin_mm) / step))
        ranges.append((min(start, size - 1), min(size, max(start + 1, math.ceil((extent[1] + margin_mm) / step) + 1))))
    return ranges[0], ranges[1], ranges[2]


def plan_windows(head: Head, grid: Grid, rule: WindowRule, *, margin_mm: float) -> list[Window]:
    """The windows on the network's grid that together hold the head."""
    part = head_part(head, grid, margin_mm) or whole_grid(grid)
    if rule.resizable:
        choices = [
            [piece for window in windows for piece in split(window, rule) if _holds_head(head, grid, piece)]
            for windows in _few_large(head, grid, rule, part, margin_mm)
        ]
        return _cheapest(choices, grid, part)
    part = _at_least(part, rule.patch, grid.shape)
    slabs = list(regular_windows((*rule.patch[:2], part[2][1] - part[2][0]), rule.patch, rule.overlap))
    return [window for number in range(len(slabs)) for window in _slab(head, grid, rule, margin_mm, part, slabs, number)]


def covered(windows: Sequence[Window], shape: Size) -> Part:
    """The smallest part of a grid that holds all windows as far as they lie in it."""
    insides = [window.inside(shape) for window in windows]
    i, j, k = ((min(box[axis].start for box in insides), max(box[axis].stop for box in insides)) for axis in range(3))
    return i, j, k


def shifted(window: Window, part: Part) -> Window:
    """The window in voxels of the part."""
    return Window(_moved(window.start, [-start for start, _ in part]), window.size)


def split(window: Window, rule: WindowRule) -> Iterator[Window]:
    """The window itself, or as few overlapping ones as keep to `most_voxels`: the axis with the most patches in it is cut first."""
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
        yield from split(Window((first[0], first[1], first[2]), (pieces[0], pieces[1], pieces[2])), rule)


def _few_large(head: Head, grid: Grid, rule: WindowRule, part: Part, margin_mm: float) -> Iterator[list[Window]]:
    """One window around the head; or a window less deep and, for the slices left at the ends, small ones."""
    yield [_fitted(part, rule, grid.shape)]
    (first, last), multiple = part[2], rule.multiple[2]
    depth = (last - first) // multiple * multiple
    left = last - first - depth
    if not depth or not left:
        return
    for below in range(left + 1):
        main = (part[0], part[1], (first + below, first + below + depth))
        ends = [(first, first + below), (first + below + depth, last)]
        yield [_fitted(main, rule, grid.shape), *_ends(head, grid, rule, margin_mm, part, ends)]


def _cheapest(choices: Sequence[list[Window]], grid: Grid, part: Part) -> list[Window]:
    """The first choice, one window where it fits, unless it is much padding or another is clearly less to compute."""
    whole, others = choices[0], [choice for choice in choices[1:] if choice]
    best = min(others, key=_cost, default=whole)
    depth = max((window.size[2] for window in whole), default=1)
    padding = depth - min(depth, grid.shape[2])
    chosen = best if _cost(best) < _WORTH_TWO_WINDOWS * _cost(whole) or padding > _MOST_PADDING * depth else whole
    if chosen:
        return chosen
    raise ValueError(f"no window holds any of {part}")


def _slab(head: Head, grid: Grid, rule: WindowRule, margin_mm: float, part: Part, slabs: Sequence[Window], number: int) -> Iterator[Window]:
    """The windows of one step along k. The steps at both ends answer only for what their neighbour does not cover (and two slices of it).

    The head is narrow there, so that fewer windows hold it.
    """
    first, depth = part[2][0], rule.patch[2]
    starts = [first + slab.start[2] for slab in slabs]
    start, last = starts[number], len(slabs) - 1
    low = max(start, starts[number - 1] + depth - _SHARED_SLICES) if 0 < number == last else start
    high = min(start + depth, starts[1] + _SHARED_SLICES) if number == 0 and last > 1 else start + depth
    low, high = max(low, part[2][0]), min(high, part[2][1])
    own = head_part(head, grid, margin_mm, (part[0], part[1], (low, high)))
    if own is None:
        return
    i, j, _ = _at_least(own, rule.patch, grid.shape)
    for window in regular_windows((i[1] - i[0], j[1] - j[0], depth), rule.patch, rule.overlap):
        placed = Window((window.start[0] + i[0], window.start[1] + j[0], start), rule.patch)
        if _holds_head(head, grid, Window((*placed.start[:2], low), (*rule.patch[:2], high - low))):
            yield placed


def _ends(head: Head, grid: Grid, rule: WindowRule, margin_mm: float, part: Part, ends: Sequence[Range]) -> Iterator[Window]:
    """A window for the slices at each end of the head, no wider than the head is there, with context towards the middle."""
    for lower, (start, stop) in zip((True, False), ends, strict=True):
        if start == stop:
            continue
        own = head_part(head, grid, margin_mm, (part[0], part[1], (start, stop)))
        if own is None:
            continue
        depth = _up(stop - start, rule.multiple[2])
        slices = (start, start + depth) if lower else (stop - depth, stop)
        i, j = ((low - _CONTEXT, high + _CONTEXT) for low, high in own[:2])
        inside = [(max(low, 0), min(high, size)) for (low, high), size in zip((i, j), grid.shape[:2], strict=True)]
        half = (rule.patch[0] // 2, rule.patch[1] // 2, 1)
        yield _fitted(_at_least((inside[0], inside[1], slices), half, grid.shape), rule, grid.shape)


def _fitted(part: Part, rule: WindowRule, shape: Size) -> Window:
    """The part grown to sizes that the network takes, inside the grid where there is room."""
    sizes = [_up(stop - start, multiple) for (start, stop), multiple in zip(part, rule.multiple, strict=True)]
    if tuple(sizes) == rule.multiple:
        sizes[0] *= 2  # instance normalisation needs two voxels at the deepest level
    starts = [_placed(own, size, extent) for own, size, extent in zip(part, sizes, shape, strict=True)]
    return Window((starts[0], starts[1], starts[2]), (sizes[0], sizes[1], sizes[2]))


def _at_least(part: Part, least: Size, shape: Size) -> Part:
    """The part grown to at least these sizes, as far as the grid reaches."""
    grown = []
    for own, size, extent in zip(part, least, shape, strict=True):
        wanted = min(max(own[1] - own[0], size), extent)
        start = _placed(own, wanted, extent)
        grown.append((start, start + wanted))
    return grown[0], grown[1], grown[2]


def _placed(own: Range, size: int, extent: int) -> int:
    """Where a range of `size` starts that lies around `own`: inside 0..extent if it fits, else with the padding on both sides."""
    if size >= extent:
        return -((size - extent) // 2)
    start = own[0] - (size - (own[1] - own[0])) // 2
    return min(max(start, 0), extent - size)


def _holds_head(head: Head, grid: Grid, window: Window) -> bool:
    inside = window.inside(grid.shape)
    low = [part.start * step for part, step in zip(inside, grid.spacing_mm, strict=True)]
    high = [(part.stop - 1) * step for part, step in zip(inside, grid.spacing_mm, strict=True)]
    return bool(head.within(low, high).any())


def _smallest(size: Size, multiple: Size) -> bool:
    return sum(n // m for n, m in zip(size, multiple, strict=True)) <= 4  # one more cut would leave one voxel at the deepest level


def _cost(windows: Sequence[Window]) -> int:
    return sum(math.prod(window.size) for window in windows)


def _moved(start: Size, by: Sequence[int]) -> Size:
    i, j, k = (here + shift for here, shift in zip(start, by, strict=True))
    return i, j, k


def _up(number: int, multiple: int) -> int:
    return max(1, math.ceil(number / multiple)) * multiple
