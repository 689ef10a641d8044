"""Turn stored values into Hounsfield units, int16, with the repairs that these files need."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.dicom.faults import counted
from hemseg_cli.imaging.dicom.slice import Slice
from hemseg_cli.imaging.hounsfield import PADDING_HU

PADDING_SET = "padding set to air"
"""What `to_hu` says of a scan with padding, which many scanners write: no reason for doubt."""
_PADDING_BELOW_HU = -1200
"""Air is -1000 and noise or clipping takes it to -1024 or a little below.

-2000, -2048, -3024 and the like are no tissue.
"""
_HIGHEST_12_BIT_HU = 3071
_WRAP_FROM = 3096
"""A 12-bit value from here on is a negative HU that wrapped: 4096 - 1000 (the HU of air)."""
_INT16 = np.iinfo(np.int16)
_AIR_BELOW_HU, _BRAIN_HU_MAX, _BONE_FROM_HU = -900, 80, 300
_LEAST_BRAIN, _LEAST_AIR, _PLAUSIBLE_MAX_HU = 0.01, 0.01, 20_000

Pixels = NDArray[Any]


@dataclass(frozen=True)
class HuSummary:
    """Hold a scan's range, and which share of its voxels is air, brain and bone.

    Air lies below -900 HU, brain from 0 to 80, bone from 300 on.
    """

    hu_min: int
    hu_max: int
    share_air: float
    share_brain: float
    share_bone: float


def to_hu(
    slices: Sequence[Slice], *, repair: bool = True
) -> tuple[NDArray[np.int16], HuSummary, list[str]]:
    """Rescale slices in order to HU [k, rows, columns]; a summary, and what was repaired.

    `repair`: undo a 12-bit rollover and set padding to air; else the values are rescaled and
    nothing more, as ITK's reader (and so the published chain) does.
    """
    first = slices[0]
    hu = np.empty((len(slices), first.rows, first.columns), dtype=np.int16)
    notes: dict[str, list[str]] = {}
    padded: list[tuple[int, Pixels]] = []
    for index, one in enumerate(slices):
        rolled, clipped = _rescale(one, hu[index], repair=repair)
        if rolled:
            notes.setdefault("12-bit rollover repaired (negative HU had wrapped)", []).append(
                one.name
            )
        if clipped:
            notes.setdefault("HU beyond 16 bits clipped", []).append(one.name)
        mask = _padding_mask(one, hu[index]) if repair else None
        if mask is not None:
            padded.append((index, mask))
            notes.setdefault(PADDING_SET, []).append(one.name)

    # Once all slices are in HU: what air is in this scan, the padded slices tell together.
    if padded:
        _fill_padding(hu, padded)
    summary, constant = _summary(hu)
    if constant:
        notes["all voxels alike"] = [slices[index].name for index in constant]
    return (
        hu,
        summary,
        [f"{what}: {counted(names, len(slices))}" for what, names in notes.items()]
        + _doubts(summary),
    )


def _rescale(one: Slice, out: NDArray[np.int16], *, repair: bool) -> tuple[bool, bool]:
    """Write HU into `out`; return whether a rollover was undone, and whether values were clipped.

    Rollover (Kaggle RSNA-2019, known from its discussions): add 1000, subtract 4096 from what is >=
    4096, take intercept -1000.
    """
    stored = one.stored
    if repair and one.wraps and one.slope == 1:
        out[...] = stored
        wrapped = out >= _WRAP_FROM
        np.subtract(out, 4096, out=out, where=wrapped)
        return bool(wrapped.any()), False

    low, high = (float(value) * one.slope + one.intercept for value in (stored.min(), stored.max()))
    fits = min(low, high) >= _INT16.min and max(low, high) <= _INT16.max
    if (
        fits
        and one.slope == 1
        and one.intercept.is_integer()
        and abs(one.intercept) <= _INT16.max
        and stored.dtype.itemsize == 2
    ):
        # Sums are right modulo 2**16, and the results fit: no wider type is needed.
        np.add(
            stored.astype(stored.dtype.newbyteorder("="), copy=False).view(np.int16),
            np.int16(one.intercept),
            out=out,
        )
        return False, False
    exact = np.rint(stored * np.float64(one.slope) + one.intercept)
    out[...] = np.clip(exact, _INT16.min, _INT16.max)
    return False, not fits


def _padding_mask(one: Slice, hu: NDArray[np.int16]) -> Pixels | None:
    mask = None
    if hu.min() < _PADDING_BELOW_HU:
        mask = hu < _PADDING_BELOW_HU
    if one.outside is not None:
        mask = one.outside if mask is None else mask | one.outside
    if one.padding is not None:
        low, high = (end * one.slope + one.intercept for end in one.padding)
        if max(low, high) < _PADDING_BELOW_HU or min(low, high) > _HIGHEST_12_BIT_HU:
            declared = (one.stored >= one.padding[0]) & (one.stored <= one.padding[1])
            mask = declared if mask is None else mask | declared
    return mask if mask is not None and mask.any() else None


def _fill_padding(hu: NDArray[np.int16], padded: Sequence[tuple[int, Pixels]]) -> None:
    """Set padding to the scan's own air.

    The median of what is near -1000 HU in the padded slices, -1000 where there is none.
    """
    samples = []
    for index, mask in padded:
        # Every sixteenth voxel tells the median as well.
        values = hu[index, ::4, ::4][~mask[::4, ::4]]
        samples.append(values[(values >= -1100) & (values <= -900)])

    air = np.concatenate(samples)
    value = round(float(np.median(air))) if air.size else PADDING_HU
    for index, mask in padded:
        np.putmask(hu[index], mask, value)


def _summary(hu: NDArray[np.int16]) -> tuple[HuSummary, list[int]]:
    lows, highs, constant = [], [], []
    air = brain = bone = 0

    # Slice by slice: each stays in the processor's cache for its five passes.
    for index, plane in enumerate(hu):
        low, high = int(plane.min()), int(plane.max())
        lows.append(low)
        highs.append(high)
        if low == high:
            constant.append(index)
        air += int(np.count_nonzero(plane < _AIR_BELOW_HU))
        # 0 <= x <= 80 in one comparison: negative numbers are large when read as unsigned.
        brain += int(np.count_nonzero(plane.view(np.uint16) <= _BRAIN_HU_MAX))
        bone += int(np.count_nonzero(plane >= _BONE_FROM_HU))
    shares = (round(count / hu.size, 6) for count in (air, brain, bone))
    return HuSummary(min(lows), max(highs), *shares), constant


def _doubts(summary: HuSummary) -> list[str]:
    doubts = []
    if summary.share_brain < _LEAST_BRAIN:
        doubts.append(
            f"only {summary.share_brain:.2%} of the voxels are within 0 to 80 HU: not a head, "
            "or a wrong rescale"
        )
    if summary.share_air < _LEAST_AIR:
        doubts.append(
            f"only {summary.share_air:.2%} of the voxels are air: a tight crop, or a wrong rescale"
        )
    if summary.hu_max > _PLAUSIBLE_MAX_HU:
        doubts.append(f"HU up to {summary.hu_max}: beyond metal")
    return doubts
