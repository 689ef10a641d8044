"""One DICOM slice: what the converter needs of its header, checked, and its stored pixels.

Header values are taken as the raw bytes that pydicom found, so that nothing is converted (and
nothing is warned about) that is not asked for: only the elements listed here are ever looked at,
and none of them holds a name, a birth date or an institution.
"""

import contextlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from hemseg_cli.core.errors import FileFormatError

TAGS = {
    "image_type": 0x00080008,
    "modality": 0x00080060,
    "series": 0x0020000E,
    "series_number": 0x00200011,
    "position": 0x00200032,
    "orientation": 0x00200037,
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
    "pixels": 0x7FE00010,
}
TAG_LIST: list[Any] = list(TAGS.values())
_MAGIC = b"DICM"
_HEADER_BYTES = 16 * 1024
"""A slice's header is shorter than this, but for the rare one: that is parsed as a whole."""
_PIXEL_TAG_LITTLE, _PIXEL_TAG_BIG = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_FARTHEST_MM = 10_000.0
_LARGEST_SIDE = 8192
_UNIT_TOLERANCE = 1e-3

# What pydicom and its codecs raise on damaged bytes, each seen in fuzzing or in their source; a bug
# of ours is none of them for long: everything they guard is a single call into the library.
DAMAGE = (
    InvalidDicomError,
    BytesLengthException,
    struct.error,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    RuntimeError,
    MemoryError,
)


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice. Positions and cosines are LPS.

    `spacing_mm` is (between rows, between columns) as DICOM orders it.
    """

    name: str
    rows: int
    columns: int
    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None
    stored: NDArray[Any]
    """Stored pixel values [rows, columns], not rescaled."""

    @property
    def wraps(self) -> bool:
        """Whether values below zero were wrapped to 12 unsigned bits.

        No intercept leaves room for air (RSNA-2019, see `hounsfield`).
        """
        return self.bits_stored == 12 and not self.signed and self.intercept > -100


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's own warnings.

    The RSNA files carry `ID_...` where a UID belongs, and a warning quotes the header value.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")
        yield


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` (132 bytes or more) is DICOM.

    By its magic, or a bare data set that begins in group 0008.
    """
    return head[128:132] == _MAGIC or (head[:2] == b"\x08\x00" and head[3:4] == b"\x00")


