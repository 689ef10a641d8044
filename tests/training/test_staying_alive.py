"""What may go wrong in a night of training, done for real."""

import errno
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.models import checkpoint
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.training import loop, sampling
from hemseg_cli.training.batches import Loading
from hemseg_cli.training.data_sets import data_set_cases
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.setup import make_setup, make_state
from hemseg_cli.training.state import load_last, save_last
from hemseg_cli.training.train import train
from tests.training.small_run import exit_code, small_config, start_child, write_config

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def poison(place: Path, scan: str) -> None:
    """Put NaN into the preprocessed image, as a failing disk would.

    The checks on the way in have passed.
    """
    (file,) = (place / "data" / "tiny" / ".cache").glob(f"*/{scan}-*/image.npy")
    image = np.load(file)
    image[:] = np.nan
    np.save(file, image)


def fill_cache(place: Path) -> None:
    make_setup(
        small_config(place), data_set_cases(small_config(place)), torch.device("cpu"), Processes()
    )


def test_batches_with_a_loss_that_is_not_finite_are_skipped_and_counted(place: Path) -> None:
    fill_cache(place)
    poison(place, "train1")
    # Batch normalisation would keep the NaN of a skipped batch in its statistics.
    network = ("train.model=attention-unet", "train.network={channels=[4, 8], strides=[[2, 2, 1]]}")
    result = train(
        small_config(
            place,
            "train.non_finite_batches=100",
            "train.epochs=1",
            "train.ema_share=0",
            network=network,
        ),
        run="poisoned",
    )
    state = read_checkpoint(result.run.checkpoint("last"))
    assert state["progress"]["history"][0]["skipped"] > 0
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["network"].values())
    assert "the loss is not finite; batch skipped (" in result.run.log_file.read_text()


def test_training_stops_after_a_few_bad_batches_in_a_row_and_names_the_scans(place: Path) -> None:
    fill_cache(place)
    for scan in ("train0", "train1", "train2"):
        poison(place, scan)
    config = small_config(place, "train.non_finite_batches=3")
    with pytest.raises(
        HemsegError, match=r"not finite in 3 batches in a row, of the scans .*train\d"
    ) as caught:
        train(config, run="bad")
    assert "hemseg doctor" in caught.value.hint
    assert not (config.runs.root / "bad").exists(), "a run without a trained weight is removed"
    assert not (config.runs.root / "latest").is_symlink()


def values_to_save(place: Path) -> dict[str, object]:
    """A checkpoint to resume from, of a training that has not begun."""
    config, device = small_config(place), torch.device("cpu")
    setup = make_setup(config, data_set_cases(config), device, Processes())
    return make_state(config, setup, device, Processes()).resume_checkpoint()


