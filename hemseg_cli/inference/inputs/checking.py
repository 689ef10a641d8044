"""Check that a scan is a CT of a head in HU: put right what can be, warn, or refuse."""

from dataclasses import replace

import numpy as np

from hemseg_cli.core.errors import CaseError
from hemseg_cli.core.printable import printable
from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.hounsfield import (
    PADDING_HU,
    are_grey_levels,
    find_ceiling,
    find_hu_offset,
)
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.inference.inputs.reading import Scan

_TISSUE_FROM_HU = -200
_SAMPLE = 4
# Peak of one scan from reading to preview, besides the network's windows: measured at
# 512 x 512 x 200.
_BYTES_PER_VOXEL = 24

NO_PEAKS = "no peak of air and brain where Hounsfield units have them: is this a head CT in HU?"
GREY_LEVELS = (
    "the values are grey levels from 0 to 255, no HU: the networks take brain for something else, "
    "and the mask means little; give the scan in HU (DICOM, or NIfTI converted from it)"
)
CLIPPED = (
    "the values end at {ceiling} HU, as in a picture of the brain window: bone, metal and dense "
    "blood look alike there, so that masks, volumes and mean HU are less sure than of a full scan"
)

# A scan of less is predicted and flagged for review: a mask of it says little of the head.
LEAST_SLICES = 8
LEAST_EXTENT_MM = 60.0


def checked_scan(scan: Scan) -> Scan:
    """Return the scan in HU, with a warning for each thing that was put right or looks wrong.

    Voxels that are no number become air; an offset of the values (`find_hu_offset`) is taken off.
    CaseError: mostly no numbers, nothing but air, or more than memory takes.
    """
    _refuse_larger_than_memory(scan)
    warnings: list[str] = [*_extent_warnings(scan.volume)]

    volume = _with_numbers(scan.volume, warnings)
    volume = _in_hu(volume, warnings)
    if not (volume.array > _TISSUE_FROM_HU).any():
        raise CaseError(
            f"nothing but air: values from {volume.array.min():g} to {volume.array.max():g} HU",
            hint="is this a CT in Hounsfield units?",
        )
    # They name files, and go into records and tables, which hold UTF-8 alone.
    said = tuple(printable(warning) for warning in (*scan.warnings, *warnings))
    return replace(scan, volume=volume, warnings=said)


def _with_numbers(volume: Volume, warnings: list[str]) -> Volume:
    if volume.array.dtype.kind != "f":
        return volume
    finite = np.isfinite(volume.array)
    missing = int(finite.size - np.count_nonzero(finite))
    if not missing:
        return volume

    if missing * 2 > finite.size:
        raise CaseError(
            f"{missing} of {finite.size} voxels are not numbers (NaN or infinite)",
            hint="convert or export the scan again",
        )
    warnings.append(f"{missing} voxels are not numbers (NaN or infinite): taken as air")
    air = np.array(PADDING_HU, dtype=volume.array.dtype)
    return Volume(np.where(finite, volume.array, air), volume.affine)


def _in_hu(volume: Volume, warnings: list[str]) -> Volume:
    offset = find_hu_offset(np.asarray(volume.array[::_SAMPLE, ::_SAMPLE]))
    if offset is None:
        grey = are_grey_levels(volume.array)
        warnings.append(GREY_LEVELS if grey else NO_PEAKS)
    if not offset:
        ceiling = find_ceiling(volume.array) if offset == 0 else None
        if ceiling is not None:
            warnings.append(CLIPPED.format(ceiling=ceiling))
        return volume

    warnings.append(
        f"the values look {offset} too high for HU (brain near {offset + 34}): "
        f"{offset} was taken off"
    )
    return Volume(volume.array.astype(np.int32) - offset, volume.affine)


def _extent_warnings(volume: Volume) -> list[str]:
    """Say where a scan is too small to hold a head: a confident zero would mean nothing."""
    slices = min(volume.array.shape)
    steps_mm = spacing_mm(volume.affine)
    extent_mm = min(size * step for size, step in zip(volume.array.shape, steps_mm, strict=True))
    if slices >= LEAST_SLICES and extent_mm >= LEAST_EXTENT_MM:
        return []
    plural = "" if slices == 1 else "s"
    return [f"only {slices} slice{plural} over {extent_mm:.0f} mm: most of a head is missing"]


def _refuse_larger_than_memory(scan: Scan) -> None:
    """Raise CaseError naming the scan, rather than let the system kill the process."""
    import psutil

    array = scan.volume.array
    voxels = array.size
    if scan.uneven is not None:
        voxels = voxels // len(scan.uneven.positions_mm) * scan.uneven.even_count

    needed, free = voxels * _BYTES_PER_VOXEL, psutil.virtual_memory().available
    if needed > free:
        raise CaseError(
            f"a scan of {array.shape} voxels takes {needed / 2**30:.1f} GB of memory, "
            f"and {free / 2**30:.1f} GB are free",
            hint="fewer --workers, or a machine with more memory",
        )
