import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceLoss

from hemseg_cli.config import Config
from hemseg_cli.config.schema import LossConfig, TrainConfig
from hemseg_cli.core.classes import PREDEFINED, read_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import UsageError
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.inference.predict import predict
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.models.checkpoint_settings import classes_of
from hemseg_cli.training.cache import prepared_cases, preprocess_of
from hemseg_cli.training.class_channels import UNKNOWN, ClassChannels, channels_of
from hemseg_cli.training.losses import make_loss
from hemseg_cli.training.sampling import PatchDataset
from hemseg_cli.training.scans import training_cases
from hemseg_cli.training.train import train
from tests.training.class_scans import KINDS, class_data
from tests.training.scans import config_for

KEYS = [kind.key for kind in KINDS]
NETWORK = (
    "train.model=dynunet",
    "train.network={channels=[8, 16, 16], strides=[1, [2, 2, 1], 2], "
    "kernels=[[3, 3, 1], 3, 3], supervised_levels=1}",
    "train.patch=[32, 32, 8]",
    "train.batch_size=2",
    "train.patches_per_scan=4",
    "train.lr=0.01",
    "train.augment.rotation_p=0.3",
    "train.loss.cross_entropy=1.0",
    "train.output_bias=0.02",
    "predict.split=val",
)


