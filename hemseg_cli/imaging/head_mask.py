"""Find the head on a coarse grid, in millimetres from the centre of the canonical voxel [0, 0, 0].

The core of the head is the tissue more than some millimetres below any surface: the largest piece
of it is the head without ears, pillow and table, with or without its bone (after a craniectomy),
and no hemorrhage lies outside of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.nifti import Volume

_COARSE_MM = 3.0
_TISSUE_FROM_HU = -200
_BONE_FROM_HU = 200
_DEPTH_MM = 8.0
_SMALLEST_CM3 = 5.0
_CAVITY_CM2 = 30.0
_BRAIN_HU = (0, 80)
_BRAIN_SHARE = 0.6


@dataclass(frozen=True)
class HeadMask:
    """Hold where the head is.

    `core`: bool [i, j, k], voxel [a, b, c] standing for the canonical voxels around it; `step_mm`
    its spacing; `is_head`: whether a skull encloses brain in at least one slice.
    """

    core: NDArray[np.bool_]
    step_mm: tuple[float, float, float]
    is_head: bool

    def within(self, low_mm: Sequence[float], high_mm: Sequence[float]) -> NDArray[np.bool_]:
        """Return the coarse voxels that touch a box in mm."""
        view = []
        for low, high, step, size in zip(
            low_mm, high_mm, self.step_mm, self.core.shape, strict=True
        ):
            first = min(max(int(np.floor(low / step + 0.5)), 0), size - 1)
            last = min(max(int(np.ceil(high / step - 0.5)), first), size - 1)
            view.append(slice(first, last + 1))
        return self.core[tuple(view)]

    def extent_mm(
        self, axis: int, low_mm: Sequence[float], high_mm: Sequence[float]
    ) -> tuple[float, float] | None:
        """Return from where to where along an axis there is head in a box, mm, or None."""
        step = self.step_mm[axis]
        first = min(max(int(np.floor(low_mm[axis] / step + 0.5)), 0), self.core.shape[axis] - 1)
        others = tuple(number for number in range(3) if number != axis)
        hits = np.flatnonzero(self.within(low_mm, high_mm).any(axis=others))
        if not len(hits):
            return None
        return float((first + hits[0] - 0.5) * step), float((first + hits[-1] + 0.5) * step)


def find_head(canonical: Volume) -> HeadMask:
    """Find the head in a scan in HU on canonical axes.

    Where nothing like a core is found, all of the scan is taken.
    """
    from scipy import ndimage  # slow to import

    spacing = spacing_mm(canonical.affine)
    i, j, k = (max(1, round(_COARSE_MM / step)) for step in spacing)
    coarse = np.asarray(canonical.array[::i, ::j, ::k])
    step = (i * spacing[0], j * spacing[1], k * spacing[2])

    # Tissue that lies deeper than ears, pillow and table are thick, slice by slice: between slices
    # a scan is too coarse to tell depth.
    tissue = coarse > _TISSUE_FROM_HU
    core = tissue.copy()
    for axis in (0, 1):
        reach = round(_DEPTH_MM / step[axis])
        shape = [1, 1, 1]
        shape[axis] = 2 * reach + 1
        core = ndimage.binary_erosion(core, np.ones(shape, dtype=bool), border_value=1)

    # The largest piece of what is left is the head, if it is large enough to be one.
    labels, count = ndimage.label(core, np.ones((3, 3, 3), dtype=bool))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    if not count or sizes.max() * step[0] * step[1] * step[2] < _SMALLEST_CM3 * 1000:
        return HeadMask(np.ones_like(tissue), step, False)
    return HeadMask(labels == int(np.argmax(sizes)) + 1, step, _encloses_brain(coarse, step))


def _encloses_brain(coarse: NDArray[Any], step: tuple[float, float, float]) -> bool:
    """Tell whether bone encloses, in one slice, a region of a brain's size and density."""
    from scipy import ndimage  # slow to import

    low, high = _BRAIN_HU
    for k in range(coarse.shape[2]):
        plane = coarse[:, :, k]
        bone = np.pad(plane > _BONE_FROM_HU, 3)
        # Sutures and coarse sampling leave holes in the skull, which closing mends.
        closed = ndimage.binary_closing(bone, np.ones((3, 3), dtype=bool), iterations=2)
        cavity = (ndimage.binary_fill_holes(closed) & ~closed)[3:-3, 3:-3]
        if np.count_nonzero(cavity) * step[0] * step[1] < _CAVITY_CM2 * 100:
            continue

        inside = plane[cavity]
        if np.mean((inside >= low) & (inside <= high)) >= _BRAIN_SHARE:
            return True
    return False
