"""Is this a CT of a head in HU? What can be put right is, and said.

What cannot be predicted is an error.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.inference.inputs.reading import Scan

_AIR_HU = -1024
_TISSUE_FROM_HU = -200
_OFFSET_HU = 1024
_SOFT_HU = (0, 80)
_SOFT_SHARE = 0.04  # of a head CT's voxels have brain's density; a hundredth or less that of dense bone, 1024 above
_SAMPLE = 4
_BYTES_PER_VOXEL = 24  # peak of one scan from reading to preview, besides the network's windows: measured at 512 x 512 x 200


def checked_scan(scan: Scan) -> Scan:
    """The scan in HU, with what there is to say about it.

    Voxels that are no number become air; an offset of 1024 (air at 0) is taken off. CaseError:
    mostly no numbers, nothing but air, or more than memory takes.
    """
    volume, warnings = scan.volume, []
    _refuse_larger_than_memory(volume)
    if volume.array.dtype.kind == "f":
        finite = np.isfinite(volume.array)
        missing = int(finite.size - np.count_nonzero(finite))
        if missing * 2 > finite.size:
            raise CaseError(
                f"{missing} of {finite.size} voxels are not numbers (NaN or infinite)",
                hint="convert or export the scan again",
            )
        if missing:
            volume = Volume(
                np.where(finite, volume.array, np.array(_AIR_HU, dtype=volume.array.dtype)),
                volume.affine,
            )
            warnings.append(f"{missing} voxels are not numbers (NaN or infinite): taken as air")
    sample = np.asarray(volume.array[::_SAMPLE, ::_SAMPLE])
    if float(sample.min()) > _TISSUE_FROM_HU and _share(sample, _SOFT_HU, _OFFSET_HU) > _SOFT_SHARE:
        volume = Volume(volume.array.astype(np.int32) - _OFFSET_HU, volume.affine)
        sample = sample.astype(np.int32) - _OFFSET_HU
        warnings.append(
            f"the values look {_OFFSET_HU} too high for HU (air at 0, brain near 1060): {_OFFSET_HU} was taken off"
        )
    if not (sample > _TISSUE_FROM_HU).any() and not (volume.array > _TISSUE_FROM_HU).any():
        raise CaseError(
            f"nothing but air: values from {volume.array.min():g} to {volume.array.max():g} HU",
            hint="is this a CT in Hounsfield units?",
        )
    return replace(scan, volume=volume, warnings=(*scan.warnings, *warnings))


def _refuse_larger_than_memory(volume: Volume) -> None:
    """Better an error that names the scan than a process that the system kills."""
    import psutil

    needed, free = volume.array.size * _BYTES_PER_VOXEL, psutil.virtual_memory().available
    if needed > free:
        raise CaseError(
            f"a scan of {volume.array.shape} voxels takes {needed / 2**30:.1f} GB of memory, and {free / 2**30:.1f} GB are free",
            hint="fewer --workers, or a machine with more memory",
        )


def _share(sample: NDArray[Any], window: tuple[int, int], offset: int) -> float:
    low, high = window
    return float(np.mean((sample >= low + offset) & (sample <= high + offset)))
