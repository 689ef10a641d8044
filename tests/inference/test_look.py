from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from hemseg_cli.dataset.phantom.scanner import Gantry, draw_head
from hemseg_cli.imaging.head_mask import find_head
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import to_canonical
from hemseg_cli.inference.look import (
    LEAST_LOOKS,
    Look,
    joint_looks,
    look_of,
    range_of,
    unlike_training,
)

TRAINING, FRESH = 24, 24


@cache
def head(seed: int) -> Volume:
    """A phantom head of a usual protocol, on canonical axes."""
    random = np.random.default_rng(seed)
    gantry = Gantry(
        matrix=64,
        slices=int(random.integers(28, 37)),
        fov_mm=float(random.choice([222.0, 230.0, 240.0, 250.0])),
        slice_distance_mm=5.0,
        tilt_deg=float(random.choice([0.0, -18.0, 12.5, 22.0])),
        noise_hu=float(random.uniform(2.5, 4.0)),
    )
    volumes = (float(random.uniform(3, 60)), float(random.uniform(0.3, 6)))
    return to_canonical(draw_head(seed, gantry=gantry, volumes_ml=volumes).image)[0]


def look(volume: Volume) -> Look:
    return look_of(volume, find_head(volume))


@cache
def training_looks() -> tuple[Look, ...]:
    return tuple(look(head(seed)) for seed in range(TRAINING))


def said(volume: Volume) -> str:
    return unlike_training(look(volume), range_of(training_looks()))


def brain(volume: Volume) -> NDArray[np.bool_]:
    core = (volume.array > 15) & (volume.array < 60)
    return np.asarray(core)


def with_clip(volume: Volume) -> Volume:
    """An aneurysm clip: 6 mm of metal and its dark streaks."""
    array = volume.array.astype(np.int16)
    i, j, k = (size // 2 for size in array.shape)
    array[i - 1 : i + 2, j - 1 : j + 2, k] = 3071
    array[i - 12 : i - 1, j, k] -= 200
    return Volume(array, volume.affine)


def with_contrast(volume: Volume) -> Volume:
    """Contrast agent: vessels of 180 HU in 2 % of the brain, and 5 HU more in all of it."""
    array = volume.array.astype(np.int16)
    inside = brain(volume)
    array[inside] += 5
    vessels = inside & (np.random.default_rng(0).random(array.shape) < 0.02)
    array[vessels] = 180
    return Volume(array, volume.affine)


def abdomen() -> Volume:
    """A trunk: an ellipse of 360 x 250 mm of soft tissue and fat, with a spine, over 400 mm."""
    x, y = np.meshgrid(np.linspace(-250, 250, 64), np.linspace(-250, 250, 64), indexing="ij")
    plane = np.full((64, 64), -1000)
    plane[(x / 180) ** 2 + (y / 125) ** 2 < 1] = -100
    plane[(x / 155) ** 2 + (y / 100) ** 2 < 1] = 55
    plane[x**2 + (y + 70) ** 2 < 20**2] = 500
    noise = np.random.default_rng(0).normal(0, 5, (64, 64, 80))
    affine = np.diag([500 / 63, 500 / 63, 5.0, 1.0])
    return Volume((plane[:, :, None] + noise).astype(np.int16), affine)


def test_ordinary_scans_are_not_flagged() -> None:
    flagged = [text for seed in range(100, 100 + FRESH) if (text := said(head(seed)))]
    assert len(flagged) <= 0.05 * FRESH, flagged


@pytest.mark.parametrize("seed", [200, 201, 202])
def test_metal_and_contrast_agent_are_flagged_by_name(seed: int) -> None:
    assert "volume above 2500 HU" in said(with_clip(head(seed)))
    assert "share of 100 to 300 HU away from bone" in said(with_contrast(head(seed)))


def test_another_part_of_the_body_is_flagged() -> None:
    assert said(abdomen()).startswith("unlike the training: ")


def test_another_protocol_is_flagged_with_both_numbers() -> None:
    thin = to_canonical(draw_head(3, gantry=Gantry(64, 60, slice_distance_mm=2.0)).image)[0]
    assert "slice distance 2.0 mm (there 5.0 to" in said(thin)


def test_few_scans_tell_nothing() -> None:
    looks = training_looks()
    assert range_of(looks[: LEAST_LOOKS - 1]) is None
    assert unlike_training(looks[0], None) == ""


def test_ensemble_knows_what_all_of_its_networks_know() -> None:
    thick = range_of(training_looks())
    assert thick is not None
    thin = range_of([{**one, "slice_mm": one["slice_mm"] / 4} for one in training_looks()])
    assert joint_looks([None, thick]) == thick
    joint = joint_looks([thick, thin])
    assert "slice distance" in unlike_training(training_looks()[0], joint)
    assert unlike_training(training_looks()[0], joint_looks([thick, thick])) == ""
