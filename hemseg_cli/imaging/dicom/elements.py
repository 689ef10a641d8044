"""DICOM elements: the few that are ever looked at, parsed from a file's bytes and checked.

Header values are taken as the raw bytes that pydicom found, so that nothing is converted (and
nothing is warned about) that is not asked for. None of the elements holds a name, a birth date or
an institution; the patient's id serves to keep patients apart and goes into no output.
"""

import contextlib
import io
import math
import warnings
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.file_kind import looks_like_dicom

TAGS = {
    "image_type": 0x00080008,
    "modality": 0x00080060,
    "patient": 0x00100020,
    "kernel": 0x00181210,
    "study": 0x0020000D,
    "series": 0x0020000E,
    "series_number": 0x00200011,
    "acquisition": 0x00200012,
    "position": 0x00200032,
    "orientation": 0x00200037,
    "temporal": 0x00200100,
    "samples": 0x00280002,
    "photometric": 0x00280004,
    "planar": 0x00280006,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "spacing": 0x00280030,
    "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101,
    "high_bit": 0x00280102,
    "signed": 0x00280103,
    "padding": 0x00280120,
    "padding_limit": 0x00280121,
    "intercept": 0x00281052,
    "slope": 0x00281053,
    "shared_groups": 0x52009229,
    "frame_groups": 0x52009230,
    "pixels": 0x7FE00010,
}
TAG_LIST: list[Any] = list(TAGS.values())

HEAD_BYTES = 132
"""From so many bytes `looks_like_dicom` can tell."""

_MAGIC = b"DICM"
_HEADER_BYTES = 16 * 1024  # longer than a slice's header, but for the rare one
_META_BYTES = 1024  # longer than a file's meta information
_PIXEL_TAG_LITTLE, _PIXEL_TAG_BIG = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_DEFLATED_UID, _EXPLICIT_UID = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
_MOST_INFLATED_BYTES = 256 * 2**20  # a slice of 8192 x 8192 pixels of 32 bits
_DEFLATED_HEADER_BYTES = 2**20


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's own warnings.

    The RSNA files carry `ID_...` where a UID belongs, and a warning quotes the header value.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")
        yield


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever pydicom and its codecs raise on damaged bytes into FileFormatError.

    The border between a stranger's bytes and this project. Fuzzing has met sixteen types here,
    from `struct.error` to `RecursionError`, and a codec may add its own: so every one is caught,
    around single calls into the library and nothing of ours.
    """
    try:
        yield
    except FileFormatError:
        raise
    except Exception as error:
        raise FileFormatError(f"{what} ({type(error).__name__})") from None


def parse(data: bytes) -> tuple[FileDataset, memoryview | None]:
    """Parse the elements of `TAGS` of one file; FileFormatError where it is not a DICOM file.

    Pixels that are not compressed are returned beside them as a view of the bytes: nothing is
    copied. Else None: the data set holds them.
    """
    if not data:
        raise FileFormatError("the file is empty (0 bytes)")
    if not looks_like_dicom(data[:HEAD_BYTES]):
        raise FileFormatError("not a DICOM file")
    data = _inflated(data, _MOST_INFLATED_BYTES)

    # The header alone, from as little as possible: what lies behind the pixels is never parsed.
    for size in (_HEADER_BYTES, len(data)):
        # Cut in the middle of an element the first may fail, where the second does not.
        with contextlib.suppress(FileFormatError), reading("unreadable DICOM"):
            dataset, end = _parse_head(data[:size])
            pixels = _pixels_at(dataset, data, end) if end < len(data) else None
            if pixels is not None:
                return dataset, pixels

    with reading("unreadable DICOM"):
        return _read(io.BytesIO(data)), None


def read_head(file: BinaryIO) -> FileDataset:
    """Parse everything before the pixels; FileFormatError with a reason that quotes nothing."""
    head = file.read(_META_BYTES)
    if not head:
        raise FileFormatError("the file is empty (0 bytes)")
    if not looks_like_dicom(head):
        raise FileFormatError("not a DICOM file")

    if _is_deflated(head):
        rest = file.read(_DEFLATED_HEADER_BYTES)
        inflated = _inflated(head + rest, _DEFLATED_HEADER_BYTES, whole=False)
        with reading("unreadable"):
            return _parse_head(inflated)[0]

    file.seek(0)
    with reading("unreadable"):
        return _read(file, stop_before_pixels=True)


def text_value(dataset: FileDataset, key: str) -> str:
    """Return an element of `TAGS` as stripped ASCII text, empty where it is missing or no text."""
    return raw_value(dataset, key).strip(b" \0").decode("ascii", "replace")


def raw_value(dataset: FileDataset, key: str) -> bytes:
    """Return the bytes of an element of `TAGS`, empty where it is missing."""
    element = dataset.get_item(TAGS[key])
    value = element.value if isinstance(element, RawDataElement) else None
    return value if isinstance(value, bytes) else b""


def numbers(dataset: FileDataset, key: str, count: int, what: str) -> list[float]:
    """Return `count` finite numbers of a decimal string; FileFormatError names `what` otherwise."""
    raw = raw_value(dataset, key).strip(b" \0")
    if not raw:
        raise FileFormatError(f"no {what}")
    try:
        values = [float(part) for part in raw.split(b"\\")]
    except ValueError:
        raise FileFormatError(f"{what} is not a number") from None

    if len(values) != count:
        raise FileFormatError(f"{what} has {len(values)} values, not {count}")
    if not all(map(math.isfinite, values)):
        raise FileFormatError(f"{what} is not finite")
    return values


def unsigned(dataset: FileDataset, key: str) -> int | None:
    """Return a 16-bit unsigned element, None where it is missing."""
    raw = raw_value(dataset, key)
    if len(raw) < 2:
        return None
    return int.from_bytes(raw[:2], "little" if is_little_endian(dataset) else "big")


def is_little_endian(dataset: FileDataset) -> bool:
    """Tell the byte order of a file's elements and pixels."""
    return dataset.original_encoding[1] is not False


