"""Labels as whole numbers, however a file stores them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.image_file import read_image
from hemseg_cli.imaging.nifti import Volume

_WHOLE_TOLERANCE = 1e-3
"""A label of 1 written as 255 with a scale factor of 1/255 comes out as 1.00000006."""


def read_label(path: Path) -> Volume:
    """Read a label map of any kind that is read, its values whole where they are meant to be.

    FileFormatError as `read_image`. Values that are no whole numbers stay as they are, for the
    caller to refuse by name.
    """
    volume = read_image(path)
    return Volume(whole_labels(volume.array), volume.affine)


def whole_labels(array: NDArray[Any]) -> NDArray[Any]:
    """Return floating-point labels as the whole numbers that they are within 0.001 of.

    Unchanged where one is not, or is beyond what a label can be; integers are returned as they are.
    """
    if array.dtype.kind != "f":
        return array

    # What is no number at all stays, and is refused where labels are checked.
    whole = np.rint(array)
    if not np.isfinite(array).all() or not np.all(np.abs(array - whole) <= _WHOLE_TOLERANCE):
        return array
    if array.size and (whole.min() < 0 or whole.max() > np.iinfo(np.uint16).max):
        return array
    kind = np.uint8 if not array.size or whole.max() < 256 else np.uint16
    return np.asarray(whole.astype(kind))
