"""Draw what a validation made of one scan: the slice with most hemorrhage, label and mask."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.files import atomic_path
from hemseg_cli.inference.preview import as_seen, edge

if TYPE_CHECKING:
    from hemseg_cli.training.cache import PreparedCase

_WIDTH = 384  # pixels
LABEL_COLOUR = (80, 220, 120)
MASK_COLOUR = (255, 76, 64)
BOTH_COLOUR = (255, 210, 80)


def contour_picture(
    case: "PreparedCase", probability: NDArray[np.float32], threshold: float
) -> NDArray[np.uint8]:
    """Draw the slice of a scan with the most labelled voxels, uint8 [rows, columns, 3].

    As radiology shows it: the patient's right on the left. The contour of the label is green, that
    of the mask red, where they agree yellow. `probability`: [classes, i, j, k] on the network's
    grid; the mask is any class from `threshold` on.
    """
    label = np.asarray(case.label) > 0
    number = int(label.sum(axis=(0, 1)).argmax())
    mask = (probability[..., number] >= threshold).any(axis=0)

    # The first window, whose low and high ends are black and white.
    image = np.asarray(case.image[0, ..., number], dtype=np.float32)
    low, high = float(image.min()), float(image.max())
    gray = ((image - low) / max(high - low, 1e-6) * 255).astype(np.uint8)

    # Pixels of equal size in mm, so that a head is as round as it is.
    size = _size(label.shape[:2], case.grid.spacing_mm[:2])
    picture = np.repeat(_scaled(gray, size)[..., None], 3, axis=2)
    found = edge(_scaled(np.where(mask, 255, 0).astype(np.uint8), size) >= 128)
    labelled = np.where(label[..., number], 255, 0).astype(np.uint8)
    true = edge(_scaled(labelled, size) >= 128)
    picture[true], picture[found], picture[true & found] = LABEL_COLOUR, MASK_COLOUR, BOTH_COLOUR
    return picture


def write_picture(file: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture as PNG."""
    from PIL import Image

    with atomic_path(file) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def _size(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> tuple[int, int]:
    """Width and height in pixels of a slice [i, j]."""
    width_mm, height_mm = (n * step for n, step in zip(shape, spacing_mm, strict=True))
    return _WIDTH, max(1, round(_WIDTH * height_mm / width_mm))


def _scaled(image: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    return np.array(Image.fromarray(as_seen(image)).resize(size, Image.Resampling.BILINEAR))
