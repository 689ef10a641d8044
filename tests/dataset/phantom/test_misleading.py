"""What misleads is there: dense, outside of every label, in scans that cover more or less."""

import numpy as np
import pytest

from hemseg_cli.dataset.phantom.anatomy import draw_anatomy
from hemseg_cli.dataset.phantom.gantry import Gantry, Pose
from hemseg_cli.dataset.phantom.hemorrhages import with_kinds
from hemseg_cli.dataset.phantom.scanner import scan_head
from hemseg_cli.dataset.phantom.setting import draw_setting


def test_neck_and_jaw_are_as_dense_as_blood_and_never_labelled() -> None:
    rng = np.random.default_rng(0)
    head = with_kinds(draw_anatomy(rng), {"IPH": [5.0]}, rng)
    gantry = Gantry(matrix=96, slices=12, slice_distance_mm=5.0, centre_mm=(0.0, 0.0, -85.0))
    hu, label = scan_head(head, gantry, rng, pose=Pose())
    dense = np.count_nonzero((hu > 48) & (hu < 80)) * gantry.voxel_volume_mm3 / 1000
    assert not label.any()
    assert dense > 60.0  # mL
    assert np.count_nonzero(hu > 300) * gantry.voxel_volume_mm3 / 1000 > 10.0  # jaw, spine


def test_heads_differ_in_swelling_metal_and_calcified_dura() -> None:
    heads = [draw_anatomy(np.random.default_rng(seed)) for seed in range(40)]
    metal = sum(head.artefacts.metal is not None for head in heads)
    assert 3 <= metal <= 20
    assert len({len(head.soft) for head in heads}) == 2  # with and without a swelling
    assert len({len(head.spots) for head in heads}) > 4
    assert np.ptp([head.artefacts.band_hu for head in heads]) > 8


def test_metal_throws_streaks_in_its_own_slice_alone() -> None:
    head = next(
        head
        for head in (draw_anatomy(np.random.default_rng(seed)) for seed in range(60))
        if head.artefacts.metal is not None
    )
    assert head.artefacts.metal is not None
    z = head.artefacts.metal.shape.centre[2]
    spread = []
    for at in (z, z + 30.0):
        gantry = Gantry(matrix=96, slices=1, slice_distance_mm=3.0, centre_mm=(0.0, 0.0, at))
        hu, _ = scan_head(head, gantry, np.random.default_rng(1), pose=Pose())
        soft = hu[(hu > -150) & (hu < 200)]
        spread.append(float(np.percentile(soft, 95) - np.percentile(soft, 50)))
    assert spread[0] > 1.2 * spread[1]


@pytest.mark.parametrize("kind", ["IPH", "SDH", "EDH"])
def test_no_stack_cuts_off_a_hemorrhage_and_some_end_at_the_third_vertebra(kind: str) -> None:
    lowest = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        head = with_kinds(draw_anatomy(rng), {kind: [12.0]}, rng)
        gantry, pose = draw_setting(head, (28, 36), 64, seed, rng)
        (shape,) = head.hemorrhages
        steps = np.linspace(-shape.reach_mm, shape.reach_mm, 21)
        axes = np.meshgrid(*(at + steps for at in shape.centre), indexing="ij")
        inside = shape.distance(*axes) < 0
        points = np.stack([axis[inside] for axis in axes], axis=1)
        patient = points @ pose.rotation + np.array(pose.centre_mm)
        index = (patient - gantry.true_affine[:3, 3]) @ gantry.normal / gantry.slice_distance_mm
        assert index.min() > -1.0
        assert index.max() < gantry.slices
        middle = gantry.true_affine @ [31.5, 31.5, 0.0, 1.0]
        lowest.append(float(middle[2] - pose.centre_mm[2]) / head.cavity.skull.radii[2])
    assert min(lowest) < -1.5  # C3, as far below the centre as 1.5 skull heights
    assert max(lowest) > -1.1
