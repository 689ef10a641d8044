"""What every DICOM object made from a CT series has in common: headers, identifiers, equipment.

Segmentation, report and document are objects of the source's own study: its Study, Series, SOP
Instance and Frame of Reference UIDs tie them to it. Who the patient is they say only where it was
asked for (`origin.IDENTIFYING`); then all three say the same.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from hemseg_cli import __version__
from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.files import atomic_path
from hemseg_cli.imaging.dicom.elements import quiet_pydicom, reading
from hemseg_cli.imaging.dicom.origin import IDENTIFYING, Algorithm, Identity

MANUFACTURER = "hemseg"
DESCRIPTION = "Hemorrhage (research use only)"
NIFTI_HINT = "--format nifti   writes the mask as NIfTI"

# Elements of the standard's modules that have to stand in our objects, and stay empty.
_EMPTY = (*IDENTIFYING, "ReferringPhysicianName")
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
_OTHERS = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "SOPClassUID",
    "FrameOfReferenceUID",
    "SliceThickness",
)
_LONGEST = 64  # characters of a value of type LO


def source_headers(files: Sequence[Path], identity: Identity) -> list[Dataset]:
    """Read what derived objects take from the slices of a series, in the order of the files.

    Their identifiers are made valid, the elements of the identity are set, every other one is
    empty. FileFormatError names a slice that cannot be read.
    """
    with quiet_pydicom():
        headers = [_source_header(file) for file in files]
        for header in headers:
            for keyword, value in identity.elements.items():
                setattr(header, keyword, value)
        _give_thickness(headers)
    return headers


def valid_uid(identifier: str) -> UID:
    """Return a UID as it is; for an identifier that is none (RSNA's `ID_...`) a constant one."""
    uid = UID(str(identifier))
    return uid if uid.is_valid else generate_uid(entropy_srcs=[str(identifier)])


def seed_of(
    headers: Sequence[Dataset], mask: NDArray[np.uint8], algorithm: Algorithm
) -> tuple[str, ...]:
    """Return what identifiers of objects are made from: the same again for the same content.

    With another patient's name in it an object is another one: an archive that has the first
    would else drop the second.
    """
    # The shape counts too: the same bytes may be a mask of other axes.
    content = hashlib.sha256(str(mask.shape).encode() + np.ascontiguousarray(mask).tobytes())
    first = headers[0]
    return (
        str(first.SeriesInstanceUID),
        algorithm.name,
        algorithm.version,
        algorithm.settings_hash,
        content.hexdigest(),
        *(str(first.get(keyword, "")) for keyword in IDENTIFYING),
    )


def uid_of(*parts: str) -> UID:
    """Return the UID of something that these parts tell from everything else."""
    return generate_uid(entropy_srcs=list(parts))


def software(algorithm: Algorithm) -> str:
    """Name the program and its models, for elements of 64 characters."""
    return f"hemseg {algorithm.name}"[:_LONGEST]


def label_of(label_class: LabelClass, classes: Sequence[LabelClass]) -> str:
    """Return the name of a class; HemSeg's one class is hemorrhage within the brain."""
    if tuple(classes) == HEMORRHAGE_ONLY:
        return "Intracerebral hemorrhage"
    return (label_class.name or label_class.key)[:_LONGEST]


def code_of(label_class: LabelClass, classes: Sequence[LabelClass]) -> Any:
    """Return the SNOMED CT code of a class, hemorrhage where it states none."""
    import highdicom
    from pydicom.sr.codedict import codes

    if tuple(classes) == HEMORRHAGE_ONLY or not label_class.snomed:
        return codes.SCT.Hemorrhage
    return highdicom.sr.CodedConcept(label_class.snomed, "SCT", label_of(label_class, classes))


def save(path: Path, dataset: Dataset) -> None:
    """Write a DICOM object atomically, with the preamble and the meta information of a file."""
    with quiet_pydicom(), atomic_path(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def equipment() -> dict[str, Any]:
    """Return what our objects say of the equipment that made them."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MANUFACTURER,
        "software_versions": __version__,
        "device_serial_number": "0",
    }


def _source_header(file: Path) -> Dataset:
    wanted: list[Any] = [*_GEOMETRY, *_OTHERS]
    with reading(f"{file} cannot be read"):
        read = dcmread(file, specific_tags=wanted, stop_before_pixels=True, force=True)
        found = {keyword: read.get(keyword) for keyword in wanted}

    # Nothing is copied as a whole: each element that goes into an object is named here.
    header = Dataset()
    for keyword in _GEOMETRY:
        if found[keyword] is None:
            raise FileFormatError(f"{file} has no {keyword}", hint=NIFTI_HINT)
        setattr(header, keyword, found[keyword])
    for keyword in _EMPTY:
        setattr(header, keyword, "")

    header.SpecificCharacterSet = "ISO_IR 192"  # what is kept of names is written as UTF-8
    # RSNA's files have identifiers that are no UIDs, and lack some: others are made from them.
    header.StudyInstanceUID = valid_uid(found["StudyInstanceUID"] or "study")
    header.SeriesInstanceUID = valid_uid(found["SeriesInstanceUID"] or "series")
    header.SOPInstanceUID = valid_uid(found["SOPInstanceUID"] or file.name)
    header.SOPClassUID = UID(found["SOPClassUID"] or CTImageStorage)
    header.FrameOfReferenceUID = valid_uid(
        found["FrameOfReferenceUID"] or f"frame of {header.SeriesInstanceUID}"
    )

    # What highdicom asks of a source, whatever the file states.
    header.Modality = "CT"
    header.InstanceNumber = 1
    header.SliceThickness = found["SliceThickness"] or None
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return header


def _give_thickness(headers: Sequence[Dataset]) -> None:
    """Take the mean distance along the normal where slices do not say how thick they are."""
    first, last = (
        np.array(header.ImagePositionPatient, dtype=np.float64)
        for header in (headers[0], headers[-1])
    )
    # The normal of the planes: a tilted gantry moves slices within their planes, too.
    cosines = np.array(headers[0].ImageOrientationPatient, dtype=np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    distance_mm = abs(float(normal @ (last - first))) / max(1, len(headers) - 1)

    for header in headers:
        header.SliceThickness = header.SliceThickness or round(distance_mm, 4) or 1.0
