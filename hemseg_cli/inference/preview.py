"""Draw one picture per scan: slices through the lesions, the mask's contour, mL, a scale bar."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass
from hemseg_cli.core.files import atomic_path
from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.inference.measures import ScanMeasures

if TYPE_CHECKING:
    from PIL.Image import Image

WINDOW_HU = (0.0, 80.0)
SCALE_BAR_MM = 50.0
_COLUMNS, _ROWS = 3, 2
_TILE = 320
_TILE_MM = 260.0
_HEADER = 58
_CONTOUR = (255, 76, 64)
_TEXT, _FAINT, _ALERT = (240, 240, 240), (160, 166, 173), (255, 196, 84)


def write_preview(
    path: Path,
    scan: Volume,
    mask: NDArray[np.uint8],
    row: ScanMeasures,
    *,
    classes: Sequence[LabelClass] = HEMORRHAGE_ONLY,
) -> None:
    """Write the picture of `draw_preview` as PNG."""
    picture = draw_preview(scan, mask, row, classes=classes)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", optimize=False, compress_level=3)


def draw_preview(
    scan: Volume,
    mask: NDArray[np.uint8],
    row: ScanMeasures,
    *,
    classes: Sequence[LabelClass] = HEMORRHAGE_ONLY,
) -> "Image":
    """Draw up to six axial slices from foot to head, as radiology shows them.

    The patient's right is on the left, anterior on top.

    `scan`: HU on canonical axes; `mask`: on the same grid, with the values of `classes`, whose
    colours several are drawn in. The slices are spread over those with hemorrhage, the largest
    among them (without hemorrhage: over the middle of the scan).
    """
    from PIL import Image

    picture = Image.new("RGB", (_TILE * _COLUMNS, _HEADER + _TILE * _ROWS))
    for number, k in enumerate(chosen_slices(mask, _COLUMNS * _ROWS)):
        tile = _tile(
            scan.array[:, :, k],
            mask[:, :, k],
            spacing_mm(scan.affine)[:2],
            caption=f"slice {k + 1} of {mask.shape[2]}",
            colours=_colours(classes),
        )
        picture.paste(tile, (_TILE * (number % _COLUMNS), _HEADER + _TILE * (number // _COLUMNS)))
    _write_header(picture, row)
    if len(classes) > 1:
        _write_legend(picture, classes, set(np.unique(mask).tolist()))
    return picture


def chosen_slices(mask: NDArray[np.uint8], count: int) -> list[int]:
    """Up to `count` slices of a canonical mask [i, j, k], ascending.

    The one with most hemorrhage is among them.
    """
    areas = np.count_nonzero(mask, axis=(0, 1))
    candidates = np.flatnonzero(areas)
    if not candidates.size:
        depth = len(areas)
        candidates = np.arange(depth // 4, max(depth // 4 + 1, depth - depth // 4))
    spread = candidates[
        np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    ]
    largest = int(areas.argmax())
    if areas.any() and largest not in spread:
        spread[np.abs(spread - largest).argmin()] = largest
    return [int(k) for k in np.unique(spread)]


def _colours(classes: Sequence[LabelClass]) -> dict[int, tuple[int, int, int]]:
    """The colour of each value's contour; the one class of a mask has the contour's own."""
    if len(classes) == 1:
        return {classes[0].value: _CONTOUR}
    return {each.value: each.colour for each in classes}


def _write_legend(picture: "Image", classes: Sequence[LabelClass], found: set[int]) -> None:
    """Name the classes in their colours at the right of the header; those not found are faint."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    right = picture.width - 10
    for each in reversed(classes):
        width = round(draw.textlength(each.key, font=font(13)))
        draw.text(
            (right - width, 36),
            each.key,
            fill=_TEXT if each.value in found else _FAINT,
            font=font(13),
        )
        draw.rectangle([right - width - 16, 39, right - width - 6, 49], fill=each.colour)
        right -= width + 28


def _tile(
    hu: NDArray[Any],
    mask: NDArray[np.uint8],
    pixel_mm: tuple[float, float],
    *,
    caption: str,
    colours: Mapping[int, tuple[int, int, int]],
) -> "Image":
    from PIL import Image, ImageDraw

    low, high = WINDOW_HU
    gray = np.clip((hu.astype(np.float32) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    extent_mm = np.array(gray.shape) * pixel_mm
    pixels_per_mm = _TILE / max(_TILE_MM, float(extent_mm.max()))
    width, height = (max(1, round(float(mm) * pixels_per_mm)) for mm in extent_mm)
    slice_picture = (
        Image.fromarray(as_seen(gray))
        .resize((width, height), Image.Resampling.BICUBIC)
        .convert("RGB")
    )
    pixels = np.array(slice_picture)
    for value, colour in colours.items():
        shown = (mask == value) * np.uint8(255)
        large = Image.fromarray(as_seen(shown)).resize((width, height), Image.Resampling.BILINEAR)
        pixels[edge(np.asarray(large) >= 128)] = colour
    tile = Image.new("RGB", (_TILE, _TILE))
    tile.paste(Image.fromarray(pixels), ((_TILE - width) // 2, (_TILE - height) // 2))
    draw = ImageDraw.Draw(tile)
    draw.text((8, 6), caption, fill=_FAINT, font=font(13))
    draw.text((8, _TILE // 2 - 8), "R", fill=_FAINT, font=font(15))
    draw.text((_TILE - 18, _TILE // 2 - 8), "L", fill=_FAINT, font=font(15))
    bar = round(SCALE_BAR_MM * pixels_per_mm)
    draw.line([(_TILE - 12 - bar, _TILE - 12), (_TILE - 12, _TILE - 12)], fill=_TEXT, width=2)
    draw.text((_TILE - 12 - bar, _TILE - 30), f"{SCALE_BAR_MM:g} mm", fill=_TEXT, font=font(12))
    return tile


def _write_header(picture: "Image", row: ScanMeasures) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    lesions = f"{row.lesions} lesion" + ("" if row.lesions == 1 else "s")
    draw.text((10, 6), f"{row.predicted_ml:.1f} mL", fill=_TEXT, font=font(24))
    draw.text((150, 12), f"{lesions}   {row.scan}", fill=_TEXT, font=font(16))
    note = (
        f"review: {row.review_reason}"
        if row.review
        else f"window {WINDOW_HU[0]:g} to {WINDOW_HU[1]:g} HU. Research use only."
    )
    draw.text((10, 36), note, fill=_ALERT if row.review else _FAINT, font=font(13))


def as_seen(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn a slice [i, j] on canonical axes to [rows, columns] as radiology shows it.

    Canonical i runs to the right and j to anterior; a picture's rows run down and show the
    patient's right on the left.
    """
    return np.ascontiguousarray(image[::-1, ::-1].T)


def edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask [i, j] at its border."""
    from scipy import ndimage

    return np.asarray(mask & ~ndimage.binary_erosion(mask), dtype=bool)


def font(size: int) -> Any:
    """Return Pillow's own font: no system has to have one."""
    from PIL import ImageFont

    return ImageFont.load_default(size=size)
