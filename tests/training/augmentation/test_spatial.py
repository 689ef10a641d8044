import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from hemseg_cli.config.schema import AugmentConfig
from hemseg_cli.training.augmentation.spatial import (
    Interpolation,
    PlaneMap,
    PlaneTransform,
    draw_plane_transform,
    plane_map,
)

NO_MIRROR = (False, False, False)


def _image(shape=(2, 40, 36, 5), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _apply(image, places: PlaneMap):
    first, length = places.box(image.shape[1:])
    inner = tuple(slice(max(0, f), f + n) for f, n in zip(first, length, strict=True))
    before = (
        [(0, 0)]
        + [
            (max(0, -f), max(0, f + n - size))
            for f, n, size in zip(first, length, image.shape[1:3], strict=True)
        ]
        + [(0, 0)]
    )
    region = np.ascontiguousarray(np.pad(image[:, inner[0], inner[1]], before))
    return Interpolation.within(places, first, length)(region).numpy()


def test_interpolation_is_scipys():
    image = _image()
    places = plane_map(
        PlaneTransform(0.4, 1.2), (8, 7), (20, 18), mirror=NO_MIRROR, spacing_mm=(0.5, 0.5)
    )
    ours = _apply(image, places)
    assert ours.shape == (2, 20, 18, 5)
    for c in range(2):
        for k in range(5):
            np.testing.assert_allclose(
                ours[c, ..., k],
                map_coordinates(image[c, ..., k], [places.rows, places.columns], order=1),
                atol=1e-5,
            )


@pytest.mark.parametrize("mirror", [(False, False), (True, False), (False, True), (True, True)])
def test_no_change_gives_the_patch_itself_mirrored(mirror):
    image = _image()
    places = plane_map(
        PlaneTransform(), (3, 5), (16, 12), mirror=(*mirror, False), spacing_mm=(0.5, 0.5)
    )
    expected = np.flip(image[:, 3:19, 5:17], [axis + 1 for axis in range(2) if mirror[axis]])
    np.testing.assert_allclose(_apply(image, places), expected, atol=1e-6)


def test_a_quarter_turn_is_rot90():
    image = _image((1, 21, 21, 3))
    places = plane_map(
        PlaneTransform(np.pi / 2), (0, 0), (21, 21), mirror=NO_MIRROR, spacing_mm=(0.5, 0.5)
    )
    turned = _apply(image, places)
    assert any(
        np.allclose(turned, np.rot90(image, turns, axes=(1, 2)), atol=1e-4) for turns in (1, 3)
    )


def test_a_scale_above_one_enlarges():
    image = np.zeros((1, 41, 41, 1), np.float32)
    image[0, 16:25, 16:25] = 1
    places = plane_map(
        PlaneTransform(scale=2.0), (0, 0), (41, 41), mirror=NO_MIRROR, spacing_mm=(0.5, 0.5)
    )
    assert _apply(image, places).sum() == pytest.approx(4 * 81, rel=0.1)


def test_a_rotation_turns_millimetres_not_voxels():
    """A disc of 8 mm stays a disc where the voxels are twice as long along j."""
    rows, columns = np.indices((41, 41)) - 20.0
    disc = ((rows * 0.5) ** 2 + (columns * 1.0) ** 2 < 64).astype(np.float32)[None, ..., None]
    places = plane_map(
        PlaneTransform(np.pi / 5), (0, 0), (41, 41), mirror=NO_MIRROR, spacing_mm=(0.5, 1.0)
    )
    turned = _apply(disc, places) > 0.5
    assert 2 * (turned & (disc > 0)).sum() / (turned.sum() + disc.sum()) > 0.97


def test_what_lies_beyond_the_padding_repeats_it():
    image = np.ones((1, 10, 10, 2), np.float32)
    places = plane_map(
        PlaneTransform(scale=0.25), (0, 0), (10, 10), mirror=NO_MIRROR, spacing_mm=(1, 1)
    )
    first, length = places.box((10, 10))
    assert (first, length) == ((-1, -1), (12, 12))
    shrunk = _apply(image, places)[0, ..., 0]
    assert shrunk[0, 0] == 0
    assert shrunk[5, 5] == 1


def test_draws_stay_in_their_ranges_and_keep_their_probabilities():
    settings = AugmentConfig(
        rotation_p=0.5,
        rotation_deg=20,
        scale_p=0.25,
        scale=(0.8, 1.25),
        elastic_p=0.1,
        elastic_voxels=100,
    )
    random = np.random.default_rng(0)
    draws = [draw_plane_transform(settings, (40, 40, 8), random) for _ in range(2000)]
    drawn = [draw for draw in draws if draw is not None]
    assert len(drawn) / 2000 == pytest.approx(1 - 0.5 * 0.75 * 0.9, abs=0.045)
    angles = np.rad2deg([draw.rotation_rad for draw in drawn if draw.rotation_rad])
    assert len(angles) / 2000 == pytest.approx(0.5, abs=0.045)
    assert angles.min() < -18
    assert 18 < angles.max() <= 20
    scales = [draw.scale for draw in drawn if draw.scale != 1]
    assert len(scales) / 2000 == pytest.approx(0.25, abs=0.04)
    assert 0.8 <= min(scales) < 0.83
    assert 1.2 < max(scales) <= 1.25
    bends = [draw.displacements for draw in drawn if draw.displacements is not None]
    assert len(bends) / 2000 == pytest.approx(0.1, abs=0.03)
    # However strong: a fifth of the distance of control points (40 / 5 voxels) at most, so that
    # nothing folds.
    assert np.std(bends) <= 0.2 * 8
    assert draw_plane_transform(AugmentConfig(), (40, 40, 8), random) is None


def test_elastic_displacement_moves_pixels_by_about_what_was_drawn():
    displacements = np.full((2, 4, 4), 1.5, np.float32)
    displacements[1] = -2.0
    places = plane_map(
        PlaneTransform(displacements=displacements),
        (4, 4),
        (12, 12),
        mirror=NO_MIRROR,
        spacing_mm=(1, 1),
    )
    torch.testing.assert_close(places.rows[:, 3], torch.arange(12) + 4 + 1.5)
    torch.testing.assert_close(places.columns[3], torch.arange(12) + 4 - 2.0)
