"""Write a mask as a DICOM segmentation that refers to the slices it was made from (PS3.3 A.51).

Every frame carries its slice's own position and orientation, so the shear of a tilted gantry is
kept. Of the source's header only the identifiers that tie the object to its study are taken over:
no name, birth date or institution.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from hemseg_cli import __version__
from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass
from hemseg_cli.core.errors import CaseError, FileFormatError, HemsegError
from hemseg_cli.core.files import atomic_path
from hemseg_cli.imaging.dicom.elements import quiet_pydicom

INSTALL_HINT = "pip install 'hemseg[dicom]'"
_HINT = "--format nifti   writes the mask as NIfTI"
_TYPE_2 = (
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")


def require_highdicom() -> None:
    """Raise HemsegError naming what to install, where highdicom is not there."""
    import importlib.util

    if importlib.util.find_spec("highdicom") is None:
        raise HemsegError("--format dicom-seg needs highdicom", hint=INSTALL_HINT)


def write_seg(
    path: Path,
    mask: NDArray[np.uint8],
    slices: Sequence[Path],
    *,
    model: str,
    classes: Sequence[LabelClass] = HEMORRHAGE_ONLY,
) -> None:
    """Write the mask [i, j, k] of the series whose k-th slice is the file `slices[k]`, atomically.

    `mask` holds the values of `classes`: one segment each, numbered from 1 in their order. `model`:
    the name of what made it, for the description. The same mask of the same files gives the same
    identifiers. Raises CaseError where mask and slices do not fit, HemsegError without the extra,
    FileFormatError naming a slice that cannot be read.
    """
    require_highdicom()
    if mask.shape[2] != len(slices):
        raise CaseError(
            f"the mask has {mask.shape[2]} slices, the series {len(slices)}", hint=_HINT
        )
    with quiet_pydicom():
        sources = [_source(file) for file in slices]
        _give_thickness(sources)
        frames = np.ascontiguousarray(_segment_numbers(mask, classes).transpose(2, 1, 0))
        if frames.shape[1:] != (sources[0].Rows, sources[0].Columns):
            raise CaseError(
                f"the mask is {frames.shape[1:]}, the slices "
                f"{(sources[0].Rows, sources[0].Columns)}",
                hint=_HINT,
            )
        segmentation = _segmentation(frames, sources, model, classes)
        with atomic_path(path) as temporary:
            segmentation.save_as(temporary, enforce_file_format=True)


def valid_uid(identifier: str) -> UID:
    """Return a UID as it is; for an identifier that is none (RSNA's `ID_...`) a constant one."""
    uid = UID(str(identifier))
    return uid if uid.is_valid else generate_uid(entropy_srcs=[str(identifier)])


def _source(file: Path) -> Dataset:
    """Read the header of a slice, with what a SEG must take from it.

    Identifiers made valid, the rest blank.
    """
    try:
        read = dcmread(file, stop_before_pixels=True, force=True)
    except (InvalidDicomError, OSError, ValueError) as error:
        raise FileFormatError(f"{file} cannot be read: {error}") from None
    header = Dataset()
    for keyword in _GEOMETRY:
        if keyword not in read:
            raise FileFormatError(f"{file} has no {keyword}", hint=_HINT)
        setattr(header, keyword, getattr(read, keyword))
    for keyword in _TYPE_2:
        setattr(header, keyword, "")
    header.PatientID = str(read.get("PatientID", ""))
    header.StudyInstanceUID = valid_uid(read.get("StudyInstanceUID", "study"))
    header.SeriesInstanceUID = valid_uid(read.get("SeriesInstanceUID", "series"))
    header.SOPInstanceUID = valid_uid(read.get("SOPInstanceUID", file.name))
    header.SOPClassUID = UID(read.get("SOPClassUID", CTImageStorage))
    header.FrameOfReferenceUID = valid_uid(
        read.get("FrameOfReferenceUID", f"frame of {header.SeriesInstanceUID}")
    )
    header.Modality = "CT"
    header.InstanceNumber = 1
    header.SliceThickness = read.get("SliceThickness") or None
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return header


def _normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    row, column = np.array(orientation, dtype=np.float64).reshape(2, 3)
    return np.asarray(np.cross(row, column))


def _give_thickness(sources: Sequence[Dataset]) -> None:
    """Take the distance along the normal where the slices do not say how thick they are."""
    first, last = (
        np.array(source.ImagePositionPatient, dtype=np.float64)
        for source in (sources[0], sources[-1])
    )
    distance_mm = abs(float(_normal(sources[0].ImageOrientationPatient) @ (last - first))) / max(
        1, len(sources) - 1
    )
    for source in sources:
        source.SliceThickness = source.SliceThickness or round(distance_mm, 4) or 1.0


def _segment_numbers(mask: NDArray[np.uint8], classes: Sequence[LabelClass]) -> NDArray[np.uint8]:
    """Replace the values of the classes by the numbers of their segments."""
    number_of = np.zeros(256, dtype=np.uint8)
    for number, each in enumerate(classes, start=1):
        number_of[each.value] = number
    return np.asarray(number_of[mask])


def _description(number: int, label_class: LabelClass, model: str, *, alone: bool) -> Any:
    """Describe one segment; the one class of a mask without classes is hemorrhage."""
    import highdicom
    from highdicom.color import CIELabColor
    from pydicom.sr.codedict import codes

    kind, label = codes.SCT.Hemorrhage, "Intracerebral hemorrhage"
    if not alone:
        label = (label_class.name or label_class.key)[:64]
        if label_class.snomed:
            kind = highdicom.sr.CodedConcept(label_class.snomed, "SCT", label)
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=f"hemseg {model}"[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=__version__,
        ),
        display_color=CIELabColor.from_rgb(*label_class.colour),
    )


def _segmentation(
    frames: NDArray[np.uint8],
    sources: Sequence[Dataset],
    model: str,
    classes: Sequence[LabelClass],
) -> Any:
    from highdicom.seg import Segmentation

    alone = tuple(classes) == HEMORRHAGE_ONLY
    descriptions = [
        _description(number, each, model, alone=alone) for number, each in enumerate(classes, 1)
    ]
    seed = [
        sources[0].SeriesInstanceUID,
        model,
        frames.tobytes().hex()[:4096],
        str(int(frames.sum())),
    ]
    return Segmentation(
        source_images=list(sources),
        pixel_array=frames,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(entropy_srcs=["series", *seed]),
        series_number=900,
        sop_instance_uid=generate_uid(entropy_srcs=["instance", *seed]),
        instance_number=1,
        manufacturer="hemseg",
        manufacturer_model_name="hemseg",
        software_versions=__version__,
        device_serial_number="0",
        omit_empty_frames=False,
        series_description="Hemorrhage (research use only)",
    )