def _config(root: Path, dataset: str, *assignments: str) -> Config:
    return config_for(
        root / "data",
        f"runs.root='{root / 'runs'}'",
        *NETWORK,
        f"data.dataset={dataset}",
        "train.validation_every=100",
        *assignments,
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """A run trained on five classes, with its val split predicted."""
    root = tmp_path_factory.mktemp("five")
    class_data(root, "five", drawn=KEYS, train=6)
    config = _config(root, "five", "train.epochs=16")
    train(config, run="five")
    predict(config, runs=["five"])
    return root, config


def test_a_network_learns_to_tell_five_classes_apart(five: tuple[Path, Config]) -> None:
    root, config = five
    folder = root / "runs" / "five" / "predictions" / "val"
    for case in training_cases(config).val:
        truth = read_label(config.data.folder / case.label).array
        mask = read_label(folder / f"{case.scan}.nii.gz").array
        for kind in KINDS:
            a, b = mask == kind.value, truth == kind.value
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.8, kind.key


def test_checkpoint_and_folder_of_masks_name_the_classes(five: tuple[Path, Config]) -> None:
    root, _ = five
    checkpoint = read_checkpoint(root / "runs" / "five" / "checkpoints" / "best.pt")
    assert classes_of(checkpoint) == KINDS
    assert read_classes(DataDirectory(root / "runs/five/predictions/val")) == KINDS
    assert checkpoint["model"]["output_block.conv.conv.weight"].shape[0] == len(KINDS)


def test_tables_state_volumes_and_lesions_of_each_class(five: tuple[Path, Config]) -> None:
    root, _ = five
    folder = root / "runs" / "five" / "predictions" / "val"
    rows = _rows(folder / "volumes.csv")
    lesions = _rows(folder / "lesions.csv")
    for row in rows:
        mask = read_label(folder / f"{row['scan']}.nii.gz").array
        # 0.5 x 0.5 x 5 mm: 0.00125 mL a voxel.
        for kind in KINDS:
            ml = float((mask == kind.value).sum()) * 0.00125
            assert float(row[f"{kind.key}_ml"]) == pytest.approx(ml, abs=1e-6)
            own = [
                float(lesion["volume_ml"])
                for lesion in lesions
                if lesion["scan"] == row["scan"] and lesion["class"] == kind.key
            ]
            assert sum(own) == pytest.approx(ml, abs=1e-5)
        assert float(row["predicted_ml"]) == pytest.approx(float((mask > 0).sum()) * 0.00125)


def test_history_has_a_dice_for_each_class(five: tuple[Path, Config]) -> None:
    root, _ = five
    rows = _rows(root / "runs/five/train/history.csv")
    by_class = [float(rows[-1][f"val_dice_{key}"]) for key in KEYS]
    assert float(rows[-1]["val_dice"]) == pytest.approx(np.mean(by_class))


def test_every_class_is_drawn_as_often_however_rare(tmp_path: Path) -> None:
    # One scan of five has EDH at all.
    class_data(tmp_path, "rare", drawn=["IPH", "IVH"], labelled=["IPH", "IVH", "EDH"], train=4)
    config = _config(tmp_path, "rare", "train.patches_per_scan=30", "train.foreground_share=1")
    cases = training_cases(config).train
    folder = config.data.folder
    from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume

    label = read_volume(folder / cases[0].label)
    array = label.array.copy()
    array[10:12, 10:12, 2] = 6
    write_volume(folder / cases[0].label, Volume(array, label.affine))
    prepared = prepared_cases(config, cases, preprocess_of(config.train))
    data = PatchDataset(prepared, config.train, (16, 16, 4), seed=0, epoch=0)

    drawn = [channel for _, channel in data._order]
    counts = [drawn.count(channel) for channel in range(3)]
    assert len(drawn) == 120
    assert max(counts) - min(counts) <= 1
    # A patch that is centred on a class holds it.
    for index in range(0, 120, 7):
        assert data[index]["label"][data._order[index][1]].any()


def test_loss_of_several_classes_is_monais_mean_over_them() -> None:
    random = torch.Generator().manual_seed(1)
    logits = torch.randn((2, 3, 6, 6, 4), generator=random)
    label = (torch.rand(logits.shape, generator=random) > 0.7).float()
    train = TrainConfig(loss=LossConfig(dice=1, cross_entropy=0.5, dice_smooth=1e-5))
    dice = DiceLoss(sigmoid=True, smooth_nr=1e-5, smooth_dr=1e-5)(logits, label)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
    assert make_loss(train)(logits, label) == pytest.approx(float(dice + 0.5 * entropy), rel=1e-5)


@pytest.mark.parametrize("over_batch", [False, True])
def test_unknown_classes_take_no_part_in_the_loss(over_batch: bool) -> None:
    random = torch.Generator().manual_seed(1)
    logits = torch.randn((2, 3, 6, 6, 4), generator=random, requires_grad=True)
    label = (torch.rand(logits.shape, generator=random) > 0.7).float()
    label[:, 2] = UNKNOWN
    label[1, 1] = UNKNOWN
    settings = LossConfig(dice=1, cross_entropy=1, focal=1, dice_over_batch=over_batch)
    loss = make_loss(TrainConfig(loss=settings))(logits, label)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[:, 2].any()
    assert not logits.grad[1, 1].any()
    assert logits.grad[0, 1].any()


def test_dice_over_the_batch_is_that_of_what_is_known() -> None:
    random = torch.Generator().manual_seed(1)
    logits = torch.randn((2, 3, 6, 6, 4), generator=random)
    label = (torch.rand(logits.shape, generator=random) > 0.7).float()
    label[:, 2] = UNKNOWN
    label[1, 1] = UNKNOWN
    loss = make_loss(TrainConfig(loss=LossConfig(dice_over_batch=True)))
    parts = [loss(logits[:, :1], label[:, :1]), loss(logits[:1, 1:2], label[:1, 1:2])]
    assert float(loss(logits, label)) == pytest.approx(float(sum(parts)) / 2, rel=1e-5)


def test_a_parent_is_the_union_of_its_kinds_only_where_all_are_labelled() -> None:
    hemorrhage, iph, ivh = PREDEFINED[:3]
    run = (hemorrhage, iph, ivh)
    assert channels_of(run, (iph, ivh)).values == ((2, 3), (2,), (3,))
    assert channels_of(run, (iph,)).values == (None, (2,), None)
    assert channels_of(run, (hemorrhage,)).values == ((1,), None, None)


def test_a_label_map_is_split_into_channels() -> None:
    label = torch.tensor([[[[0.0, 2.0, 3.0]]]])
    channels = ClassChannels(((2,), (2, 3), None)).split(label)
    assert channels[:, 0, 0].tolist() == [[0, 1, 0], [0, 1, 1], [-1, -1, -1]]


def test_recipe_paper_is_refused_with_the_reason(tmp_path: Path) -> None:
    class_data(tmp_path, "two", drawn=["IPH", "IVH"], train=1, val=1)
    config = _config(tmp_path, "two", "train.recipe=paper", "train.model=unet")
    with pytest.raises(UsageError, match="one class, and two has IPH, IVH"):
        train(config)