def _read(file: BinaryIO, *, stop_before_pixels: bool = False) -> FileDataset:
    start = file.read(HEAD_BYTES)
    file.seek(0)
    return dcmread(
        file,
        specific_tags=TAG_LIST,
        stop_before_pixels=stop_before_pixels,
        force=start[128:] != _MAGIC,
    )


def _parse_head(head: bytes) -> tuple[FileDataset, int]:
    file = io.BytesIO(head)
    return _read(file, stop_before_pixels=True), file.tell()


def _pixels_at(dataset: FileDataset, data: bytes, at: int) -> memoryview | None:
    """Return the value of the PixelData element that begins at this byte.

    None where none does, or its length is not defined.
    """
    implicit, little = dataset.original_encoding
    order: Literal["little", "big"] = "little" if little else "big"
    if data[at : at + 4] != (_PIXEL_TAG_LITTLE if little else _PIXEL_TAG_BIG):
        return None
    if not implicit and data[at + 4 : at + 6] not in (b"OW", b"OB"):
        return None

    # PS3.5 7.1: tag and length; or tag, VR, two reserved bytes and length.
    start = at + (8 if implicit else 12)
    length = int.from_bytes(data[start - 4 : start], order)
    return None if length == _UNDEFINED_LENGTH else memoryview(data)[start : start + length]


def _is_deflated(data: bytes) -> bool:
    return data[128:132] == _MAGIC and _DEFLATED_UID in data[HEAD_BYTES:_META_BYTES]


def _inflated(data: bytes, most_bytes: int, *, whole: bool = True) -> bytes:
    """Return a file of the deflated transfer syntax (PS3.5 A.5) as one that is not, else as it is.

    FileFormatError where it is damaged or inflates to more than `most_bytes`; not `whole`: the
    first `most_bytes` serve.
    """
    if not _is_deflated(data):
        return data

    # PS3.10 7.1: the meta information is never deflated, and its first element tells its length.
    meta_end = HEAD_BYTES + 12 + int.from_bytes(data[HEAD_BYTES + 8 : HEAD_BYTES + 12], "little")
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    with reading("damaged deflated DICOM"):
        body = stream.decompress(data[meta_end:], most_bytes)
        if whole and stream.unconsumed_tail:
            raise FileFormatError(f"inflates to more than {most_bytes:,} bytes")
        if whole and not stream.eof:
            raise FileFormatError("deflated DICOM is cut off")

    meta = data[:meta_end].replace(_DEFLATED_UID, _EXPLICIT_UID)
    return meta + body
