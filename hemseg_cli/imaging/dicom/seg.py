"""Write a mask as a DICOM segmentation that refers to the slices it was made from (PS3.3 A.51).

Every frame carries its slice's own position and orientation, so the shear of a tilted gantry is
kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass
from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.dicom.derived import (
    DESCRIPTION,
    NIFTI_HINT,
    code_of,
    equipment,
    label_of,
    save,
    seed_of,
    software,
    uid_of,
)
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.origin import Algorithm

SERIES_NUMBER = 900


def write_seg(
    path: Path,
    mask: NDArray[np.uint8],
    headers: Sequence[Dataset],
    *,
    algorithm: Algorithm,
    classes: Sequence[LabelClass] = HEMORRHAGE_ONLY,
) -> None:
    """Write the mask [i, j, k] of the series whose k-th slice has the header `headers[k]`.

    `mask` holds the values of `classes`: one segment each, numbered from 1 in their order.
    `headers`: of `derived.source_headers`. The same mask of the same series gives the same
    identifiers. CaseError where mask and slices do not fit.
    """
    if mask.shape[2] != len(headers):
        raise CaseError(
            f"the mask has {mask.shape[2]} slices, the series {len(headers)}", hint=NIFTI_HINT
        )
    # Frames stand slice by slice, their rows first.
    frames = np.ascontiguousarray(_segment_numbers(mask, classes).transpose(2, 1, 0))
    size = (headers[0].Rows, headers[0].Columns)
    if frames.shape[1:] != size:
        raise CaseError(f"the mask is {frames.shape[1:]}, the slices {size}", hint=NIFTI_HINT)

    with quiet_pydicom():
        segmentation = _segmentation(frames, headers, algorithm, classes)
        segmentation.ContentCreatorName = ""  # type 2: there, and empty where no person drew it
    save(path, segmentation)


def _segment_numbers(mask: NDArray[np.uint8], classes: Sequence[LabelClass]) -> NDArray[np.uint8]:
    """Replace the values of the classes by the numbers of their segments."""
    number_of = np.zeros(256, dtype=np.uint8)
    for number, each in enumerate(classes, start=1):
        number_of[each.value] = number
    return np.asarray(number_of[mask])


def _segmentation(
    frames: NDArray[np.uint8],
    headers: Sequence[Dataset],
    algorithm: Algorithm,
    classes: Sequence[LabelClass],
) -> Any:
    from highdicom.seg import Segmentation  # slow to import

    seed = seed_of(headers, frames, algorithm)
    return Segmentation(
        source_images=list(headers),
        pixel_array=frames,
        segmentation_type="BINARY",
        segment_descriptions=[
            _description(number, each, classes, algorithm, seed)
            for number, each in enumerate(classes, start=1)
        ],
        series_instance_uid=uid_of("series", *seed),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid_of("instance", *seed),
        instance_number=1,
        # An empty frame stays: a slice without hemorrhage was looked at, too.
        omit_empty_frames=False,
        series_description=DESCRIPTION,
        **equipment(),
    )


def _description(
    number: int,
    label_class: LabelClass,
    classes: Sequence[LabelClass],
    algorithm: Algorithm,
    seed: tuple[str, ...],
) -> Any:
    """Describe one segment: name, code, colour, what made it, and the id that it is tracked by."""
    import highdicom
    from highdicom.color import CIELabColor
    from pydicom.sr.codedict import codes

    label = label_of(label_class, classes)
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=code_of(label_class, classes),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=software(algorithm),
            family=codes.DCM.ArtificialIntelligence,
            version=algorithm.version,
            source="hemseg",
            parameters={"model_and_settings_sha256": algorithm.settings_hash},
        ),
        tracking_uid=uid_of("segment", label_class.key, *seed),
        tracking_id=label,
        display_color=CIELabColor.from_rgb(*label_class.colour),
    )
