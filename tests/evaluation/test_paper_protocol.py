"""The published protocol: its interval restated, MONAI's own chain on the resampled grid."""

import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.metrics import (
    DiceMetric,
    HausdorffDistanceMetric,
    MeanIoU,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)
from monai.transforms import Compose, Orientation, Spacing

from hemseg_cli.core.errors import CaseError
from hemseg_cli.evaluation.bootstrap import Interval
from hemseg_cli.evaluation.metric_table import metric_rows
from hemseg_cli.evaluation.metrics import CaseMetrics, case_metrics
from hemseg_cli.evaluation.paper_protocol import PAPER_GRID, paper_interval, paper_pair
from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.imaging.preprocess import prepare_label

# L-P-S axes, as the published labels have.
LPS = np.array([[-0.62, 0, 0, 30], [0, -0.62, 0, 25], [0, 0, 5.2, -40], [0, 0, 0, 1.0]])


def published_interval(data: list[float]) -> tuple[float, float, float]:
    """Plain Python: 5000 resamples by RandomState(47), sorted means, elements 125 and 4875."""
    random = np.random.RandomState(47)
    resamples = random.choice(np.array(data), size=(5000, len(data)), replace=True)
    means = sorted(np.mean(resamples, axis=1).tolist())
    return round(float(np.mean(data)), 4), round(means[125], 4), round(means[4875], 4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 200, allow_nan=False), min_size=1, max_size=60))
def test_interval_is_the_published_one_to_the_last_digit(data: list[float]) -> None:
    found = paper_interval(data)
    assert (found.mean, found.ci_low, found.ci_high) == published_interval(data)


def test_undefined_cases_drop_out_of_the_published_mean() -> None:
    assert paper_interval([10.0, math.inf, 20.0, math.nan]) == paper_interval([10.0, 20.0])
    assert paper_interval([10.0, math.inf, 20.0, math.nan]).n == 2
    assert (
        paper_interval([math.inf]).to_dict() == Interval(math.nan, math.nan, math.nan, 0).to_dict()
    )


def masks() -> tuple[Volume, Volume]:
    i, j, k = np.ogrid[:70, :64, :14]
    truth = ((i - 30) / 14) ** 2 + ((j - 30) / 10) ** 2 + ((k - 6) / 3) ** 2 <= 1
    prediction = ((i - 34) / 13) ** 2 + ((j - 27) / 11) ** 2 + ((k - 7) / 3) ** 2 <= 1
    prediction[60:63, 50:55, 12] = True
    return Volume(prediction.astype(np.uint8), LPS), Volume(truth.astype(np.uint8), LPS)


@dataclass(frozen=True)
class Found:
    dice: float
    iou: float
    hd95_voxel: float


def paper_metrics(prediction: Volume, truth: Volume) -> Found:
    """The paper's rows of the metric table."""
    pair = paper_pair(prediction, truth)
    case = CaseMetrics(pair, 1.0, 2.0, pair)
    rows = {row.key: row for row in metric_rows("paper", 2.0)}
    functions = [rows[key].function for key in ("dice", "iou", "hd95_voxel")]
    return Found(*(function(case) for function in functions if function is not None))


def on_monais_grid(volume: Volume) -> torch.Tensor:
    chain = Compose(
        [
            Orientation(axcodes="RAS", labels=None),
            Spacing(pixdim=PAPER_GRID.spacing_mm, mode="nearest"),
        ]
    )
    return torch.as_tensor(
        np.asarray(chain(MetaTensor(volume.array[None].astype(np.float32), affine=volume.affine)))
    )


@pytest.mark.filterwarnings(
    "ignore:monai.metrics.utils get_mask_edges:FutureWarning"
)  # MONAI calls itself so
def test_values_are_monais_on_the_resampled_grid() -> None:
    prediction, truth = masks()
    found = paper_metrics(prediction, truth)
    tensors = [on_monais_grid(volume)[None] for volume in (prediction, truth)]
    dice, iou, hd95 = (
        DiceMetric(),
        MeanIoU(),
        HausdorffDistanceMetric(include_background=True, percentile=95),
    )
    for metric in (dice, iou, hd95):
        metric(y_pred=tensors[0], y=tensors[1])
    assert found.dice == pytest.approx(float(dice.aggregate()), abs=1e-5)
    assert found.iou == pytest.approx(float(iou.aggregate()), abs=1e-5)
    assert found.hd95_voxel == pytest.approx(float(hd95.aggregate()), abs=1e-5)


