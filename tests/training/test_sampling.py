from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from hemseg_cli.config import Config
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.imaging.nifti import Volume, write_volume
from hemseg_cli.training.cache import PreparedCase, prepared_cases, preprocess_of
from hemseg_cli.training.sampling import PatchDataset
from tests.training.scans import AFFINE, ball_scan, config_for

# The window of these brains of 35 HU, so that their tissue is above 0 after normalisation.
PAPER = (
    "train.recipe=paper",
    "train.model=unet",
    "train.spacing_mm=[0, 0, 0]",
    "train.windows=[[0, 60]]",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for seed in range(3):
        ball_scan(root / "tiny", f"s{seed}", seed=seed)
    return root


def _cases(root: Path, *assignments: str) -> tuple[Config, list[PreparedCase]]:
    config = config_for(root, *assignments)
    return config, prepared_cases(
        config,
        [ball_scan(root / "tiny", f"s{seed}", seed=seed) for seed in range(3)],
        preprocess_of(config.train),
    )


def _dataset(
    root: Path, patch: tuple[int, int, int], *assignments: str, seed: int = 1, epoch: int = 0
) -> PatchDataset:
    config, cases = _cases(root, *assignments)
    return PatchDataset(cases, config.train, patch, seed=seed, epoch=epoch)


def _arrays(dataset: PatchDataset) -> NDArray[np.float32]:
    return np.stack([dataset[index]["image"].numpy() for index in range(len(dataset))])


def test_a_patch_depends_on_seed_epoch_and_index_alone(root):
    strong = (
        "train.augment.rotation_p=0.5",
        "train.augment.noise_p=0.5",
        "train.augment.elastic_p=0.5",
    )
    first = _dataset(root, (16, 16, 8), *strong)
    expected = _arrays(first)
    again = _dataset(root, (16, 16, 8), *strong)
    for index in (7, 0, 19, 7):
        np.testing.assert_array_equal(again[index]["image"], expected[index])
    assert not np.array_equal(_arrays(_dataset(root, (16, 16, 8), *strong, epoch=1)), expected)
    assert not np.array_equal(_arrays(_dataset(root, (16, 16, 8), *strong, seed=2)), expected)


def test_worker_processes_change_nothing(root):
    dataset = _dataset(
        root, (16, 16, 8), "train.augment.gamma_p=0.5", "train.augment.rotation_p=0.5"
    )
    loader: DataLoader[dict[str, Any]] = DataLoader(
        dataset, batch_size=4, num_workers=2, multiprocessing_context="fork"
    )
    np.testing.assert_array_equal(torch.cat([batch["image"] for batch in loader]), _arrays(dataset))


def test_each_scan_gives_as_many_patches_as_asked(root):
    dataset = _dataset(root, (16, 16, 8), "train.patches_per_scan=5")
    scans = [dataset.scan(index) for index in range(len(dataset))]
    assert {scan: scans.count(scan) for scan in set(scans)} == {"s0": 5, "s1": 5, "s2": 5}
    assert [dataset[index]["scan"] for index in range(3)] == scans[:3]
    item = dataset[0]
    assert (item["image"].dtype, item["image"].shape) == (torch.float32, (2, 16, 16, 8))
    assert (item["label"].dtype, item["label"].shape) == (torch.float32, (1, 16, 16, 8))


def test_paper_takes_four_patches_of_a_scan_in_a_row(root):
    dataset = _dataset(root, (16, 16, 8), *PAPER)
    scans = [dataset.scan(index) for index in range(len(dataset))]
    assert len(scans) == 12
    assert all(len(set(scans[first : first + 4])) == 1 for first in (0, 4, 8))


def test_unaugmented_patches_are_pieces_of_the_scan(root):
    dataset = _dataset(root, (9, 8, 5), "train.recipe=paper", "train.augment.mirror_p=[0, 0, 0]")
    for index in range(len(dataset)):
        item = dataset[index]
        case = next(case for case in dataset.cases if case.scan == item["scan"])
        windows = np.lib.stride_tricks.sliding_window_view(case.image[0], (9, 8, 5))
        assert (windows == item["image"][0].numpy()).all((3, 4, 5)).sum() == 1


def test_paper_centres_half_of_the_patches_on_hemorrhage(root):
    """Patches of one voxel are their own centre.

    Hemorrhage in half of them, and everywhere in it and around it equally often.
    """
    dataset = _dataset(root, (1, 1, 1), *PAPER, "train.patches_per_scan=400")
    hits = [bool(dataset[index]["label"].any()) for index in range(len(dataset))]
    # A binomial of 1200 draws: four standard deviations are 0.058.
    assert abs(np.mean(hits) - 0.5) < 0.058


def test_strong_shows_hemorrhage_in_more_than_a_third_and_not_always_in_the_middle(root):
    dataset = _dataset(
        root,
        (12, 12, 5),
        "train.patches_per_scan=60",
        "train.augment.rotation_p=0",
        "train.augment.scale_p=0",
    )
    labels = np.stack([dataset[index]["label"][0].numpy() for index in range(len(dataset))])
    assert labels.any((1, 2, 3)).mean() > 1 / 3
    centred = labels[:, 6, 6, 2].mean()
    assert 0.1 < centred < labels.any((1, 2, 3)).mean()


@pytest.mark.parametrize(("padding", "outside"), [("air", -1.0), ("zero", 0.0)])
def test_a_patch_larger_than_the_scan_is_padded_on_both_sides(root, padding, outside):
    dataset = _dataset(
        root, (40, 36, 16), *PAPER, f"train.padding={padding}", "train.windows=[[0, 80]]"
    )
    item = dataset[0]
    case = next(case for case in dataset.cases if case.scan == item["scan"])
    inner = item["image"][0, 4:36, 4:32, 3:13].numpy()
    every_mirror = [tuple(axis for axis in range(3) if bits >> axis & 1) for bits in range(8)]
    assert sum(np.array_equal(np.flip(case.image[0], axes), inner) for axes in every_mirror) == 1
    assert item["label"].sum() == case.label.sum()
    border = item["image"][0].numpy().copy()
    border[4:36, 4:32, 3:13] = outside
    assert (border == outside).all()


def test_swin_unetr_patches_come_from_the_padded_scan_as_published(root):
    """SpatialPad to 40 x 40 x 16, symmetric, then patches of 32 x 32 x 12 anywhere in it.

    They begin at -4 to 4, -6 to 2 and -3 to 1.
    """
    dataset = _dataset(
        root,
        (32, 32, 12),
        *PAPER,
        "train.pad_to=[40, 40, 16]",
        "train.patches_per_scan=40",
        "train.augment.mirror_p=[0, 0, 0]",
    )
    rows = [
        (item["image"][0] != 0).any(2).any(1).nonzero()[:, 0]
        for item in (dataset[index] for index in range(len(dataset)))
    ]
    firsts = {int(found[0]) for found in rows}
    lasts = {31 - int(found[-1]) for found in rows}
    assert firsts == set(range(5))
    assert lasts == set(range(5))


def test_an_empty_train_split_is_refused(root):
    config = config_for(root)
    with pytest.raises(HemsegError, match="the train split is empty"):
        PatchDataset([], config.train, (8, 8, 4), seed=0, epoch=0)


def test_labels_without_any_hemorrhage(tmp_path):
    cases = [ball_scan(tmp_path / "tiny", "a"), ball_scan(tmp_path / "tiny", "b")]
    write_volume(
        tmp_path / "tiny" / cases[1].label, Volume(np.zeros((32, 28, 10), np.uint8), AFFINE)
    )
    config = config_for(tmp_path)
    prepared = prepared_cases(config, cases, preprocess_of(config.train))
    dataset = PatchDataset(prepared, config.train, (16, 16, 8), seed=0, epoch=0)
    assert {dataset[index]["scan"] for index in range(len(dataset))} == {"a", "b"}
    with pytest.raises(HemsegError, match="none of the 1 training labels has any hemorrhage"):
        PatchDataset(prepared[1:], config.train, (16, 16, 8), seed=0, epoch=0)


def _dataset_of_volumes(
    root: Path, truth_ml: list[float], *assignments: str, epoch: int = 0
) -> PatchDataset:
    config, cases = _cases(root, *assignments)
    sized = [
        replace(case, case=replace(case.case, truth_ml=ml))
        for case, ml in zip(cases, truth_ml, strict=True)
    ]
    return PatchDataset(sized, config.train, (16, 16, 8), seed=1, epoch=epoch)


def _shares(dataset: PatchDataset) -> list[int]:
    scans = [dataset.scan(index) for index in range(len(dataset))]
    return [scans.count(f"s{number}") for number in range(3)]


@pytest.mark.parametrize("order", ["mixed", "by_scan"])
def test_small_lesions_are_drawn_more_often_by_the_power_of_their_volume(
    root: Path, order: str
) -> None:
    common = ("train.patches_per_scan=7", f"train.patch_order={order}")
    power = ("train.small_lesion_power=0.5",)
    # 1 / sqrt(1), 1 / sqrt(4), 1 / sqrt(16) of 21 patches: 12, 6, 3.
    assert _shares(_dataset_of_volumes(root, [1.0, 4.0, 16.0], *common, *power)) == [12, 6, 3]
    assert _shares(_dataset_of_volumes(root, [1.0, 4.0, 16.0], *common)) == [7, 7, 7]
    # One without hemorrhage counts as the middle of the others; below 0.1 mL all are alike.
    empty = _shares(_dataset_of_volumes(root, [0.0, 9.0, 9.0], *common, *power))
    assert empty == [7, 7, 7]
    tiny = _shares(_dataset_of_volumes(root, [0.001, 0.1, 0.1], *common, *power))
    assert tiny == [7, 7, 7]


def test_shares_of_scans_that_are_no_whole_numbers_hold_over_the_epochs(root: Path) -> None:
    power = ("train.patches_per_scan=1", "train.small_lesion_power=1")
    counts = np.array(
        [
            _shares(_dataset_of_volumes(root, [1.0, 2.0, 4.0], *power, epoch=epoch))
            for epoch in range(200)
        ]
    )
    assert (counts.sum(axis=1) == 3).all()
    # 3 patches in the ratio of 4 : 2 : 1.
    np.testing.assert_allclose(counts.mean(axis=0), [12 / 7, 6 / 7, 3 / 7], atol=0.1)
    assert set(counts[:, 0]) == {1, 2}
