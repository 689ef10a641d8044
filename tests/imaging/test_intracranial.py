"""The intracranial space of drawn heads: with scalp, neck and jaw, opened, cut, tilted, clipped."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.intracranial import bone_threshold_hu, find_intracranial
from hemseg_cli.imaging.nifti import Volume, read_volume
from hemseg_cli.imaging.orientation import to_canonical

AIR, FAT, MUSCLE, BRAIN, SKULL = -1000, -90, 60, 34, 900


@dataclass(frozen=True)
class Drawn:
    """A head in HU, and which voxels are brain."""

    volume: Volume
    brain: NDArray[np.bool_]


def draw_head(
    spacing: tuple[float, float, float] = (2.0, 2.0, 5.0),
    *,
    tilt_mm: float = 0.0,
    neck_mm: float = 40.0,
    noise_hu: float = 5.0,
) -> Drawn:
    """An ellipsoid skull with a foramen magnum, scalp, temporal muscles, a neck with jaw and spine.

    `tilt_mm`: shift of each slice along y, as a tilted gantry gives.
    """
    size = [round(mm / step) for mm, step in zip((220, 240, 180 + neck_mm), spacing, strict=True)]
    i, j, k = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    z = k * spacing[2] - neck_mm - 90
    x = i * spacing[0] - 110
    y = j * spacing[1] - 120 + tilt_mm * (k - size[2] / 2)

    def ellipsoid(shrunk_mm: float) -> NDArray[np.bool_]:
        a, b, c = 80 - shrunk_mm, 98 - shrunk_mm, 85 - shrunk_mm
        return np.asarray((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1)

    below = z < -60
    canal = np.hypot(x, y + 20)
    array = np.full(size, AIR, dtype=np.float64)
    # The neck: fat around muscles, a vertebra with its canal, and the jaw.
    neck = below & (np.hypot(x / 1.1, y) < 62)
    array[neck] = FAT
    for centre in (-32, 32):
        array[neck & (np.hypot(x - centre, y + 25) < 24)] = MUSCLE
    array[neck & (abs(np.hypot(x, y - 10) - 42) < 5) & (y > 10)] = SKULL
    array[neck & (canal < 24)] = SKULL

    # The head: scalp and temporal muscles, skull, brain.
    array[ellipsoid(-6)] = FAT
    array[ellipsoid(-6) & (abs(y) < 30) & (abs(z) < 40)] = MUSCLE
    array[ellipsoid(0)] = SKULL
    brain = ellipsoid(6)
    array[brain] = BRAIN
    array[(canal < 13) & (z < -75)] = BRAIN  # foramen magnum and spinal canal

    array += np.random.default_rng(0).normal(0, noise_hu, size)
    affine = np.diag([*spacing, 1.0])
    affine[1, 2] = -tilt_mm * spacing[1] / spacing[1]
    return Drawn(Volume(array.round().astype(np.int16), affine), brain)


def shares(drawn: Drawn, space: NDArray[np.bool_] | None) -> tuple[float, float]:
    """The share of the brain within the space, and of the other soft tissue."""
    assert space is not None
    soft = (drawn.volume.array > -200) & (drawn.volume.array < 150)
    other = soft & ~drawn.brain
    return float(space[drawn.brain].mean()), float(space[other].mean())


def open_skull(drawn: Drawn, *, half_height_mm: float, half_width_mm: float) -> Drawn:
    """Take away the bone of the right side: brain bulges into muscle without a border."""
    array, step = drawn.volume.array.copy(), spacing_mm(drawn.volume.affine)
    i, j, k = np.indices(array.shape)
    middle = np.array(array.shape) / 2 * step
    flap = (
        (i * step[0] > middle[0])
        & (abs(j * step[1] - middle[1]) < half_width_mm)
        & (abs(k * step[2] - 40 - 95) < half_height_mm)
        & (array > 150)
    )
    array[flap] = MUSCLE
    return Drawn(Volume(array, drawn.volume.affine), drawn.brain)


@pytest.mark.parametrize(
    "spacing", [(2.0, 2.0, 5.0), (1.0, 1.0, 2.5), (0.9, 0.9, 7.5), (2.0, 2.0, 1.0)]
)
def test_space_holds_the_brain_and_little_else(spacing: tuple[float, float, float]) -> None:
    drawn = draw_head(spacing)
    brain, other = shares(drawn, find_intracranial(drawn.volume))
    assert brain > 0.995
    assert other < 0.03


@pytest.mark.parametrize("tilt_mm", [-2.5, 1.5])
def test_tilted_slices_are_taken_as_they_are(tilt_mm: float) -> None:
    drawn = draw_head(tilt_mm=tilt_mm)
    brain, other = shares(drawn, find_intracranial(drawn.volume))
    assert brain > 0.995
    assert other < 0.05


@pytest.mark.parametrize(
    ("height", "width", "least"), [(20, 15, 0.99), (30, 40, 0.98), (45, 60, 0.97), (60, 70, 0.94)]
)
def test_opened_skull_is_bridged(height: float, width: float, least: float) -> None:
    drawn = open_skull(draw_head(), half_height_mm=height, half_width_mm=width)
    brain, other = shares(drawn, find_intracranial(drawn.volume))
    assert brain > least
    assert other < 0.15


@pytest.mark.parametrize("first", [0.25, 0.6])
def test_scan_of_a_part_of_the_head(first: float) -> None:
    drawn = draw_head()
    depth = drawn.volume.array.shape[2]
    for part in (slice(0, round(depth * (1 - first))), slice(round(depth * first), depth)):
        cut = Drawn(
            Volume(drawn.volume.array[:, :, part], drawn.volume.affine), drawn.brain[:, :, part]
        )
        space = find_intracranial(cut.volume)
        if cut.brain.sum() > 0.2 * drawn.brain.sum():
            brain, other = shares(cut, space)
            assert brain > 0.99
            assert other < 0.06


@pytest.mark.parametrize(("low", "high"), [(0, 80), (-20, 100), (-100, 155), (-1000, 255)])
def test_clipped_bone_is_still_bone(low: int, high: int) -> None:
    drawn = draw_head()
    clipped = np.clip(drawn.volume.array, low, high)
    clipped[drawn.volume.array < -500] = AIR
    space = find_intracranial(Volume(clipped, drawn.volume.affine))
    brain, other = shares(drawn, space)
    assert brain > 0.995
    assert other < 0.03


def test_couch_and_headrest_do_not_close_a_ring_with_the_head() -> None:
    drawn = draw_head()
    array = drawn.volume.array.copy()
    array[:, 2:5] = 300
    array[::4, 2:5] = -150
    brain, other = shares(drawn, find_intracranial(Volume(array, drawn.volume.affine)))
    assert brain > 0.995
    assert other < 0.03


def test_blood_at_the_skull_and_calcification_stay_inside() -> None:
    drawn = draw_head()
    array = drawn.volume.array.copy()
    shell = drawn.brain & ~np.roll(drawn.brain, 2, axis=0)
    array[shell] = 70
    array[54:57, 60:64, 25:27] = 400
    space = find_intracranial(Volume(array, drawn.volume.affine))
    assert space is not None
    assert space[shell].mean() > 0.99
    assert space[54:57, 60:64, 25:27].all()


def test_what_is_no_head_in_its_skull_has_no_space() -> None:
    drawn = draw_head()
    brain_alone = np.where(drawn.brain, drawn.volume.array, AIR).astype(np.int16)
    neck_alone = drawn.volume.array[:, :, :8]
    water = np.zeros((60, 60, 20), dtype=np.int16)
    for array in (brain_alone, neck_alone, water, np.full_like(water, AIR), water + 300):
        assert find_intracranial(Volume(array, drawn.volume.affine)) is None


@pytest.mark.parametrize(("highest", "expected"), [(80, 80), (255, 250), (2000, 250)])
def test_bone_begins_at_250_hu_or_where_the_numbers_were_cut_off(
    highest: int, expected: int
) -> None:
    values = np.minimum(np.arange(-100, 900).repeat(10), highest)
    assert bone_threshold_hu(values) == expected


def test_no_hemorrhage_of_the_real_scans_is_lost(shared_data: Path) -> None:
    folder = shared_data / "phe-sich"
    files = sorted((folder / "image").glob("*.nii.gz"))[::17]
    if not files:
        pytest.skip("the real scans (shared/data/phe-sich) are not here")
    for file in files:
        space = find_intracranial(to_canonical(read_volume(file))[0])
        assert space is not None
        for kind in ("hematoma", "phe"):
            label = to_canonical(read_volume(folder / kind / file.name))[0].array > 0
            assert space[label].mean() > 0.995
