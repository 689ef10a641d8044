"""Find the intracranial space of a head CT from its bone, to keep predictions out of the rest.

A network takes dense muscle, ears and scalp for blood where it has seen too few of them; the blood
that is asked for lies inside the skull. Slice by slice, bone is closed and what it encloses is
filled; from the widest slice outwards each slice is held against the one before, so that an opened
skull is bridged, and face and neck are left out. Slices are taken as they are, tilted or not.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.hounsfield import find_ceiling
from hemseg_cli.imaging.nifti import Volume

Mask = NDArray[np.bool_]

_COARSE_MM = 2.0
_COARSE_SLICES_MM = 3.0

_BONE_FROM_HU = 250
_TISSUE_FROM_HU = -200
_FAT_BELOW_HU = -10
_BRAIN_HU = (0, 100)

# Sutures and thin bone need the narrow closings, the roofs of the orbits the wide ones.
_NARROW_CLOSINGS_MM = (2.0, 4.0)
_WIDE_CLOSINGS_MM = (8.0, 16.0)
_SAME_SPACE_NARROW = 0.5
_SAME_SPACE_WIDE = 0.7
_MOST_FAT_SHARE = 0.08
_SPREAD_MM = 8.0

# How an opened skull is told from a face: by directions in which there still is bone.
_DIRECTIONS = 72
_DIRECTIONS_WITH_BONE = 0.5
_SAME_RADIUS = 0.3

_WIDEST_CM2 = 60.0
_BRAIN_SHARE = 0.6
_OPENED_FROM_CM2 = 30.0
_FORAMEN_MAGNUM_CM2 = 7.0
_VERTEX_CM2 = 1.0
_RIM_MM = 2.0


def find_intracranial(canonical: Volume) -> Mask | None:
    """Return the intracranial space of a scan in HU on canonical axes, bool [i, j, k].

    None where no slice shows a brain enclosed in bone: not a head, or one without its skull.
    """
    grid = _CoarseGrid.of(canonical)
    slices = _Slices.of(canonical.array, grid)
    start = _widest(slices)
    if start is None:
        return None

    # From the widest slice down to the foramen magnum, and up to the vertex.
    middle, widest = start
    last = slices.bone.shape[2]
    found = {middle: widest}
    found |= _followed(slices, range(middle - 1, -1, -1), widest, _FORAMEN_MAGNUM_CM2)
    found |= _followed(slices, range(middle + 1, last), widest, _VERTEX_CM2)

    space = np.zeros(slices.bone.shape, dtype=bool)
    for k, plane in found.items():
        space[:, :, k] = plane
    return grid.fine(_smoothed(space, slices), canonical.array.shape)


def bone_threshold_hu(values: NDArray[Any]) -> int:
    """Return the HU from which a voxel counts as bone: 250, or where the numbers were cut off."""
    ceiling = find_ceiling(values)
    return _BONE_FROM_HU if ceiling is None else min(ceiling, _BONE_FROM_HU)


@dataclass(frozen=True)
class _CoarseGrid:
    """Blocks of voxels within the slices, and every n-th slice. `steps_mm`: along i, j, k."""

    blocks: tuple[int, int, int]
    steps_mm: tuple[float, float, float]

    @classmethod
    def of(cls, canonical: Volume) -> "_CoarseGrid":
        own = spacing_mm(canonical.affine)
        wanted = (_COARSE_MM, _COARSE_MM, _COARSE_SLICES_MM)
        i, j, k = (max(1, round(mm / step)) for mm, step in zip(wanted, own, strict=True))
        return cls((i, j, k), (i * own[0], j * own[1], k * own[2]))

    def highest(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the highest value of each block: thin bone stays closed."""
        i, j, k = self.blocks
        result = array[:, :, ::k]
        for axis, block in enumerate((i, j)):
            starts = np.arange(0, array.shape[axis], block)
            result = np.maximum.reduceat(result, starts, axis=axis)
        return result

    def centres(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the value in the middle of each block."""
        i, j, k = self.blocks
        places = [
            np.minimum(np.arange(0, size, block) + block // 2, size - 1)
            for size, block in zip(array.shape[:2], (i, j), strict=True)
        ]
        return array[:, :, ::k][np.ix_(*places)]

    def fine(self, coarse: Mask, shape: tuple[int, ...]) -> Mask:
        """Return a coarse mask on the scan's own voxels; a slice takes the nearest coarse one."""
        i, j, k = self.blocks
        slices = np.minimum((np.arange(shape[2]) + k // 2) // k, coarse.shape[2] - 1)
        places = np.ix_(np.arange(shape[0]) // i, np.arange(shape[1]) // j, slices)
        return np.asarray(coarse[places])


@dataclass(frozen=True)
class _Slices:
    """The coarse scan: bone, head (all but air), fat and air, brain, each bool [i, j, k]."""

    bone: Mask
    head: Mask
    fat: Mask
    brain: Mask
    steps_mm: tuple[float, float, float]

    @classmethod
    def of(cls, array: NDArray[Any], grid: _CoarseGrid) -> "_Slices":
        values = grid.centres(array)
        # The head alone: the couch and a headrest are dense too, and would close a ring with it.
        head = _largest_piece(values > _TISSUE_FROM_HU)
        # A window that ends above fat shows fat and air at its lower end.
        lowest = float(values[head].min(initial=0.0))
        low, high = _BRAIN_HU
        return cls(
            (grid.highest(array) >= bone_threshold_hu(array)) & head,
            head,
            values <= max(_FAT_BELOW_HU, lowest),
            (values >= low) & (values <= high),
            grid.steps_mm,
        )

    @property
    def pixel_cm2(self) -> float:
        return self.steps_mm[0] * self.steps_mm[1] / 100

    def enclosed(self, k: int, closing_mm: float) -> Mask:
        """Return what the bone of a slice encloses once gaps of twice `closing_mm` are closed."""
        from scipy import ndimage  # slow to import

        reach = [int(closing_mm / step) + 2 for step in self.steps_mm[:2]]
        bone = np.pad(self.bone[:, :, k], [(n, n) for n in reach])
        if not bone.any():
            return np.zeros_like(self.bone[:, :, k])

        # A closing by distances: dilation and erosion by discs of any size take the same time.
        near = self._distance(~bone) <= closing_mm
        closed = (self._distance(near) > closing_mm) | bone
        filled = ndimage.binary_fill_holes(closed) & ~bone
        i, j = reach
        return np.asarray(filled[i:-i, j:-j] & self.head[:, :, k])

    def _distance(self, mask: Mask) -> NDArray[np.float64]:
        from scipy import ndimage

        return np.asarray(ndimage.distance_transform_edt(mask, sampling=self.steps_mm[:2]))

    def grown(self, mask: Mask, by_mm: float) -> Mask:
        """Return a slice's mask and what lies around it."""
        return self._distance(~mask) <= by_mm if mask.any() else mask


def _widest(slices: _Slices) -> tuple[int, Mask] | None:
    """Return the slice in which bone encloses most brain, and what it encloses there.

    A skull that is open in every wide slice is bridged at once.
    """
    for closing_mm in (_NARROW_CLOSINGS_MM[-1], _WIDE_CLOSINGS_MM[-1]):
        found = [slices.enclosed(k, closing_mm) for k in range(slices.bone.shape[2])]
        for k in sorted(range(len(found)), key=lambda k: -int(found[k].sum())):
            if found[k].sum() * slices.pixel_cm2 < _WIDEST_CM2:
                break
            if slices.brain[:, :, k][found[k]].mean() >= _BRAIN_SHARE:
                return k, found[k]
    return None


def _followed(
    slices: _Slices, order: Iterable[int], widest: Mask, smallest_cm2: float
) -> dict[int, Mask]:
    """Follow the space from its widest slice through the slices in `order`, until it ends."""
    found: dict[int, Mask] = {}
    before = widest
    for k in order:
        plane = _recognised(slices, k, before)
        # So large a space does not end from one slice to the next: its bone is not all there.
        if plane is None and before.sum() * slices.pixel_cm2 >= _OPENED_FROM_CM2:
            plane = _bridged(slices, k, before)
        elif plane is None:
            plane = slices.enclosed(k, _NARROW_CLOSINGS_MM[-1]) & slices.grown(before, _SPREAD_MM)

        if plane is None or plane.sum() * slices.pixel_cm2 < smallest_cm2:
            break
        found[k] = before = plane
    return found


def _recognised(slices: _Slices, k: int, before: Mask) -> Mask | None:
    """Return what bone encloses in a slice where it is the space of the slice next to it.

    By the narrowest closing that keeps most of that; None where none does.
    """
    near = slices.grown(before, _SPREAD_MM + slices.steps_mm[2])
    for closing_mm in (*_NARROW_CLOSINGS_MM, *_WIDE_CLOSINGS_MM):
        wide = closing_mm in _WIDE_CLOSINGS_MM
        plane = slices.enclosed(k, closing_mm) & near
        share = _SAME_SPACE_WIDE if wide else _SAME_SPACE_NARROW
        if (plane & before).sum() < share * before.sum():
            continue

        # Wide closings also enclose what lies between jaw, vertebra and skull: fat among muscles.
        if not wide or slices.fat[:, :, k][plane].mean() <= _MOST_FAT_SHARE:
            return plane
    return None


def _bridged(slices: _Slices, k: int, before: Mask) -> Mask | None:
    """Return the space of a slice of an opened skull: that of the slice next to it, scaled.

    By the bone that is left, seen from the middle: in each direction its distance, as a multiple of
    the radius of the space next to it. None where too few directions have bone at that radius.
    """
    from scipy import ndimage  # slow to import

    centre = np.array(ndimage.center_of_mass(before))
    steps = np.array(slices.steps_mm[:2])

    def directions(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        x, y = ((np.argwhere(mask) - centre) * steps).T
        turn = (np.arctan2(y, x) + np.pi) / (2 * np.pi)
        return np.minimum((turn * _DIRECTIONS).astype(int), _DIRECTIONS - 1), np.hypot(x, y)

    radius = np.zeros(_DIRECTIONS)
    np.maximum.at(radius, *directions(before))

    # The inner table: the nearest bone that is not far within, as the falx's calcium would be.
    ratios = np.full(_DIRECTIONS, np.inf)
    towards, distance = directions(slices.bone[:, :, k])
    ratio = distance / np.maximum(radius[towards], 1.0)
    at_radius = abs(ratio - 1) <= _SAME_RADIUS
    np.minimum.at(ratios, towards[at_radius], ratio[at_radius])
    known = ratios[np.isfinite(ratios)]
    if len(known) < _DIRECTIONS_WITH_BONE * _DIRECTIONS:
        return None

    # Each pixel takes what the slice next to it has at the same place, scaled about the middle.
    factor = 1 / float(np.median(known))
    offset = centre * (1 - factor)
    scaled = ndimage.affine_transform(
        before.astype(np.uint8), np.full(2, factor), offset=offset, order=0
    ).astype(bool)
    plane = scaled & slices.head[:, :, k] & ~slices.bone[:, :, k]
    if not plane.any() or slices.fat[:, :, k][plane].mean() > _MOST_FAT_SHARE:
        return None
    return np.asarray(plane)


def _smoothed(space: Mask, slices: _Slices) -> Mask:
    """Fill what is enclosed (calcification, blood at a window's end), keep one piece, add a rim."""
    from scipy import ndimage  # slow to import

    result = np.zeros_like(space)
    for k in range(space.shape[2]):
        result[:, :, k] = ndimage.binary_fill_holes(space[:, :, k])
    result = _largest_piece(result)

    # The rim lies in the bone, which is thicker: blood at the inner table is not cut.
    for k in range(space.shape[2]):
        result[:, :, k] = slices.grown(result[:, :, k], _RIM_MM)
    return result


def _largest_piece(mask: Mask) -> Mask:
    """Keep the largest piece of a mask whose voxels touch by their faces."""
    from scipy import ndimage  # slow to import

    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == int(sizes.argmax()))
