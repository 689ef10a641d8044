"""Facts of a label file, read from its bytes before it gets a name on disk.

Bounded: a file that unpacks to gigabytes costs a megabyte.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.bounded_files import BoundedReader
from hemseg_cli.imaging.geometry import spacing_mm, tilt_deg, true_voxel_volume_mm3
from hemseg_cli.imaging.nifti import parse_header

MAX_LABEL_BYTES = 256 * 2**20
_HEADER_BYTES = 348
_BLOCK_BYTES = 2**20  # stays in the processor's cache; whole voxels of any type up to 16 bytes


@dataclass(frozen=True)
class LabelFacts:
    """Hold geometry and volume of one label.

    `voxel_volume_mm3` is the true one of an ITK-read series (see `geometry`), `truth_ml` the
    hemorrhage's volume.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    tilt_deg: float
    voxel_volume_mm3: float
    truth_ml: float


def label_facts(name: str, data: bytes) -> LabelFacts:
    """Read a gzipped NIfTI-1 label of HemSeg; every voxel that is not 0 is hemorrhage.

    Raises FileFormatError naming `name`: not gzip, damaged, cut off, more bytes than its own header
    announces, larger than `MAX_LABEL_BYTES`, not a 3-D NIfTI of numbers, no usable affine.
    """
    reader = BoundedReader.of_bytes(name, data)
    if not reader.is_packed:
        raise FileFormatError(f"{name} is damaged or cut off: it is not gzipped")

    header = parse_header(name, bytes(reader.exactly(_HEADER_BYTES)))
    if len(header.shape) != 3:
        raise FileFormatError(f"{name} is not a label: {header.shape} voxels")
    size = header.file_bytes
    if size > MAX_LABEL_BYTES:
        raise FileFormatError(
            f"{name} would unpack to {size:,} bytes; no label is larger than {MAX_LABEL_BYTES:,}"
        )

    # Block by block, so that the voxels are counted without ever being in memory together.
    reader.exactly(header.offset - _HEADER_BYTES)
    slope, intercept = header.scale or (1.0, 0.0)
    voxels = 0
    for start in range(header.offset, size, _BLOCK_BYTES):
        block = reader.exactly(min(_BLOCK_BYTES, size - start))
        stored: Any = np.frombuffer(block, dtype=header.dtype)
        voxels += int(np.count_nonzero(stored * slope + intercept if intercept else stored))
    reader.expect_end(size)

    volume_mm3 = true_voxel_volume_mm3(header.affine)
    i, j, k = header.shape
    return LabelFacts(
        (i, j, k),
        spacing_mm(header.affine),
        tilt_deg(header.affine),
        volume_mm3,
        voxels * volume_mm3 / 1000,
    )
