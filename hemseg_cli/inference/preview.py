"""One picture per scan: slices through the lesion in the brain window, the mask's contour, the volume."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.orientation import to_canonical
from hemseg_cli.imaging.volume import Volume
from hemseg_cli.run_directory import atomic_path

_WINDOW_HU = (0.0, 80.0)
_TILES = 6
_TILE_MM = 256.0
_TILE_PIXELS = 256
_CONTOUR = (255, 64, 64)


def write_preview(path: Path, volume: Volume, mask: NDArray[np.uint8], *, title: str) -> None:
    """A PNG of up to six axial slices, those with the most hemorrhage (the middle ones where there is none), from foot to head."""
    from PIL import Image, ImageDraw

    hu, _ = to_canonical(volume)
    drawn, _ = to_canonical(Volume(mask, volume.affine))
    tiles = [_tile(hu, drawn.array, k) for k in _slices(drawn.array)]
    picture = Image.new("RGB", (_TILE_PIXELS * len(tiles), _TILE_PIXELS + 20))
    for number, tile in enumerate(tiles):
        picture.paste(tile, (number * _TILE_PIXELS, 20))
    ImageDraw.Draw(picture).text((4, 4), title, fill=(255, 255, 255))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def _slices(mask: NDArray[np.uint8]) -> list[int]:
    areas = mask.sum(axis=(0, 1), dtype=np.int64)
    count = min(_TILES, len(areas))
    if not areas.any():
        middle = len(areas) // 2
        start = max(0, min(middle - count // 2, len(areas) - count))
        return list(range(start, start + count))
    return sorted(int(k) for k in np.argsort(-areas, kind="stable")[:count])


def _tile(hu: Volume, mask: NDArray[np.uint8], k: int) -> Any:
    from PIL import Image

    low, high = _WINDOW_HU
    gray = np.clip((hu.array[:, :, k].astype(np.float32) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    colour = np.repeat(gray[:, :, None], 3, axis=2)
    colour[_edge(mask[:, :, k])] = _CONTOUR
    # Canonical i runs to the right and j to anterior; radiology shows the patient's right on the left, anterior on top.
    shown = colour[::-1, ::-1].transpose(1, 0, 2)
    x_mm, y_mm, _ = spacing_mm(hu.affine)
    extent = np.array([shown.shape[1] * x_mm, shown.shape[0] * y_mm])
    width, height = (max(1, int(n)) for n in extent * (_TILE_PIXELS / max(_TILE_MM, extent.max())))
    picture = Image.fromarray(np.ascontiguousarray(shown)).resize((width, height), Image.Resampling.BILINEAR)
    tile = Image.new("RGB", (_TILE_PIXELS, _TILE_PIXELS))
    tile.paste(picture, ((_TILE_PIXELS - width) // 2, (_TILE_PIXELS - height) // 2))
    return tile


def _edge(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    from scipy import ndimage

    inside = mask.astype(bool)
    return np.asarray(inside & ~ndimage.binary_erosion(inside), dtype=bool)
