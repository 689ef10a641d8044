"""What a file is, decided by its first bytes: names and suffixes lie, contents do not.

A browser unpacks `.nii.gz` and keeps the name, Windows writes `.NII.GZ`, a PACS exports without any
suffix: `file_kind` answers for all of them, and says of every other file what it is instead.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.bounded_files import BoundedReader, open_regular
from hemseg_cli.imaging.nifti import has_nifti_magic

HEAD_BYTES = 544
"""What `kind_of` needs of a file."""
_DICOM_MAGIC = b"DICM"
_MOST_LABEL_VALUES = 32
_HIGHEST_LABEL_VALUE = 255
_SAMPLE_STEP = 4


class Kind(StrEnum):
    """Name the kinds of files that hold images."""

    DICOM = "dicom"
    NIFTI = "nifti"
    NRRD = "nrrd"
    METAIMAGE = "metaimage"
    ANALYZE = "analyze"
    ZIP = "zip"
    OTHER = "other"


@dataclass(frozen=True)
class FileKind:
    """Hold the kind of a file, and for `Kind.OTHER` the reason why it is left out."""

    kind: Kind
    reason: str = ""

    @property
    def is_volume(self) -> bool:
        """Whether the file is one whole image, which `image_file.read_image` reads."""
        return self.kind in (Kind.NIFTI, Kind.NRRD, Kind.METAIMAGE, Kind.ANALYZE)


_SIGNATURES = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", "a NumPy array, which does not say where its voxels lie"),
    (b"\x89HDF", "an HDF5 file"),
    (b"CDF", "a MINC or NetCDF file"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\xfd7zXZ", "an xz archive: unpack it"),
)
_TAR = FileKind(Kind.OTHER, "a tar archive: unpack it")
_VOXEL_SUFFIXES = (".img", ".img.gz", ".raw", ".zraw", ".raw.gz")
_HEADER_SUFFIXES = (".hdr", ".mhd", ".nhdr", ".hdr.gz")


def file_kind(path: Path) -> FileKind:
    """Tell what a file is by its content; nothing is raised for a file that cannot be read."""
    try:
        with open_regular(path) as file:
            reader = BoundedReader(str(path), file)
            head = reader.head(HEAD_BYTES)
    except FileFormatError as error:
        return FileKind(Kind.OTHER, error.message)

    found = kind_of(head)
    if found.kind is Kind.OTHER and reader.is_packed and found != _TAR:
        return FileKind(Kind.OTHER, "a gzip file of no image")
    if found.kind is Kind.OTHER and (header := _header_beside(path)) is not None:
        return FileKind(Kind.OTHER, f"the voxels of {header.name}, read with it")
    return found


def kind_of(head: bytes) -> FileKind:
    """Tell what a file is by its first bytes, unpacked (544 serve for every kind)."""
    if not head:
        return FileKind(Kind.OTHER, "the file is empty (0 bytes)")
    if looks_like_dicom(head):
        return FileKind(Kind.DICOM)
    if has_nifti_magic(head):
        return FileKind(Kind.NIFTI)
    if head[:4] == b"NRRD":
        return FileKind(Kind.NRRD)
    if _is_metaimage(head):
        return FileKind(Kind.METAIMAGE)
    if _is_analyze(head):
        return FileKind(Kind.ANALYZE)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return FileKind(Kind.ZIP)
    if head[257:262] == b"ustar":
        return _TAR

    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            return FileKind(Kind.OTHER, what)
    return FileKind(Kind.OTHER, "a text file" if _is_text(head) else "no image of a known kind")


def looks_like_dicom(head: bytes) -> bool:
    """Tell whether a file that begins with `head` (132 bytes or more) is DICOM.

    By its magic, or without preamble: meta information or a bare data set, which begin in group
    0002 or 0008.
    """
    if head[128:132] == _DICOM_MAGIC:
        return True
    return head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00"


def is_label_map(array: NDArray[Any]) -> bool:
    """Tell whether an image holds labels, not CT numbers.

    A few whole numbers from 0 to 255, most of them 0: a CT has air below 0, or thousands of
    values. An array of zeros alone is a label map too, of nothing.
    """
    # The sample alone refuses nearly every CT, without a look at all of its voxels.
    sample = array[::_SAMPLE_STEP, ::_SAMPLE_STEP]
    return all(_has_few_values(part) for part in (sample, array))


def _has_few_values(array: NDArray[Any]) -> bool:
    flat = array.ravel(order="K")
    if not flat.size or flat.min() < 0 or flat.max() > _HIGHEST_LABEL_VALUE:
        return False
    values = np.unique(flat)
    whole = bool(np.all(values == np.rint(values)))
    most_are_zero = bool(np.count_nonzero(flat) * 2 <= flat.size)
    return whole and len(values) <= _MOST_LABEL_VALUES and most_are_zero


def _is_metaimage(head: bytes) -> bool:
    return any(
        line.split(b"=")[0].strip() in (b"ObjectType", b"NDims")
        for line in head.split(b"\n")[:8]
        if b"=" in line
    )


def _is_analyze(head: bytes) -> bool:
    """Tell an Analyze 7.5 header, 348 bytes by its first number, or that of a NIfTI pair."""
    is_pair = head[344:348] in (b"ni1\0",) or head[4:8] == b"ni2\0"
    if is_pair:
        return True

    # Its only other certain field is the number of dimensions, 1 to 7, in the same byte order.
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    return any(
        int.from_bytes(head[:4], order) == 348 and 1 <= int.from_bytes(head[40:42], order) <= 7
        for order in orders
    )


def _is_text(head: bytes) -> bool:
    try:
        text = head[:256].decode("utf-8", "strict" if len(head) <= 256 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\r\n\t" for letter in text)


def _header_beside(path: Path) -> Path | None:
    """Return the header file of the same name, where this is the file of its voxels."""
    name = path.name
    suffix = next((s for s in _VOXEL_SUFFIXES if name.lower().endswith(s)), None)
    if suffix is None:
        return None
    stem = name[: -len(suffix)]
    beside = (path.with_name(stem + header) for header in _HEADER_SUFFIXES)
    return next((header for header in beside if header.is_file()), None)
