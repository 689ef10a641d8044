"""Examine one scan of a source: whether it can be used, and what image and label hold."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import CaseError, FileFormatError
from hemseg_cli.core.names import first_few
from hemseg_cli.dataset.imports.layout import FoundScan
from hemseg_cli.imaging.geometry import (
    TILTED_FROM_DEG,
    Affine,
    header_voxel_volume_mm3,
    is_sheared,
    slice_normal,
    spacing_mm,
    tilt_deg,
)
from hemseg_cli.imaging.hounsfield import find_hu_offset
from hemseg_cli.imaging.nifti import Volume, read_volume
from hemseg_cli.imaging.orientation import match_axes
from hemseg_cli.imaging.sidecar import voxels_hash

MOST_VALUE = 255
_WHOLE_ATOL = 1e-3  # of a label's value: interpolation leaves values near whole ones
_MOST_GANTRY_TILT_DEG = 31.0
_SIDEWAYS_DEG = 0.5  # a gantry tilts about the axis from left to right alone
_OFFSET_SAMPLE = 2  # every second voxel along each axis tells the peaks as well


@dataclass(frozen=True)
class ScanTask:
    """One scan to examine under its id in the data set."""

    scan: str
    found: FoundScan


@dataclass(frozen=True)
class ScanFacts:
    """What was found in one scan. Spacing in mm, angle in degrees, volume of a voxel in mm3.

    `image_hash` and `label_hash` are of the voxels; `value_voxels`: value in the label -> voxels;
    `rater_dice`: mean Dice of every two raters' foreground, None where there is one.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    tilt_deg: float
    tilt_recovered: bool
    voxel_volume_mm3: float
    image_hash: str
    label_hash: str
    value_voxels: dict[int, int]
    warnings: tuple[str, ...]
    rater_dice: float | None = None


def examine(task: ScanTask) -> ScanFacts:
    """Read and check one scan; CaseError or FileFormatError says why it cannot be taken."""
    image = read_volume(task.found.image)
    warnings = _check_image(task.found.image, image)
    labels = [read_label(path, image) for path in task.found.labels]
    label = combine_labels(task.found, labels)
    values, counts = np.unique(label[label > 0], return_counts=True)

    volume_mm3, recovered = recover_voxel_volume_mm3(image.affine)
    if recovered:
        warnings.append(
            f"tilted by {tilt_deg(image.affine):.1f} degrees without shear: the slice distance is "
            "taken as the header's times its cosine, as ITK's readers write it"
        )
    i, j, k = image.array.shape
    return ScanFacts(
        shape=(i, j, k),
        spacing_mm=spacing_mm(image.affine),
        tilt_deg=tilt_deg(image.affine),
        tilt_recovered=recovered,
        voxel_volume_mm3=volume_mm3,
        image_hash=voxels_hash(image.array),
        label_hash=voxels_hash(label),
        value_voxels={int(v): int(n) for v, n in zip(values, counts, strict=True)},
        warnings=tuple(warnings),
        rater_dice=_mean_dice(labels) if task.found.raters else None,
    )


def read_label(path: Path, image: Volume) -> NDArray[np.uint8]:
    """Read a label as whole values on the axes of its image.

    Values near whole ones and masks scaled to 0..1 are taken; CaseError where a label lies
    elsewhere than its image, or holds values that are none of a label.
    """
    label = match_axes(read_volume(path), image.array.shape, image.affine)
    array = label.array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CaseError(f"{path.name} holds values that are no numbers")

    whole = np.rint(array)
    if array.dtype.kind == "f" and float(np.abs(array - whole).max()) > _WHOLE_ATOL:
        present = np.unique(array[array != 0])
        # One value, whatever it is (1/255 by a scale factor): a mask.
        if len(present) == 1 and present[0] > 0:
            return np.asarray(array > 0, dtype=np.uint8)
        shown = first_few([f"{value:.4g}" for value in present.tolist()])
        raise CaseError(
            f"{path.name} holds {shown}: not whole values, no label map",
            hint="a probability map has to be cut at a threshold first",
        )
    if float(whole.min()) < 0 or float(whole.max()) > MOST_VALUE:
        raise CaseError(
            f"{path.name} holds values from {float(whole.min()):g} to {float(whole.max()):g}: "
            f"a label holds 0 to {MOST_VALUE}",
            hint="are image and label exchanged?",
        )
    return np.asarray(whole, dtype=np.uint8)