def test_kill_at_any_byte_of_a_save_leaves_a_whole_checkpoint(place: Path) -> None:
    run = RunDirectory(place / "killed")
    values = values_to_save(place)
    save_last(run, {**values, "epoch": 1, "weights": torch.zeros(40_000)})
    size = run.checkpoint("last").stat().st_size
    for limit in (0, 1, size // 2, size - 1, size * 2):
        child = os.fork()
        if child == 0:
            try:
                _kill_myself_after(limit)
                save_last(run, {**values, "epoch": 2, "weights": torch.ones(40_000)})
            finally:
                os._exit(0)
        killed = exit_code(child) == -signal.SIGKILL
        state = read_checkpoint(run.checkpoint("last"))
        assert state["epoch"] == (1 if killed else 2)
        assert torch.equal(state["weights"], torch.full((40_000,), float(state["epoch"] - 1)))
    assert not killed  # the last one had room for the whole file


def _kill_myself_after(limit: int) -> None:
    written = [0]
    write = checkpoint._Sink.write

    def counted(self: checkpoint._Sink, data: bytes) -> int:
        room = limit - written[0]
        if len(data) > room:
            write(self, bytes(data)[:room])
            self.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        written[0] += len(data)
        return write(self, data)

    checkpoint._Sink.write = counted  # type: ignore[method-assign]  # in a child that is about to die


def test_full_disk_stops_the_training_with_the_old_checkpoint_whole(
    place: Path, tmp_path: Path
) -> None:
    config = small_config(place, "train.save_minutes=0")
    fill_cache(place)
    marker = tmp_path / "marker"

    def limit_files() -> None:
        step = loop.train_step

        def full(*arguments: object) -> object:
            if (
                config.runs.root / "full" / "checkpoints" / "previous.pt"
            ).exists():  # two saves were made
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
                marker.touch()
            return step(*arguments)  # type: ignore[arg-type]  # passed on as they came

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        loop.train_step = full  # type: ignore[assignment]  # in a child

    child = start_child(
        ["train", "--config", str(write_config(place, config)), "--run", "full"],
        tmp_path / "out",
        before=limit_files,
    )
    assert exit_code(child) == 1, (tmp_path / "out").read_text()
    assert marker.exists()
    run = RunDirectory(config.runs.root / "full")
    assert "cannot write" in (tmp_path / "out").read_text()
    assert os.strerror(errno.EFBIG) in (tmp_path / "out").read_text()
    assert read_checkpoint(run.checkpoint("last"))["progress"]["batch"] >= 1
    assert not [path for path in run.checkpoints.iterdir() if ".part" in path.name]
    assert train(config, run="full", resume=True).epochs == 2


def test_damaged_last_checkpoint_offers_the_one_before(place: Path) -> None:
    run = RunDirectory(place / "damaged")
    for epoch in (6, 7):
        save_last(run, {**values_to_save(place), "epoch": epoch})
    data = bytearray(run.checkpoint("last").read_bytes())
    run.checkpoint("last").write_bytes(data[: len(data) // 2])
    with pytest.raises(FileFormatError, match=r"last\.pt is damaged") as caught:
        load_last(run)
    assert (
        f"epoch 6, is whole: mv {run.checkpoint('previous')} {run.checkpoint('last')} &&"
        in caught.value.hint
    )


def test_dead_loader_worker_is_named_with_its_scan(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = sampling.PatchDataset.__getitem__

    def die_on_train2(self: sampling.PatchDataset, index: int) -> object:
        if self.scan(index) == "train2":
            os.kill(os.getpid(), signal.SIGKILL)
        return cut(self, index)

    monkeypatch.setattr(sampling.PatchDataset, "__getitem__", die_on_train2)
    with pytest.raises(
        HemsegError, match="a loader worker died while it was cutting a patch from scan train2"
    ):
        train(small_config(place, "compute.workers=1"), run="dead-worker")


def test_death_of_a_worker_is_told_though_its_connection_ends_first() -> None:
    def news_of_death(_signal: int, _frame: object) -> None:
        raise RuntimeError(f"DataLoader worker (pid {os.getpid()}) is killed by signal: Killed.")

    class OneScan:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> dict[str, object]:
            return {}

        def scan(self, index: int) -> str:
            return f"scan{index}"

    def read_from_a_dead_worker() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        raise ConnectionResetError

    loading = Loading(lambda _epoch: OneScan(), workers=1)
    loading.note(0, (0, 7))
    usual = signal.signal(signal.SIGALRM, news_of_death)  # torch's comes with SIGCHLD
    try:
        with (
            pytest.raises(HemsegError, match="cutting a patch from scan scan7"),
            loading.deaths_named(),
        ):
            read_from_a_dead_worker()
    finally:
        signal.signal(signal.SIGALRM, usual)


def test_out_of_memory_names_the_two_settings_to_lower(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(place)
    setup = make_setup(config, data_set_cases(config), torch.device("cpu"), Processes())
    state = make_state(config, setup, torch.device("cpu"), Processes())

    class Greedy(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.new_empty(2**60)  # refused by the system's allocator

    state.parallel = Greedy()
    with pytest.raises(
        HemsegError,
        match=r"out of memory on cpu with train\.batch_size = 2 and train\.patch = \[16, 16, 4\]",
    ) as caught:
        next(loop.run_epochs(state, setup, Processes()))
    assert "--set train.batch_size=1 or --set train.patch=[8, 8, 4]" in caught.value.hint


def test_second_interrupt_leaves_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed_twice(*_arguments: object) -> float:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return 0.0

    monkeypatch.setattr(loop, "train_step", pressed_twice)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(small_config(place), run="twice")
    assert signal.getsignal(signal.SIGINT) is before
