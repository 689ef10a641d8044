"""Volumes of the phantom's shapes against closed forms and against counting points."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemseg_cli.dataset.phantom.anatomy import draw_anatomy
from hemseg_cli.dataset.phantom.hemorrhages import later, with_hemorrhages
from hemseg_cli.dataset.phantom.lesions import Blob, VentricleCast
from hemseg_cli.dataset.phantom.shapes import Ellipsoid


def counted_ml(
    distance: object, centre: tuple[float, float, float], reach_mm: float, points: int = 64
) -> float:
    """Volume by counting the points of a fine grid."""
    steps = (np.arange(points) + 0.5) / points * 2 * reach_mm - reach_mm
    x, y, z = np.meshgrid(*(c + steps for c in centre), indexing="ij")
    return float(np.count_nonzero(distance(x, y, z) < 0) * (2 * reach_mm / points) ** 3 / 1000)  # type: ignore[operator]  # a bound method


def test_smooth_blob_is_an_ellipsoid() -> None:
    blob = Blob((1.0, 2.0, 3.0), (10.0, 12.0, 15.0), np.eye(3), np.zeros((1, 5)), 60.0)
    assert blob.volume_ml() == pytest.approx(4 / 3 * math.pi * 10 * 12 * 15 / 1000, rel=1e-6)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), volume_ml=st.floats(0.05, 60.0))
def test_blob_has_the_volume_asked_for(seed: int, volume_ml: float) -> None:
    rng = np.random.default_rng(seed)
    head = with_hemorrhages(draw_anatomy(rng), [volume_ml], rng, ventricular=False)
    blob = head.hemorrhages[0]
    assert blob.distance(*np.array([blob.centre]).T).item() < 0
    assert counted_ml(blob.distance, blob.centre, blob.reach_mm) == pytest.approx(
        volume_ml, rel=0.01
    )


def test_cast_of_a_half_filled_ellipsoid_is_half_its_volume() -> None:
    part = Ellipsoid((20.0, -25.0, 8.0), (6.0, 15.0, 8.0))
    head = draw_anatomy(np.random.default_rng(0))
    cast = VentricleCast((part,), -25.0, 60.0)
    half_ml = 2 / 3 * math.pi * 6 * 15 * 8 / 1000
    assert type(head)(**{**vars(head), "hemorrhages": (cast,)}).truth_ml() == [
        pytest.approx(half_ml, rel=2e-3)
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_volumes_of_touching_hemorrhages_add_up_to_their_union(seed: int) -> None:
    rng = np.random.default_rng(seed)
    head = with_hemorrhages(draw_anatomy(rng), [25.0, 1.5], rng, ventricular=True)
    *blobs, cast = head.hemorrhages
    assert isinstance(cast, VentricleCast)
    assert (
        min(part.distance(*blobs[0].surface().T).min() for part in cast.parts) <= 0
    )  # the largest reaches that ventricle
    truth_ml = head.truth_ml()
    assert truth_ml[:2] == [pytest.approx(25.0, rel=1e-3), pytest.approx(1.5, rel=1e-3)]
    assert counted_ml(head.blood_distance, (0.0, 0.0, 0.0), 82.0, points=130) == pytest.approx(
        sum(truth_ml), rel=0.015
    )


@pytest.mark.parametrize("seed", range(3))
def test_hemorrhages_lie_inside_the_brain_and_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    head = with_hemorrhages(draw_anatomy(rng), [60.0, 5.0, 2.0, 0.3], rng, ventricular=False)
    for number, blob in enumerate(head.hemorrhages):
        surface = blob.surface()
        assert head.cavity.brain_distance(*surface.T).max() < 0
        assert all(other.distance(*surface.T).min() > 0 for other in head.hemorrhages[:number])


@pytest.mark.parametrize("seed", range(4))
def test_blood_in_a_ventricle_is_0_3_ml_at_least_beside_a_large_hemorrhage(seed: int) -> None:
    rng = np.random.default_rng(seed)
    head = with_hemorrhages(draw_anatomy(rng), [50.0, 0.3], rng, ventricular=True)
    assert min(head.truth_ml()) >= 0.2999


def test_follow_up_shrinks_each_blob_but_not_below_0_05_ml() -> None:
    rng = np.random.default_rng(1)
    head = with_hemorrhages(draw_anatomy(rng), [10.0, 0.06], rng, ventricular=False)
    assert later(head, 0.6).truth_ml() == [
        pytest.approx(6.0, rel=1e-3),
        pytest.approx(0.05, rel=1e-3),
    ]
