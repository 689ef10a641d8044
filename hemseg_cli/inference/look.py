"""Tell scans whose look is unlike that of the training: Hounsfield units and geometry.

A few numbers of a scan, each of which a reader would name, are compared with their range over the
scans that were trained and validated on. Metal, another part of the body, contrast agent, another
slice thickness leave the range of at least one. It is a coarse check: a scan within all ranges may
still be unlike the training in what these numbers do not see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.head_mask import HeadMask
from hemseg_cli.imaging.nifti import Volume

LEAST_LOOKS = 20
"""Scans without which a range says nothing."""

# How far beyond the range of the training a number may lie, in widths of its middle 90 %.
_MARGIN = 0.5
_SOFT_HU = (0.0, 90.0)
_CONTRAST_HU = (100.0, 300.0)
_BONE_FROM_HU = 300.0
_METAL_FROM_HU = 2500.0
_FAT_TO_HU = -30.0
# Around bone a voxel is dense because a part of it is bone, mm.
_BONE_EDGE_MM = 7.0
_BONE_EDGE_SLICES = 1


@dataclass(frozen=True)
class Feature:
    """One number of a scan's look. `least_width`: of its range, where the training's is narrower.

    `digits`: after the point, when it is shown.
    """

    key: str
    title: str
    unit: str
    digits: int
    least_width: float


FEATURES = (
    Feature("pixel_mm", "pixel size", "mm", 2, 0.2),
    Feature("slice_mm", "slice distance", "mm", 1, 2.0),
    Feature("height_mm", "height of the head", "mm", 0, 40.0),
    Feature("head_ml", "size of the head", "mL", 0, 600.0),
    Feature("soft_hu", "median of the soft tissue", "HU", 0, 5.0),
    Feature("soft_spread_hu", "spread of the soft tissue", "HU", 0, 6.0),
    Feature("dense_share", "share of 100 to 300 HU away from bone", "%", 1, 0.5),
    Feature("bone_share", "share of bone", "%", 0, 10.0),
    Feature("fat_share", "share of fat and air inside the head", "%", 0, 8.0),
    Feature("metal_ml", "volume above 2500 HU", "mL", 2, 0.2),
)
"""The numbers of a look, each a row."""

Look = dict[str, float]
"""Feature key -> its value in one scan."""


@dataclass(frozen=True)
class LookRange:
    """The looks of the training: feature key -> least, 5th and 95th percentile, largest."""

    scans: int
    ranges: Mapping[str, tuple[float, float, float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as a checkpoint holds them."""
        return {
            "scans": self.scans,
            "ranges": {key: list(values) for key, values in self.ranges.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LookRange":
        """Read what `to_dict` returned and `checkpoint_settings` has checked."""
        ranges = {
            key: (float(a), float(b), float(c), float(d))
            for key, (a, b, c, d) in values["ranges"].items()
        }
        return cls(int(values["scans"]), ranges)


def look_of(canonical: Volume, head: HeadMask) -> Look:
    """Measure the look of a scan in HU on canonical axes, on the coarse grid of its head mask."""
    x_mm, y_mm, z_mm = spacing_mm(canonical.affine)
    steps = [
        max(1, round(coarse / fine))
        for coarse, fine in zip(head.step_mm, (x_mm, y_mm, z_mm), strict=True)
    ]
    i, j, k = (slice(None, None, step) for step in steps)
    coarse = np.asarray(canonical.array[i, j, k])
    core = head.core
    inside = coarse[core]

    soft = inside[(inside > _SOFT_HU[0]) & (inside < _SOFT_HU[1])]
    quartiles = np.percentile(soft, (25, 50, 75)) if soft.size else np.zeros(3)
    slices = np.flatnonzero(core.any(axis=(0, 1)))
    step_ml = float(np.prod(head.step_mm)) / 1000
    return {
        "pixel_mm": float(x_mm + y_mm) / 2,
        "slice_mm": float(z_mm),
        "height_mm": float((slices[-1] - slices[0] + 1) * head.step_mm[2]) if slices.size else 0.0,
        "head_ml": float(inside.size * step_ml),
        "soft_hu": float(quartiles[1]),
        "soft_spread_hu": float(quartiles[2] - quartiles[0]),
        "dense_share": _dense_share(coarse, core, head.step_mm),
        "bone_share": _percent(inside > _BONE_FROM_HU),
        "fat_share": _percent(inside < _FAT_TO_HU),
        "metal_ml": _metal_ml(canonical, core, steps, x_mm * y_mm * z_mm),
    }


def range_of(looks: Sequence[Look]) -> LookRange | None:
    """Return the range of the looks of the training; None below `LEAST_LOOKS` scans."""
    if len(looks) < LEAST_LOOKS:
        return None
    ranges = {}
    for feature in FEATURES:
        values = np.array([look[feature.key] for look in looks])
        least, low, high, largest = np.percentile(values, (0, 5, 95, 100))
        ranges[feature.key] = (float(least), float(low), float(high), float(largest))
    return LookRange(len(looks), ranges)


def unlike_training(look: Look, known: LookRange | None) -> str:
    """Say what of a scan's look lies out of the range of the training; empty where nothing does."""
    if known is None:
        return ""
    found = []
    for feature in FEATURES:
        if feature.key not in known.ranges:
            continue
        least, low, high, largest = known.ranges[feature.key]
        margin = _MARGIN * max(high - low, feature.least_width)
        value = look[feature.key]
        if not least - margin <= value <= largest + margin:
            shown = (f"{number:.{feature.digits}f}" for number in (value, least, largest))
            found.append(
                f"{feature.title} {next(shown)} {feature.unit} (there {next(shown)} to "
                f"{next(shown)})"
            )
    return f"unlike the training: {', '.join(found)}" if found else ""


def joint_looks(ranges: Sequence[LookRange | None]) -> LookRange | None:
    """Return the range that lies within those of all networks; None where none has one.

    What is unlike the training of one network of an ensemble is unlike that of the ensemble.
    """
    known = [one for one in ranges if one is not None]
    if not known:
        return None
    joint = {}
    for key in dict.fromkeys(key for one in known for key in one.ranges):
        rows = [one.ranges[key] for one in known if key in one.ranges]
        least, low, high, largest = zip(*rows, strict=True)
        joint[key] = (max(least), max(low), min(high), min(largest))
    return LookRange(min(one.scans for one in known), joint)


def _dense_share(coarse: NDArray[Any], core: NDArray[np.bool_], step_mm: Sequence[float]) -> float:
    """The share of the head, away from bone, that is as dense as vessels with contrast agent."""
    from scipy import ndimage  # slow to import

    # Blood is less dense, and bone's partial volume is left out with its surroundings.
    reach = [max(1, round(_BONE_EDGE_MM / step)) for step in step_mm[:2]] + [_BONE_EDGE_SLICES]
    shape = [2 * n + 1 for n in reach]
    bone = ndimage.maximum_filter(coarse > _BONE_FROM_HU, size=shape)
    inside = coarse[core & ~bone]
    return _percent((inside > _CONTRAST_HU[0]) & (inside < _CONTRAST_HU[1]))


def _metal_ml(
    canonical: Volume, core: NDArray[np.bool_], steps: Sequence[int], voxel_mm3: float
) -> float:
    """The volume of metal in the box of the head, on every voxel: a clip is smaller than a step."""
    box = []
    for axis, step in enumerate(steps):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(core.any(axis=others))
        first, last = (places[0], places[-1]) if places.size else (0, -1)
        box.append(slice(int(first) * step, (int(last) + 1) * step))
    i, j, k = box
    count = np.count_nonzero(canonical.array[i, j, k] > _METAL_FROM_HU)
    return float(count * voxel_mm3 / 1000)


def _percent(mask: NDArray[np.bool_]) -> float:
    return float(100 * mask.mean()) if mask.size else 0.0
