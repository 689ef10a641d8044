"""Stored pixels of a DICOM image: uncompressed or decoded, unused bits taken off, sign extended."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEGExtended12Bit, RLELossless

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.dicom.elements import is_little_endian, raw_value, reading, unsigned

_CODEC_HINT = "pip install 'hemseg[codecs]'"
_TWELVE_BIT_HINT = (
    "pip install pylibjpeg-libjpeg   reads it (licence: GPL); or unpack each file with DCMTK: "
    "dcmdjpeg FILE UNPACKED"
)
_BITS_OF_BASELINE = 8


@dataclass(frozen=True)
class PixelLayout:
    """Say where the bits of a value lie in its cell (PS3.5 8.1.1).

    Of `allocated` bits (8, 16, 32) those from `high_bit` downwards, `stored` of them, are the
    value; the others may hold anything: overlays of old, in the high ones.
    """

    allocated: int
    stored: int
    high_bit: int
    signed: bool

    @property
    def cell(self) -> np.dtype[Any]:
        """The type of a whole cell, in this machine's byte order."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.allocated // 8}")

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest value."""
        if self.signed:
            return -(1 << (self.stored - 1)), (1 << (self.stored - 1)) - 1
        return 0, (1 << self.stored) - 1

    def values(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Return the values in cells: unused bits taken off, the sign extended.

        A view where every bit of a cell is used.
        """
        if self.stored == self.allocated:
            return cells

        # Shifted to the top of the cell, what lies above is gone; shifted back down, what lies
        # below, and numpy's shift of signed numbers draws the sign along.
        up, down = self.allocated - 1 - self.high_bit, self.allocated - self.stored
        cells = cells.astype(self.cell, copy=False)
        return np.asarray((cells << self.cell.type(up)) >> self.cell.type(down))


def pixel_layout(dataset: FileDataset) -> PixelLayout:
    """Read a header's layout; FileFormatError where it is none that is read."""
    allocated, stored = unsigned(dataset, "bits_allocated"), unsigned(dataset, "bits_stored")
    if allocated not in (8, 16, 32) or stored is None or not 0 < stored <= allocated:
        raise FileFormatError(f"bits allocated {allocated}, stored {stored}: not 8, 16 or 32")

    # Files without a high bit mean the usual one.
    high_bit = unsigned(dataset, "high_bit")
    high_bit = stored - 1 if high_bit is None else high_bit
    if not stored - 1 <= high_bit < allocated:
        raise FileFormatError(
            f"high bit {high_bit} is impossible for {stored} of {allocated} bits stored"
        )
    return PixelLayout(allocated, stored, high_bit, unsigned(dataset, "signed") == 1)


def pixel_cells(
    dataset: FileDataset,
    pixels: memoryview | None,
    layout: PixelLayout,
    rows: int,
    columns: int,
    frames: int = 1,
) -> NDArray[Any]:
    """Return the cells [frames, rows, columns], decoded where they are compressed.

    `pixels`: the value of PixelData, None where the data set holds it. A read-only view of the
    file's bytes where they are not compressed. Bytes behind the last row (padding to a block, a
    scanner's habit) are left aside. FileFormatError: no pixels, too few, far too many, no codec.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID", "")
    if _is_encapsulated(syntax):
        return _decoded(dataset, syntax, layout, (frames, rows, columns))

    raw = raw_value(dataset, "pixels") if pixels is None else pixels
    expected = frames * rows * columns * layout.allocated // 8
    if not raw:
        raise FileFormatError("no pixel data")
    if len(raw) < expected:
        raise FileFormatError(f"pixel data is short: {len(raw)} of {expected} bytes")
    # Twice as many bytes are no padding but another image, or another size than the header's.
    if len(raw) >= 2 * expected:
        raise FileFormatError(f"pixel data is long: {len(raw)} bytes, {expected} expected")

    kind = layout.cell.newbyteorder("<" if is_little_endian(dataset) else ">")
    cells = np.frombuffer(raw, dtype=kind, count=frames * rows * columns)
    return cells.reshape(frames, rows, columns)


def _is_encapsulated(syntax: object) -> bool:
    return (
        isinstance(syntax, UID)
        and syntax.is_valid
        and syntax.is_transfer_syntax
        and syntax.is_encapsulated
    )


def _decoded(
    dataset: FileDataset, syntax: UID, layout: PixelLayout, shape: tuple[int, int, int]
) -> NDArray[Any]:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise FileFormatError(f"transfer syntax {syntax.name} ({syntax}) cannot be read") from None
    if not decoder.is_available:
        raise FileFormatError(
            f"no codec for transfer syntax {syntax.name} ({syntax}); {_CODEC_HINT}",
            hint=_CODEC_HINT,
        )

    # Only one codec has lossy JPEG of 12 bits, and its licence (GPL) keeps it out of our extras.
    is_twelve_bit = syntax == JPEGExtended12Bit and layout.stored > _BITS_OF_BASELINE
    if is_twelve_bit and "pylibjpeg" not in decoder.available_plugins:
        raise FileFormatError(
            f"lossy JPEG of 12 bits ({syntax}), which no codec here reads", hint=_TWELVE_BIT_HINT
        )

    # RLE packs whole cells, unused bits included; the JPEGs hold values, which pydicom corrects.
    with reading("compressed pixel data cannot be decoded"):
        options: Any = {"correct_unused_bits": False}  # the stub wants its own type of dict
        cells, _ = decoder.as_array(dataset, **options)
    cells = cells.reshape(shape) if cells.size == np.prod(shape) else cells
    if cells.shape != shape:
        raise FileFormatError(f"compressed pixel data has shape {cells.shape}, not {shape[1:]}")
    if syntax == RLELossless:
        return cells

    # A value stands in the lowest bits of what a JPEG gives: brought up to where its header says.
    return np.asarray(cells << cells.dtype.type(layout.high_bit - layout.stored + 1))
