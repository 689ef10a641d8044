"""Read whose a series is from one of its slices: its UID, and with leave the patient's elements."""

from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.valuerep import validate_value

from hemseg_cli.imaging.dicom.elements import quiet_pydicom, reading
from hemseg_cli.imaging.dicom.origin import IDENTIFYING, Identity

_SEXES = ("M", "F", "O")
_UID = "SeriesInstanceUID"
_MOST_UID_CHARACTERS = 64


def read_identity(file: BinaryIO, *, keep: bool) -> Identity:
    """Read the identity of the series that a slice belongs to; FileFormatError if it cannot be.

    Not `keep`: nothing but the series UID is taken from the file.
    """
    wanted = (_UID, *IDENTIFYING) if keep else (_UID,)
    with quiet_pydicom(), reading("its header cannot be read"):
        header = dcmread(file, specific_tags=list(wanted), stop_before_pixels=True, force=True)
        values = {keyword: _text(header, keyword) for keyword in wanted}

    series_uid = (values.pop(_UID) or "")[:_MOST_UID_CHARACTERS]
    refused = tuple(key for key, value in values.items() if value is None)
    return Identity(series_uid, {key: value for key, value in values.items() if value}, refused)


def _text(header: Dataset, keyword: str) -> str | None:
    """The value of an element, "" where it is missing, None where the standard forbids it."""
    value = header.get(keyword)
    if value is None:
        return ""
    if isinstance(value, MultiValue):
        return None  # each of these elements has one value

    text = str(value).strip(" \0")
    if keyword == "PatientSex":
        return text if text in ("", *_SEXES) else None
    # RSNA's ID_... is no UID, and is shown as it is: our objects give it a valid one.
    if keyword == _UID:
        return text
    try:
        validate_value(dictionary_VR(keyword), text, RAISE)
    except ValueError:
        return None
    return text
