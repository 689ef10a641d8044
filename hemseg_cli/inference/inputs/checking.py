"""Is this a CT of a head in HU? What can be put right is, and said.

What cannot be predicted is an error.
"""

from dataclasses import replace

import numpy as np

from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.hounsfield import PADDING_HU, find_hu_offset
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.inference.inputs.reading import Scan

_TISSUE_FROM_HU = -200
_SAMPLE = 4
_BYTES_PER_VOXEL = 24  # peak of one scan from reading to preview, besides the network's windows: measured at 512 x 512 x 200


def checked_scan(scan: Scan) -> Scan:
    """The scan in HU, with what there is to say about it.

    Voxels that are no number become air; an offset of the values (`find_hu_offset`) is taken off. CaseError:
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
                np.where(finite, volume.array, np.array(PADDING_HU, dtype=volume.array.dtype)),
                volume.affine,
            )
            warnings.append(f"{missing} voxels are not numbers (NaN or infinite): taken as air")
    sample = np.asarray(volume.array[::_SAMPLE, ::_SAMPLE])

    offset = find_hu_offset(sample)
    if offset:
        volume = Volume(volume.array.astype(np.int32) - offset, volume.affine)
        sample = sample.astype(np.int32) - offset
        warnings.append(
            f"the values look {offset} too high for HU (brain near {offset + 34}): "
            f"{offset} was taken off"
        )
    elif offset is None:
        warnings.append(
            "no peak of air and brain where Hounsfield units have them: is this a head CT in HU?"
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
