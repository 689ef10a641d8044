import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.head_mask import HeadMask, find_head
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.preprocess import (
    NetworkGrid,
    Preprocess,
    network_grid,
    prepare_image,
    restore_probability,
)
from hemseg_cli.inference.ensemble import EnsembleNetwork
from hemseg_cli.inference.predictor import Predictor
from hemseg_cli.inference.sliding_window import WindowBox
from hemseg_cli.inference.subgrid import (
    box_of,
    mean_and_deviation,
    prepare_subgrid,
    restore_subgrid,
)
from hemseg_cli.inference.window_memory import bytes_per_voxel
from hemseg_cli.inference.windows import WindowRule, head_subgrid, plan_windows, split
from hemseg_cli.models.checkpoint import write_checkpoint
from hemseg_cli.models.registry import build_network

SETTINGS = Preprocess((0.7, 0.7, 4.0))


def _head_scan(matrix: int = 96, slices: int = 20) -> Volume:
    """An ellipsoid of brain in a shell of bone in a scalp, beside a thin table, in air.

    2 x 2 x 6 mm.
    """
    axes = [
        (np.arange(n) - (n - 1) / 2) * step
        for n, step in zip((matrix, matrix, slices), (2.0, 2.0, 6.0), strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt((x / 65) ** 2 + (y / 80) ** 2 + (z / 55) ** 2)
    array = np.full(radius.shape, -1000, np.int16)
    for limit, hu in [(1.16, 20), (1.1, 900), (1.0, 35)]:
        array[radius < limit] = hu
    array[:, 2, :] = 100  # the table
    return Volume(array, np.diag([2.0, 2.0, 6.0, 1.0]))


def _grid(volume: Volume, settings: Preprocess = SETTINGS) -> NetworkGrid:
    return network_grid(volume, settings)[1]


def test_box_holds_the_brain_but_not_the_table() -> None:
    volume = _head_scan()
    head = find_head(volume)
    grid = _grid(volume, Preprocess())
    part = head_subgrid(head, grid, 2.0)
    brain = [(int(hits.min()), int(hits.max())) for hits in np.nonzero(volume.array == 35)]
    assert head.is_head
    assert part is not None
    assert all(
        low <= first and last < high for (low, high), (first, last) in zip(part, brain, strict=True)
    )
    assert part[1][0] > 2
    assert math.prod(high - low for low, high in part) < 0.7 * volume.array.size


def test_tissue_without_a_skull_is_no_head() -> None:
    volume = _head_scan()
    assert not find_head(
        Volume(np.where(volume.array > 200, 40, volume.array), volume.affine)
    ).is_head


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        Preprocess(),
        Preprocess((3.0, None, 6.0)),
        replace(SETTINGS, alignment="monai"),
        Preprocess((3.0, 0.5, 14.0), thin_slices="average"),
        Preprocess((2.0, None, 14.0), thin_slices="average", alignment="monai"),
    ],
)
def test_a_part_is_prepared_and_restored_as_in_the_whole(settings: Preprocess) -> None:
    rng = np.random.default_rng(0)
    affine = np.diag([1.1, 0.9, 6.0, 1.0])
    if settings.alignment == "monai":
        affine[1, 2] = 1e-5  # as an sform rounded to float32: the grid is laid around the centre
    volume = Volume(rng.integers(0, 80, (30, 26, 9)).astype(np.int16), affine)
    whole, grid = prepare_image(volume, settings)
    part = tuple((n // 4, n - n // 5) for n in grid.shape)
    ours = prepare_subgrid(volume, grid, settings, part)  # type: ignore[arg-type]  # three ranges
    np.testing.assert_allclose(ours, whole[:, *box_of(part)], atol=1e-4)  # type: ignore[arg-type]  # three ranges
    probability = rng.random(grid.shape).astype(np.float32)
    back = restore_subgrid(probability[box_of(part)], grid, part)  # type: ignore[arg-type]  # three ranges
    reference = restore_probability(probability, grid)
    np.testing.assert_allclose(
        back.full()[box_of(back.part)], reference[box_of(back.part)], atol=1e-4
    )
    everything = restore_subgrid(probability, grid, tuple((0, n) for n in grid.shape))  # type: ignore[arg-type]  # three ranges
    np.testing.assert_allclose(everything.full(), reference, atol=1e-5)


def test_mean_and_deviation_of_two_networks_on_different_parts() -> None:
    grid = _grid(Volume(np.zeros((8, 8, 4), np.int16), np.eye(4)), Preprocess())
    one = restore_subgrid(np.full((4, 8, 4), 0.8, np.float32), grid, ((0, 4), (0, 8), (0, 4)))
    two = restore_subgrid(np.full((6, 8, 4), 0.4, np.float32), grid, ((2, 8), (0, 8), (0, 4)))
    mean, deviation = mean_and_deviation([one, two])
    assert deviation is not None
    np.testing.assert_allclose(
        mean.full()[:, 0, 0], [0.4, 0.4, 0.6, 0.6, 0.2, 0.2, 0.2, 0.2], atol=1e-6
    )
    np.testing.assert_allclose(deviation.full()[[0, 2, 5], 0, 0], [0.4, 0.2, 0.2], atol=1e-3)


@pytest.mark.parametrize("resizable", [True, False])
@pytest.mark.parametrize("multiple", [(16, 16, 16), (32, 32, 4), (8, 8, 8)])
def test_windows_hold_all_of_the_head_and_sizes_that_the_network_takes(
    resizable: bool, multiple: tuple[int, int, int]
) -> None:
    volume = _head_scan()
    head, grid = find_head(volume), _grid(volume)
    rule = WindowRule((64, 64, 16), multiple, resizable, 200_000, 0.25)
    windows = plan_windows(head, grid, rule, margin_mm=2.0)
    covered = np.zeros(grid.shape, dtype=bool)
    for window in windows:
        covered[window.inside(grid.shape)] = True
        assert math.prod(window.size) <= 200_000
        assert all(
            n % m == 0
            for n, m in zip(window.size, multiple if resizable else rule.patch, strict=True)
        )
    nearest = [
        np.minimum(np.rint(np.arange(n) * new / old).astype(int), size - 1)
        for n, new, old, size in zip(
            grid.shape, grid.spacing_mm, (2.0, 2.0, 6.0), volume.array.shape, strict=True
        )
    ]
    brain = volume.array[np.ix_(*nearest)] == 35
    assert covered[brain].all()


def test_one_window_where_memory_allows_and_smaller_ones_where_not() -> None:
    window = WindowBox((0, 0, 0), (64, 32, 16))
    rule = WindowRule((16, 16, 8), (4, 4, 4), True, 64 * 32 * 16, 0.25)
    assert list(split(window, rule)) == [window]
    pieces = list(split(window, WindowRule((16, 16, 8), (4, 4, 4), True, 10_000, 0.25)))
    covered = np.zeros(window.size, dtype=bool)
    for piece in pieces:
        covered[piece.inside(window.size)] = True
        assert math.prod(piece.size) <= 10_000
    assert covered.all()


def test_a_scan_without_head_is_computed_whole() -> None:
    volume = Volume(np.zeros((20, 20, 8), np.int16), np.diag([1.0, 1.0, 5.0, 1.0]))
    head = HeadMask(np.ones((7, 7, 8), dtype=bool), (3.0, 3.0, 5.0), False)
    windows = plan_windows(
        head,
        _grid(volume, Preprocess()),
        WindowRule((8, 8, 4), (4, 4, 4), True, 10**6, 0.25),
        margin_mm=0.0,
    )
    assert [window.start for window in windows] == [(0, 0, 0), (0, 0, 3), (0, 0, 4)]
    assert {window.size for window in windows} == {
        (20, 20, 4)
    }  # all of the plane, and in depth what the network learnt on


def test_bytes_per_voxel_is_counted_by_hand() -> None:
    network = nn.Sequential(nn.Conv3d(1, 6, 1), nn.ReLU(), nn.Conv3d(6, 1, 1))
    # At the most: the input, six channels before and six after the ReLU; all float32, and half as
    # much again.
    assert bytes_per_voxel(network, 1, (8, 8, 8), torch.device("cpu")) == pytest.approx(
        1.5 * 4 * (1 + 6 + 6), rel=0.1
    )


@pytest.mark.parametrize("weighting", ["constant", "gaussian"])
def test_with_crop_and_large_windows_off_a_scan_is_predicted_as_by_monai(
    weighting: str, tmp_path: Path
) -> None:
    network = _random_unet(tmp_path / "model.pt")
    volume = _head_scan(40, 12)
    off = PredictConfig(
        crop=False, window="patch", precision="float32", weighting=weighting, overlap=0.25
    )  # type: ignore[arg-type]  # parametrized
    predictor = Predictor.load([tmp_path / "model.pt"], off, device="cpu")
    image, grid = prepare_image(volume, SETTINGS)
    with torch.inference_mode():
        logits = sliding_window_inference(
            torch.from_numpy(image)[None], (32, 32, 8), 4, network, overlap=0.25, mode=weighting
        )
    reference = restore_probability(logits.sigmoid()[0, 0].numpy(), grid)
    np.testing.assert_allclose(predictor.probability(volume), reference, atol=1e-5)


def test_out_of_memory_on_the_device_halves_the_windows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = _head_scan(40, 12)
    _random_unet(tmp_path / "model.pt")
    predictor = Predictor.load([tmp_path / "model.pt"], PredictConfig(overlap=0.25), device="cpu")
    member = predictor.networks[0]
    assert isinstance(member, EnsembleNetwork)
    network, seen = member.network, []

    def small(image: torch.Tensor) -> torch.Tensor:
        if image.numel() > 6000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(image.numel())
        answer: torch.Tensor = network(image)
        return answer

    member.network = small  # type: ignore[assignment]  # called, no more
    found = predictor.probability(volume)
    assert len(seen) > 1
    assert max(seen) <= member.rule.most_voxels
    before = len(seen)
    predictor.probability(volume)
    assert len(seen) == 2 * before  # asked for small windows from the start
    member.network = network
    np.testing.assert_array_equal(predictor.probability(volume), found)


def test_no_memory_even_for_small_windows_is_said(tmp_path: Path) -> None:
    _random_unet(tmp_path / "model.pt")
    predictor = Predictor.load([tmp_path / "model.pt"], PredictConfig(), device="cpu")

    def none(_image: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    member = predictor.networks[0]
    assert isinstance(member, EnsembleNetwork)
    member.network = none  # type: ignore[assignment]  # called, no more
    with pytest.raises(
        CaseError, match=r"cpu has no memory left for a window of \d+ voxels of unet"
    ):
        predictor.probability(_head_scan(24, 6))


def _random_unet(path: Path) -> nn.Module:
    """A small U-Net with random weights, and its checkpoint."""
    torch.manual_seed(0)
    config = {"channels": [4, 8], "strides": [2], "num_res_units": 1}
    network = build_network("unet", config, 1).eval()
    about = {
        "model_name": "unet",
        "model_config": config,
        "preprocess": SETTINGS.to_dict(),
        "patch": [32, 32, 8],
        "in_channels": 1,
    }
    write_checkpoint(path, {"model": network.state_dict(), **about, "step": 0, "epoch": 0})
    return network
