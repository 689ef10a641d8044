"""Write a document as an encapsulated PDF of the study that it is about (PS3.3 A.45.1)."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from hemseg_cli import __version__
from hemseg_cli.imaging.dicom.derived import DESCRIPTION, MANUFACTURER, save, uid_of
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.origin import IDENTIFYING

SERIES_NUMBER = 902


def write_pdf(
    path: Path, document: bytes, headers: Sequence[Dataset], *, title: str, seed: Sequence[str]
) -> None:
    """Write the PDF `document` as a DICOM object of the study of `headers`.

    `headers`: of `derived.source_headers`. `seed`: what the identifiers are made from (`seed_of`).
    """
    with quiet_pydicom():
        dataset = _document(document, headers, title, seed)
    save(path, dataset)


def _document(
    document: bytes, headers: Sequence[Dataset], title: str, seed: Sequence[str]
) -> Dataset:
    first = headers[0]
    dataset = Dataset()

    # SOP common and file meta information.
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = EncapsulatedPDFStorage
    dataset.SOPInstanceUID = uid_of("document", *seed)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian

    # Patient and study, as the source's headers have them.
    for keyword in (*IDENTIFYING, "ReferringPhysicianName", "StudyInstanceUID"):
        setattr(dataset, keyword, getattr(first, keyword))

    # Series and equipment.
    dataset.Modality = "DOC"
    dataset.SeriesInstanceUID = uid_of("document series", *seed)
    dataset.SeriesNumber = SERIES_NUMBER
    dataset.SeriesDescription = DESCRIPTION
    dataset.ConversionType = "SYN"
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MANUFACTURER
    dataset.SoftwareVersions = __version__

    # The document: nobody's name is in its picture, and it says where it comes from.
    now = datetime.datetime.now()
    dataset.InstanceNumber = 1
    dataset.ContentDate = now.strftime("%Y%m%d")
    dataset.ContentTime = now.strftime("%H%M%S")
    dataset.AcquisitionDateTime = ""
    dataset.BurnedInAnnotation = "NO"
    dataset.DocumentTitle = title
    dataset.ConceptNameCodeSequence = []
    dataset.SourceInstanceSequence = [_reference(header) for header in headers]
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    dataset.EncapsulatedDocumentLength = len(document)
    return dataset


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item
