"""The published protocol: the interval function restated from its description, and MONAI's own chain on the resampled grid."""

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.metrics import DiceMetric, HausdorffDistanceMetric, MeanIoU
from monai.transforms import Compose, Orientation, Spacing

from hemseg_cli.evaluation.bootstrap import Interval
from hemseg_cli.evaluation.paper_protocol import PAPER_GRID, paper_interval, paper_metrics
from hemseg_cli.imaging.nifti import Volume, read_volume
from hemseg_cli.imaging.preprocess import prepare_label

# L-P-S axes, as the published labels have.
LPS = np.array([[-0.62, 0, 0, 30], [0, -0.62, 0, 25], [0, 0, 5.2, -40], [0, 0, 0, 1.0]])


def published_interval(data: list[float]) -> tuple[float, float, float]:
    """FACTS in plain Python: 5000 resamples by RandomState(47), sorted means, elements 125 and 4875, 4 digits."""
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
    prediction, truth = masks()
    empty = Volume(np.zeros_like(truth.array), LPS)
    missed = paper_metrics(empty, truth)
    assert (missed.dice, missed.iou) == (0.0, 0.0)
    assert math.isnan(missed.hd95_voxel)
    no_truth = paper_metrics(prediction, empty)
    assert all(math.isnan(value) for value in (no_truth.dice, no_truth.iou, no_truth.hd95_voxel))