def read_slice(data: bytes, name: str) -> Slice:
    """Parse one file's bytes. Raises FileFormatError saying what is wrong, without the name.

    The caller names the slices.

    Call it inside `quiet_pydicom`.
    """
    dataset, pixels = parse(data)
    rows, columns = _size(dataset)
    position, orientation, spacing = _placement(dataset)
    slope, intercept = (
        _numbers(dataset, key, 1, f"rescale {key}")[0] for key in ("slope", "intercept")
    )
    if slope == 0:
        raise FileFormatError("rescale slope is 0")
    allocated, stored_bits = _unsigned(dataset, "bits_allocated"), _unsigned(dataset, "bits_stored")
    signed = _unsigned(dataset, "signed") == 1
    if allocated not in (8, 16, 32) or stored_bits is None or not 0 < stored_bits <= allocated:
        raise FileFormatError(f"bits allocated {allocated}, stored {stored_bits}: not 8, 16 or 32")
    return Slice(
        name=name,
        rows=rows,
        columns=columns,
        position_mm=(position[0], position[1], position[2]),
        orientation=(
            orientation[0],
            orientation[1],
            orientation[2],
            orientation[3],
            orientation[4],
            orientation[5],
        ),
        spacing_mm=(spacing[0], spacing[1]),
        slope=slope,
        intercept=intercept,
        bits_stored=stored_bits,
        signed=signed,
        padding=_padding(dataset, signed),
        stored=_stored_pixels(dataset, pixels, rows, columns, allocated // 8, signed),
    )


def parse(data: bytes) -> tuple[FileDataset, memoryview | None]:
    """The elements of TAGS of one file; FileFormatError where the bytes are not a DICOM file.

    Pixels that are not compressed are returned beside them as a view of `data`: nothing is copied.
    Else None: the data set holds them.
    """
    if not data:
        raise FileFormatError("the file is empty (0 bytes)")
    if not looks_like_dicom(data[:132]):
        raise FileFormatError("not a DICOM file")
    try:
        if len(data) > _HEADER_BYTES:
            dataset, end = _parse_head(data[:_HEADER_BYTES], data)
            pixels = _pixels_at(dataset, data, end) if end < _HEADER_BYTES else None
            if pixels is not None:
                return dataset, pixels
        return dcmread(
            io.BytesIO(data), specific_tags=TAG_LIST, force=data[128:132] != _MAGIC
        ), None
    except DAMAGE as error:
        raise FileFormatError(f"unreadable DICOM ({type(error).__name__})") from None


def _parse_head(head: bytes, data: bytes) -> tuple[FileDataset, int]:
    file = io.BytesIO(head)
    dataset = dcmread(
        file, specific_tags=TAG_LIST, stop_before_pixels=True, force=data[128:132] != _MAGIC
    )
    return dataset, file.tell()


def _pixels_at(dataset: FileDataset, data: bytes, at: int) -> memoryview | None:
    """The value of the PixelData element that begins at this byte.

    None where none does, or its length is not defined.
    """
    implicit, little = dataset.original_encoding
    order: Literal["little", "big"] = "little" if little else "big"
    if data[at : at + 4] != (_PIXEL_TAG_LITTLE if little else _PIXEL_TAG_BIG):
        return None
    if not implicit and data[at + 4 : at + 6] not in (b"OW", b"OB"):
        return None
    start = at + (
        8 if implicit else 12
    )  # PS3.5 7.1: tag, length; or tag, VR, two reserved bytes, length
    length = int.from_bytes(data[start - 4 : start], order)
    return None if length == _UNDEFINED_LENGTH else memoryview(data)[start : start + length]


def text_value(dataset: FileDataset, key: str) -> str:
    """An element of TAGS as stripped ASCII text, empty where it is missing or not text."""
    return _raw(dataset, key).strip(b" \0").decode("ascii", "replace")


def _size(dataset: FileDataset) -> tuple[int, int]:
    frames = text_value(dataset, "frames")
    if frames not in ("", "1"):
        raise FileFormatError(
            f"a multi-frame object ({frames[:12]} frames): only single-slice CT images are read"
        )
    rows, columns = _unsigned(dataset, "rows"), _unsigned(dataset, "columns")
    if not rows or not columns:
        raise FileFormatError("no image size (Rows, Columns)")
    if max(rows, columns) > _LARGEST_SIDE:
        raise FileFormatError(f"image size {columns} x {rows} is absurd")
    samples, photometric = _unsigned(dataset, "samples"), text_value(dataset, "photometric")
    if samples not in (None, 1) or photometric not in ("", "MONOCHROME2"):
        raise FileFormatError(
            f"not a plain grayscale image (photometric interpretation {photometric[:16]!r}, {samples} samples)"
        )
    return rows, columns


def _placement(dataset: FileDataset) -> tuple[list[float], list[float], list[float]]:
    position = _numbers(dataset, "position", 3, "position (ImagePositionPatient)")
    if max(map(abs, position)) > _FARTHEST_MM:
        raise FileFormatError(f"absurd position {position} mm")
    cosines = _numbers(dataset, "orientation", 6, "orientation (ImageOrientationPatient)")
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    if (
        abs(row @ row - 1) > _UNIT_TOLERANCE
        or abs(column @ column - 1) > _UNIT_TOLERANCE
        or abs(row @ column) > _UNIT_TOLERANCE
    ):
        raise FileFormatError(f"orientation {cosines} is not two perpendicular unit vectors")
    spacing = _numbers(dataset, "spacing", 2, "spacing (PixelSpacing)")
    if not all(0.01 <= step <= 100 for step in spacing):
        raise FileFormatError(f"absurd pixel spacing {spacing} mm")
    return position, cosines, spacing


def _raw(dataset: FileDataset, key: str) -> bytes:
    element = dataset.get_item(TAGS[key])
    value = element.value if isinstance(element, RawDataElement) else None
    return value if isinstance(value, bytes) else b""


def _numbers(dataset: FileDataset, key: str, count: int, what: str) -> list[float]:
    raw = _raw(dataset, key).strip(b" \0")
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


def _unsigned(dataset: FileDataset, key: str) -> int | None:
    raw = _raw(dataset, key)
    return (
        int.from_bytes(raw[:2], "little" if _is_little_endian(dataset) else "big")
        if len(raw) >= 2
        else None
    )


def _padding(dataset: FileDataset, signed: bool) -> tuple[int, int] | None:
    """The range of stored values that mean "no data" (PS3.3 C.7.5.1.1.2), None where none is declared."""
    value = _unsigned(dataset, "padding")
    if value is None:
        return None
    limit = _unsigned(dataset, "padding_limit")
    ends = [
        end - 65536 if signed and end > 32767 else end
        for end in (value, value if limit is None else limit)
    ]
    return min(ends), max(ends)


def _is_little_endian(dataset: FileDataset) -> bool:
    return dataset.original_encoding[1] is not False


def _stored_pixels(
    dataset: FileDataset,
    pixels: memoryview | None,
    rows: int,
    columns: int,
    size: int,
    signed: bool,
) -> NDArray[Any]:
    """The stored values [rows, columns].

    A read-only view of the file's bytes where they are not compressed.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID", "")
    if (
        isinstance(syntax, UID)
        and syntax.is_valid
        and syntax.is_transfer_syntax
        and syntax.is_encapsulated
    ):
        return _decoded(dataset, syntax, rows, columns)
    raw = _raw(dataset, "pixels") if pixels is None else pixels
    expected = rows * columns * size
    if not raw:
        raise FileFormatError("no pixel data")
    if len(raw) < expected:
        raise FileFormatError(f"pixel data is short: {len(raw)} of {expected} bytes")
    if len(raw) > expected + expected % 2:
        raise FileFormatError(f"pixel data is long: {len(raw)} bytes, {expected} expected")
    kind = np.dtype(f"{'<' if _is_little_endian(dataset) else '>'}{'i' if signed else 'u'}{size}")
    return np.frombuffer(raw, dtype=kind, count=rows * columns).reshape(rows, columns)


def _decoded(dataset: FileDataset, syntax: UID, rows: int, columns: int) -> NDArray[Any]:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise FileFormatError(f"transfer syntax {syntax.name} ({syntax}) cannot be read") from None
    if not available:
        raise FileFormatError(
            f"no codec for transfer syntax {syntax.name} ({syntax}); pip install 'hemseg[codecs]'",
            hint="pip install 'hemseg[codecs]'",
        )
    try:
        pixels = dataset.pixel_array
    except DAMAGE as error:
        raise FileFormatError(
            f"compressed pixel data cannot be decoded ({type(error).__name__})"
        ) from None
    if pixels.shape != (rows, columns):
        raise FileFormatError(
            f"compressed pixel data has shape {pixels.shape}, not ({rows}, {columns})"
        )
    return pixels