def combine_labels(found: FoundScan, labels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Make one label of those of a scan: each class's file, the raters' majority, or the only one.

    A voxel that two classes' files claim belongs to the one of the lower value: a label map holds
    one class a voxel.
    """
    if found.label_values:
        merged = np.zeros_like(labels[0])
        pairs = zip(found.label_values, labels, strict=True)
        for value, mask in sorted(pairs, key=lambda pair: -pair[0]):
            merged[mask > 0] = value
        return merged
    if len(labels) == 1:
        return labels[0]
    if not found.raters:
        raise CaseError(f"{found.name}: {len(labels)} labels and nothing says whose")

    # A voxel has a value where more than half of the raters gave it that value.
    majority = np.zeros_like(labels[0])
    for value in sorted({int(v) for label in labels for v in np.unique(label) if v}):
        votes = np.sum([label == value for label in labels], axis=0, dtype=np.uint8)
        majority[votes * 2 > len(labels)] = value
    return majority


def recover_voxel_volume_mm3(affine: Affine) -> tuple[float, bool]:
    """Return the volume of a voxel, mm3, and whether a gantry tilt was recovered for it.

    A right-angled affine that is turned about the axis from left to right alone, by no more than a
    gantry tilts, is what ITK's readers write of a tilted series: its slice step is then the
    distance between slice origins, and the volume the header's times the cosine (see `geometry`).
    Everything else keeps its determinant.
    """
    volume = header_voxel_volume_mm3(affine)
    angle = abs(tilt_deg(affine))
    if is_sheared(affine) or not TILTED_FROM_DEG < angle <= _MOST_GANTRY_TILT_DEG:
        return volume, False
    sideways = math.degrees(math.asin(min(1.0, abs(float(slice_normal(affine)[0])))))
    if sideways > _SIDEWAYS_DEG:
        return volume, False
    return volume * math.cos(math.radians(angle)), True


def _check_image(path: Path, image: Volume) -> list[str]:
    """Return what is doubtful about an image; FileFormatError where it is no CT at all."""
    array: NDArray[Any] = image.array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FileFormatError(f"{path.name} holds values that are no numbers (NaN or infinity)")
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise FileFormatError(f"{path.name} is {low:g} everywhere")
    if low >= 0 and high <= MOST_VALUE:
        raise FileFormatError(
            f"{path.name} holds values from {low:g} to {high:g}: a picture or a label, not HU",
            hint="the CT itself is needed; are images and labels exchanged?",
        )

    offset = find_hu_offset(array[::_OFFSET_SAMPLE, ::_OFFSET_SAMPLE, ::_OFFSET_SAMPLE])
    if offset is None:
        return [f"no peaks of air and brain among its values ({low:g} to {high:g}): are they HU?"]
    return [f"its values are {offset} HU too high"] if offset else []


def _mean_dice(labels: Sequence[NDArray[np.uint8]]) -> float:
    """Return the mean Dice of every two raters' foreground; 1 where both drew nothing."""
    masks = [label > 0 for label in labels]
    scores = []
    for n, first in enumerate(masks):
        for second in masks[n + 1 :]:
            both, sizes = np.count_nonzero(first & second), int(first.sum() + second.sum())
            scores.append(2 * both / sizes if sizes else 1.0)
    return float(np.mean(scores)) if scores else 1.0


def find_duplicates(facts: dict[str, ScanFacts]) -> dict[str, str]:
    """Find scans whose image has the very voxels of an earlier one's: scan -> that other scan."""
    first: dict[str, str] = {}
    copies = {}
    for scan in sorted(facts):
        original = first.setdefault(facts[scan].image_hash, scan)
        if original != scan:
            copies[scan] = original
    return copies


def count_values(facts: dict[str, ScanFacts]) -> Counter[int]:
    """Count in how many scans each value of a label stands."""
    return Counter(value for one in facts.values() for value in one.value_voxels)
