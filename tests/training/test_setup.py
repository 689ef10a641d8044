"""What is checked and chosen before a training begins."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from hemseg_cli.core import console
from hemseg_cli.core.cases import Case, write_cases
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.imaging.nifti import Volume, write_volume
from hemseg_cli.training.batches import workers_within
from hemseg_cli.training.data_sets import data_set_cases
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.ema import ema_decay
from hemseg_cli.training.sampling import PatchDataset, _tissue_voxel
from hemseg_cli.training.scans import sample_by_volume, training_cases
from hemseg_cli.training.setup import compiled, make_setup, share_batch, use_device
from hemseg_cli.training.train import train
from tests.training.scans import AFFINE, ball_scan
from tests.training.small_run import exit_code, small_config, start_child, write_config

CPU = torch.device("cpu")
MB = 1_000_000


@pytest.mark.parametrize(
    ("wanted", "batch_mb", "free_mb", "workers"),
    [
        (8, 10, 10_000, 8),
        (8, 10, 64, 1),  # 80 % of 64 MB, less two batches of 10, holds three batches once
        (4, 30, 64, 0),
        (4, 10, 0, 0),
        (8, 10, 175, 4),
    ],
)
def test_workers_are_as_many_as_shared_memory_holds(
    wanted: int, batch_mb: int, free_mb: int, workers: int
) -> None:
    assert workers_within(wanted, batch_mb * MB, free_mb * MB) == workers


def test_sample_by_volume_has_small_and_large_hemorrhages() -> None:
    cases = [Case(f"s{n}", truth_ml=float((n * 7) % 20)) for n in range(20)]
    volumes = [case.truth_ml or 0.0 for case in sample_by_volume(cases, 4)]
    assert sorted(volumes) == [2, 7, 12, 17]
    assert sample_by_volume(cases, None) == cases
    assert sample_by_volume(cases, 50) == cases


def test_val_split_without_hemorrhage_is_refused_before_a_run_is_made(place: Path) -> None:
    folder = place / "data" / "tiny"
    config = small_config(place)
    for case in training_cases(config).val:
        write_volume(folder / case.label, Volume(np.zeros((24, 22, 8), np.uint8), AFFINE))
    with pytest.raises(
        HemsegError, match="none of the 2 labels of the val split has any hemorrhage"
    ):
        train(config, run="empty")
    assert not (place / "runs" / "empty").exists()
    assert not (place / "runs" / "latest").is_symlink()


def test_batch_is_shared_out_and_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(place, "train.batch_size=2")
    assert share_batch(config, Processes(0, 2)) is config
    console.configure()
    assert share_batch(config, Processes(0, 4)).train.batch_size == 4
    assert "train.batch_size = 2 over 4 processes: 4 patches a step" in capsys.readouterr().err
    console.configure(quiet=True)


def test_switches_of_the_device_follow_their_keys(place: Path) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        use_device(small_config(place, "train.tf32=false", "train.deterministic=true"), CPU)
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.are_deterministic_algorithms_enabled()
        use_device(small_config(place), CPU)
        assert torch.get_float32_matmul_precision() == "high"
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_float32_matmul_precision(before)


def test_compile_is_left_out_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure()
    monkeypatch.setenv("PATH", "")
    network = torch.nn.Conv3d(1, 1, 1)
    assert compiled(network, CPU) is network
    assert "there is no C compiler" in capsys.readouterr().err
    console.configure(quiet=True)


@pytest.mark.parametrize("steps", [1_000, 80_000])
def test_average_of_the_weights_is_over_a_share_of_the_training(steps: int) -> None:
    share, now = 0.02, steps // 2
    decay = ema_decay(share, now, steps)
    # Weights of one time constant ago count 1 / e of today's.
    assert decay ** (share * steps) == pytest.approx(np.exp(-1), rel=0.05)
    assert ema_decay(share, 1, steps) < 0.2


def test_600_scans_are_trained_with_256_file_descriptors(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "tiny"
    source = ball_scan(folder, "s0", shape=(12, 12, 4))
    image, label = (folder / source.image).read_bytes(), (folder / source.label).read_bytes()
    cases = []
    for n in range(600):
        case = Case(
            f"s{n}",
            patient=f"p{n}",
            split="val" if n % 100 == 0 else "train",
            image=f"train/image/s{n}.nii.gz",
            label=f"train/label/s{n}.nii.gz",
        )
        (folder / case.image).write_bytes(image)
        (folder / case.label).write_bytes(label)
        cases.append(case)
    write_cases(folder / "cases.csv", cases)
    config = small_config(
        tmp_path, "train.patches_per_scan=1", "train.batch_size=100", "train.choose=none"
    )

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    child = start_child(
        ["train", "--config", str(write_config(tmp_path, config)), "--run", "many"],
        tmp_path / "out",
        before=limit_files,
    )
    assert exit_code(child) == 0, (tmp_path / "out").read_text()


def test_paper_centres_of_negatives_are_those_of_monai(place: Path) -> None:
    """MONAI's RandCropByPosNegLabeld with image_threshold = 0 on the same normalised head."""
    from monai.transforms import map_binary_to_indices

    config = small_config(
        place,
        "train.recipe=paper",
        "train.spacing_mm=[0, 0, 0]",
        "train.windows=[[0, 70]]",
        "train.patch=[1, 1, 1]",
        "train.patches_per_scan=1500",
        "train.foreground_share=0",
        "train.augment.mirror_p=[0, 0, 0]",
        network=("train.model=unet",),
    )
    assert config.train.background_centres == "tissue"
    cases = data_set_cases(config)
    setup = make_setup(config, cases, CPU, Processes())
    dataset = setup.loading.patches_of(0)
    assert isinstance(dataset, PatchDataset)
    case = dataset.cases[0]
    _, background = map_binary_to_indices(
        np.array(case.label)[None], np.array(case.image), image_threshold=0.0
    )
    background = np.asarray(background)
    random = np.random.default_rng(0)
    drawn = np.array([_tissue_voxel(case, random) for _ in range(20 * len(background))])
    counts = np.bincount(np.ravel_multi_index(drawn.T, case.shape), minlength=case.label.size)
    assert set(np.flatnonzero(counts)) <= set(background)
    # Each voxel 20 times on average: a chi-squared of n - 1 degrees of freedom, 5 sigma.
    chi = float(((counts[background] - 20.0) ** 2 / 20.0).sum())
    freedom = len(background) - 1
    assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)
