"""What a label file says, read from its bytes before it gets a name on disk.

Bounded, so that a bomb costs nothing.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.geometry import spacing_mm, tilt_deg, true_voxel_volume_mm3
from hemseg_cli.imaging.nifti import usable_affine

MAX_LABEL_BYTES = 256 * 2**20
_HEADER_BYTES = 348
_BLOCK = (
    2**20
)  # bytes at a time: stays in the processor's cache, and is a whole number of voxels of any type up to 16 bytes
_GZIP = 31  # window bits: a gzip header is expected


@dataclass(frozen=True)
class LabelFacts:
    """Geometry and volume of one label.

    `voxel_volume_mm3` is the true one (see `geometry`), `truth_ml` the hemorrhage's volume.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    tilt_deg: float
    voxel_volume_mm3: float
    truth_ml: float


def label_facts(name: str, data: bytes) -> LabelFacts:
    """Read a gzipped NIfTI label; every voxel that is not 0 is hemorrhage.

    Raises FileFormatError naming `name`: not gzip, damaged, cut off, more bytes than its own header
    announces, larger than `MAX_LABEL_BYTES`, not a 3-D NIfTI of numbers, no usable affine.
    """
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError

    unpack = _Gunzip(name, data)
    try:
        header = nib.Nifti1Header(unpack.read(_HEADER_BYTES), check=False)
        magic = bytes(np.asarray(header["magic"]).item())
        shape = tuple(int(n) for n in header.get_data_shape())
        dtype = header.get_data_dtype()
        offset = int(header["vox_offset"])
        slope, intercept = header.get_slope_inter()
    except (HeaderDataError, ValueError, OverflowError, KeyError) as error:
        raise FileFormatError(f"{name} is not a NIfTI label: {error}") from None
    if magic.rstrip(b"\0") != b"n+1" or offset < _HEADER_BYTES:
        raise FileFormatError(f"{name} is not a NIfTI label: no single-file NIfTI-1 header")
    if len(shape) != 3 or min(shape) < 1 or dtype.fields is not None or dtype.kind not in "iuf":
        raise FileFormatError(f"{name} is not a label: {shape} voxels of {dtype}")
    affine = usable_affine(name, header)
    size = offset + math.prod(shape) * dtype.itemsize
    if size > MAX_LABEL_BYTES:
        raise FileFormatError(
            f"{name} would unpack to {size:,} bytes; no label is larger than {MAX_LABEL_BYTES:,}"
        )
    unpack.read(offset - _HEADER_BYTES)
    voxels = 0
    for start in range(offset, size, _BLOCK):
        stored: Any = np.frombuffer(unpack.read(min(_BLOCK, size - start)), dtype=dtype)
        voxels += int(np.count_nonzero(stored * slope + intercept if intercept else stored))
    unpack.expect_end(size)
    volume_mm3 = true_voxel_volume_mm3(affine)
    return LabelFacts(
        (shape[0], shape[1], shape[2]),
        spacing_mm(affine),
        tilt_deg(affine),
        volume_mm3,
        voxels * volume_mm3 / 1000,
    )


class _Gunzip:
    """Exactly as many bytes as are asked for, never more in memory."""

    def __init__(self, name: str, data: bytes) -> None:
        from isal import isal_zlib

        self._name, self._left = name, data
        self._stream = isal_zlib.decompressobj(_GZIP)
        self._error = cast(
            type[Exception], isal_zlib.error
        )  # the type stub calls the class an instance

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            try:
                part = self._stream.decompress(self._left, size)
            except self._error as error:
                raise FileFormatError(f"{self._name} is damaged: {error}") from None
            self._left = self._stream.unconsumed_tail
            if not part:
                raise FileFormatError(f"{self._name} is cut off: {size:,} bytes short")
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def expect_end(self, size: int) -> None:
        try:
            more = b"" if self._stream.eof else self._stream.decompress(self._left, 1)
        except self._error as error:
            raise FileFormatError(f"{self._name} is damaged: {error}") from None
        if more or self._stream.unused_data:
            raise FileFormatError(
                f"{self._name} holds more than the {size:,} bytes that its header announces"
            )
        if not self._stream.eof:
            raise FileFormatError(f"{self._name} is cut off: its checksum is missing")