def test_published_labels_resample_as_monai_does(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "hemseg" / "IPH_IVH_label.zip") as archive:
        member = min(
            name
            for name in archive.namelist()
            if "/test/label/" in name and name.endswith(".nii.gz")
        )
        (tmp_path / "label.nii.gz").write_bytes(archive.read(member))
    label = read_volume(tmp_path / "label.nii.gz")
    assert np.array_equal(prepare_label(label, PAPER_GRID), on_monais_grid(label)[0].numpy())


def test_empty_masks_are_undefined_as_in_the_published_table() -> None:
    _, truth = masks()
    empty = Volume(np.zeros_like(truth.array), LPS)
    missed = paper_metrics(empty, truth)
    assert (missed.dice, missed.iou) == (0.0, 0.0)
    assert math.isnan(missed.hd95_voxel)


def test_the_networks_own_mask_is_scored_as_it_is(tmp_path: Path) -> None:
    prediction, truth = masks()
    own = prepare_label(prediction, PAPER_GRID)
    own[:, :, 3] = 0  # what no mask on the scan's grid could give
    write_volume(tmp_path / "own.nii.gz", Volume(own, np.diag([0.49, 0.49, 4.65, 1.0])))
    pair = paper_pair(prediction, truth, network_mask=tmp_path / "own.nii.gz")
    label = prepare_label(truth, PAPER_GRID)
    assert pair.prediction.count == int(own.sum())
    assert pair.overlap == int((own & label).sum())


def test_a_network_mask_of_another_grid_is_refused(tmp_path: Path) -> None:
    prediction, truth = masks()
    write_volume(tmp_path / "own.nii.gz", Volume(np.ones((9, 9, 9), np.uint8), np.eye(4)))
    with pytest.raises(CaseError, match=r"own.nii.gz has \(9, 9, 9\) voxels"):
        paper_pair(prediction, truth, network_mask=tmp_path / "own.nii.gz")


@pytest.mark.filterwarnings(
    "ignore:monai.metrics.utils get_mask_edges:FutureWarning"
)  # MONAI calls itself so
def test_45_perturbed_test_labels_score_as_monai_does(shared_data: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    with zipfile.ZipFile(shared_data / "hemseg" / "IPH_IVH_label.zip") as archive:
        names = [name for name in archive.namelist() if re.search(r"/test/label/\w", name)]
        assert len(names) == 45
        for name in names:
            (tmp_path / "label.nii.gz").write_bytes(archive.read(name))
            label = read_volume(tmp_path / "label.nii.gz")
            shift = random.integers(-6, 7, size=2)
            moved = np.roll(label.array, tuple(int(n) for n in shift), axis=(0, 1))
            moved = moved * (random.random(moved.shape[2]) < 0.9)  # some slices are lost
            # Cut to what holds both, so that MONAI's distance transform ends within seconds.
            both = np.argwhere((moved != 0) | (label.array != 0))
            box = tuple(
                slice(max(0, n - 2), m + 3) for n, m in zip(both.min(0), both.max(0), strict=True)
            )
            p, t = moved[box].astype(np.uint8), label.array[box].astype(np.uint8)
            if not p.any():
                continue
            spacing = spacing_mm(label.affine)
            tensors = [torch.from_numpy(np.ascontiguousarray(m))[None, None] for m in (p, t)]
            found = case_metrics(p, t, spacing_mm=spacing, voxel_volume_mm3=1.0, tolerance_mm=2.0)
            assert found.dice == pytest.approx(float(compute_dice(*tensors)), abs=1e-4)
            assert found.iou == pytest.approx(float(compute_iou(*tensors)), abs=1e-4)
            hd95 = compute_hausdorff_distance(
                *tensors, include_background=True, percentile=95, spacing=spacing
            )
            assert found.hd95_mm == pytest.approx(float(hd95), abs=1e-4)
            surface = compute_surface_dice(
                *tensors, [2.0], include_background=True, spacing=spacing
            )
            assert found.nsd == pytest.approx(float(surface), abs=1e-4)
