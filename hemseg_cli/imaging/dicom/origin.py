"""Where a derived DICOM object comes from: the software that made it, and the series it is of."""

from dataclasses import dataclass, field

IDENTIFYING = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
"""The elements of a source that our objects repeat with `predict.keep_identity`, empty without.

No other element that may tell who the patient is (referring physician, institution, age, comments,
private tags) is ever read.
"""


@dataclass(frozen=True)
class Algorithm:
    """What made a mask: models, version, and a hash of the checkpoint files and settings."""

    name: str
    version: str
    settings_hash: str


@dataclass(frozen=True)
class Identity:
    """Whose series it is, as its first slice states it.

    `series_uid`: always known ("" of an image file). `elements`: values of `IDENTIFYING`, by
    keyword, where they are kept. `refused`: keywords whose values no DICOM file may hold.
    """

    series_uid: str = ""
    elements: dict[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


UNKNOWN = Identity()
"""Of an image file, which states nothing."""
