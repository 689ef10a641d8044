"""A DICOM series of a sphere, in one part or two, straight or tilted.

The sphere is drawn in the patient's own millimetres, so that its volume is known by hand.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.dicom_files import slice_bytes

SIZE, PIXEL_MM, RADIUS_MM = 64, 1.0, 24.0
SPHERE_ML = 4 / 3 * math.pi * RADIUS_MM**3 / 1000
TWO_PART_MM = np.concatenate([np.arange(14) * 4.0, [53.08], 53.08 + np.arange(1, 14) * 7.0])
"""Places along the normal: 13 steps of 4 mm, a seam of 1.08, 13 of 7, as in a real protocol."""


def draw_series(
    folder: Path,
    along_mm: NDArray[np.float64],
    *,
    centre_mm: float,
    tilt_deg: float = 0.0,
    seen_from_below: bool = True,
) -> list[Path]:
    """Write a slice at each place along the normal, with a sphere at `centre_mm` along it.

    The sphere has 80 HU, all around it 40. Each slice begins straight above the one below.
    """
    tilt = math.radians(tilt_deg)
    row = np.array([1.0, 0.0, 0.0])
    column = np.array([0.0, math.cos(tilt), -math.sin(tilt)])
    if not seen_from_below:
        column = -column
    normal = np.cross(row, column)

    start = np.array([-40.0, -30.0 if seen_from_below else 30.0, 10.0])
    table = np.array([0.0, 0.0, 1.0]) * np.sign(normal[2])
    corner = (row + column) * PIXEL_MM * (SIZE - 1) / 2
    centre = start + table * centre_mm / (table @ normal) + corner

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    index = np.arange(SIZE) * PIXEL_MM
    for number, along in enumerate(along_mm.tolist()):
        position = start + table * along / (table @ normal)
        places = (
            position
            + index[:, None, None] * column[None, None, :]
            + index[None, :, None] * row[None, None, :]
        )
        inside = np.linalg.norm(places - centre, axis=-1) <= RADIUS_MM
        files.append(folder / f"{number:03d}.dcm")
        files[-1].write_bytes(
            slice_bytes(
                number,
                hu=np.where(inside, 80, 40).astype(np.int16),
                position=tuple(position.tolist()),
                ImageOrientationPatient=[f"{value:.9f}" for value in (*row, *column)],
                PixelSpacing=[str(PIXEL_MM)] * 2,
            )
        )
    return files
