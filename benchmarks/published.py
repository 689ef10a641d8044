"""The published chain stated again with MONAI, to measure against: data, training, testing.

It follows the description of the published scripts and uses nothing of hemseg's own imaging.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.inferers import sliding_window_inference
from monai.losses.dice import DiceLoss
from monai.metrics import DiceMetric, HausdorffDistanceMetric, MeanIoU
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    ScaleIntensityRanged,
    Spacingd,
)

from hemseg_cli.core.cases import Case

SPACING_MM = (0.4882810115814209, 0.4882810115814209, 4.649400138854981)
PATCH = (256, 256, 16)
PATCHES_PER_SCAN = 4
_KEYS = ["image", "label"]
_LOW, _HIGH, _MEAN, _STD = 11.99969482421875, 79.0, 48.13441467285156, 13.457549095153809


def _preprocessing() -> list[Any]:
    """Load, orient, resample, clip and normalise: the same for training and testing."""
    return [
        LoadImaged(_KEYS, reader="NibabelReader"),
        EnsureChannelFirstd(_KEYS),
        Orientationd(_KEYS, axcodes="RAS", labels=None),
        Spacingd(_KEYS, pixdim=SPACING_MM, mode=("bilinear", "nearest")),
        ScaleIntensityRanged("image", a_min=_LOW, a_max=_HIGH, b_min=_LOW, b_max=_HIGH, clip=True),
        NormalizeIntensityd("image", subtrahend=_MEAN, divisor=_STD),
    ]


def score_scan(
    network: torch.nn.Module, image: Path, label: Path, patch: Sequence[int] = PATCH
) -> tuple[dict[str, float], torch.Tensor]:
    """Dice, IoU and HD95 (voxels) of one scan as the published test scripts score it, and its mask.

    The mask is bool [i, j, k] on the resampled grid.
    """
    data = Compose(_preprocessing())({"image": str(image), "label": str(label)})
    device = next(network.parameters()).device
    with torch.inference_mode():
        logits = sliding_window_inference(
            data["image"][None].as_tensor().to(device), patch, 4, network.eval(), overlap=0.25
        )
    mask = (logits.sigmoid() >= 0.5).float().cpu()
    truth = (data["label"][None].as_tensor() > 0).float()

    metrics = {
        "dice": DiceMetric(include_background=True),
        "iou": MeanIoU(include_background=True),
        "hd95_voxel": HausdorffDistanceMetric(include_background=True, percentile=95),
    }
    return {name: float(metric(mask, truth)) for name, metric in metrics.items()}, mask[0, 0].bool()


def chain(patch: Sequence[int] = PATCH) -> Compose:
    """Load, orient, resample, clip and normalise, crop four patches, flip.

    For each scan, each epoch.
    """
    return Compose(
        [
            *_preprocessing(),
            RandCropByPosNegLabeld(
                _KEYS,
                label_key="label",
                spatial_size=patch,
                pos=1,
                neg=1,
                num_samples=PATCHES_PER_SCAN,
            ),
            *(RandFlipd(_KEYS, prob=0.5, spatial_axis=axis) for axis in range(3)),
        ]
    )


def loader(
    folder: Path,
    cases: Sequence[Case],
    *,
    scans_per_batch: int,
    workers: int,
    patch: Sequence[int] = PATCH,
) -> DataLoader:
    """One pass gives one epoch."""
    files = [
        {"image": str(folder / case.image), "label": str(folder / case.label)} for case in cases
    ]
    return DataLoader(
        Dataset(files, chain(patch)), batch_size=scans_per_batch, shuffle=True, num_workers=workers
    )


def unet_steps(batches: DataLoader, device: torch.device, *, epochs: int = 1) -> Iterator[float]:
    """The published U-Net training: the loss of each step."""
    network = UNet(3, 1, 1, (32, 64, 128, 256, 512), (2, 2, 2, 2), num_res_units=2).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.01)
    loss_of = DiceLoss(sigmoid=True)
    for batch in itertools.chain.from_iterable(itertools.repeat(batches, epochs)):
        optimizer.zero_grad()
        loss: Any = loss_of(
            network(batch["image"].to(device).as_tensor()), batch["label"].to(device).as_tensor()
        )
        loss.backward()
        optimizer.step()
        yield loss.item()
