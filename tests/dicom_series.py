"""Series and segmentations as a test wants them, also those that another tool wrote."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import HemsegError
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.series import Sidecar, read_series
from hemseg_cli.imaging.dicom.stack_checks import Uneven
from hemseg_cli.imaging.dicom.tree import Tree, find_series
from hemseg_cli.imaging.nifti import Volume


def read_series_folder(
    folder: Path, *, uneven: Uneven = "refuse"
) -> list[tuple[str, Volume, Sidecar]]:
    """Read every CT series of a folder or zip as (name, volume, sidecar), by name.

    HemsegError where there is none; CaseError for the first series that cannot be read.
    """
    with Tree(folder) as tree:
        listing = find_series(tree)
        if not listing.series:
            why = (
                ", ".join(sorted({reason for _name, reason in listing.left_out})[:6]) or "no files"
            )
            raise HemsegError(
                f"{folder} holds no CT series ({why})", hint="give a folder or zip of DICOM slices"
            )
        return [
            (series.name, *read_series(tree, series, uneven=uneven)) for series in listing.series
        ]


def read_seg(path: Path) -> tuple[NDArray[np.uint8], list[str], NDArray[np.float64]]:
    """Read a binary SEG of one segment with highdicom.

    Mask [i, j, k], the SOP instance that each k refers to, and its position, LPS mm [k, 3], in
    order along the normal, whatever the order of the frames.
    """
    from highdicom.seg import segread

    with quiet_pydicom():
        segmentation: Any = segread(path)
        pixels = np.atleast_3d(segmentation.pixel_array)
        frames = segmentation.PerFrameFunctionalGroupsSequence
        names = [
            str(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
            for frame in frames
        ]
        positions = np.array(
            [frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames],
            dtype=np.float64,
        )
        shared = segmentation.SharedFunctionalGroupsSequence[0]
        cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)

    order = np.argsort(positions @ np.cross(cosines[:3], cosines[3:]), kind="stable")
    mask = np.ascontiguousarray(pixels[order].transpose(2, 1, 0)).astype(np.uint8)
    return mask, [names[k] for k in order], positions[order]
