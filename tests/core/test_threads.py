"""The number of threads on machines that are described by files, and beside a real neighbour."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hemseg_cli.core import console, threads
from hemseg_cli.core.executor import default_workers
from hemseg_cli.core.threads import (
    choose_threads,
    idle_cores,
    never_spin,
    usable_cores,
    use_threads,
)


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 cores without any quota yet."""
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path


@pytest.fixture(autouse=True)
def _torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("text", "cores"),
    [("400000 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 16), ("", 16)],
)
def test_quota_of_a_container_limits_the_cores(cgroups: Path, text: str, cores: int) -> None:
    _write(cgroups / "cgroup" / "cpu.max", text)
    assert usable_cores() == default_workers() == cores


def test_the_smallest_quota_above_a_group_counts(cgroups: Path) -> None:
    (cgroups / "own").write_text("0::/jobs/alice/42\n")
    _write(cgroups / "cgroup/jobs/alice/42/cpu.max", "800000 100000")
    _write(cgroups / "cgroup/jobs/alice/cpu.max", "300000 100000")
    _write(cgroups / "cgroup/jobs/cpu.max", "max 100000")
    assert usable_cores() == 3


def test_quota_of_version_1_is_read_from_its_own_tree(cgroups: Path) -> None:
    (cgroups / "own").write_text("7:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n0::/\n")
    # Inside the container the group is the root of what is mounted.
    _write(cgroups / "cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n")
    _write(cgroups / "cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert usable_cores() == 3
    _write(cgroups / "cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    assert usable_cores() == 16


def test_without_proc_the_affinity_counts(cgroups: Path) -> None:
    (cgroups / "own").unlink()
    assert usable_cores() == 16


@pytest.mark.parametrize(
    ("cores", "idle", "processes", "chosen"),
    [
        (16, 16.0, 1, 16),
        (16, 14.6, 1, 15),
        (16, 3.2, 1, 3),
        (16, 0.1, 1, 1),
        (2, 1.1, 1, 1),
        (4, 16.0, 1, 4),  # a quota of four on an idle machine
        (16, 16.0, 4, 4),
        (2, 2.0, 4, 1),
    ],
)
def test_threads_are_the_idle_cores_shared_out(
    cores: int, idle: float, processes: int, chosen: int
) -> None:
    assert choose_threads(cores, idle, processes=processes) == chosen


def test_a_neighbour_that_keeps_a_core_busy_is_seen() -> None:
    busy = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    cores = sorted(os.sched_getaffinity(0))
    neighbours = [subprocess.Popen(busy, stdout=subprocess.PIPE) for _ in cores]
    try:
        for neighbour, core in zip(neighbours, cores, strict=True):
            os.sched_setaffinity(neighbour.pid, {core})
            assert neighbour.stdout is not None
            neighbour.stdout.readline()
        # Every core has one: nothing is idle, whatever else runs here.
        assert idle_cores() < 0.5
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.communicate()


def test_the_users_number_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "idle_cores", lambda: 0.0)
    assert use_threads(3, environ={"OMP_NUM_THREADS": "2"}) == torch.get_num_threads() == 3
    assert use_threads(None, environ={"OMP_NUM_THREADS": "2"}) == 3  # torch has read it already


def test_busy_cores_are_left_to_the_neighbour_and_said(
    cgroups: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "idle_cores", lambda: 3.0)
    console.configure()
    torch.set_num_threads(8)  # as torch counts the cores without their hyper-threads
    assert use_threads(None, environ={}) == torch.get_num_threads() == 3
    assert "13.0 of 16 cores are busy with other work: 3 threads used" in capsys.readouterr().err
    monkeypatch.setattr(threads, "idle_cores", lambda: 16.0)
    torch.set_num_threads(8)
    assert use_threads(None, environ={}) == 8
    assert not capsys.readouterr().err


def test_processes_of_torchrun_share_the_cores(cgroups: Path) -> None:
    # torchrun's own default of one thread is no choice of the user's.
    assert use_threads(None, environ={"LOCAL_WORLD_SIZE": "4", "OMP_NUM_THREADS": "1"}) == 4
    torch.set_num_threads(2)
    assert use_threads(None, environ={"LOCAL_WORLD_SIZE": "4", "OMP_NUM_THREADS": "2"}) == 2


def test_waiting_threads_sleep_unless_the_user_says_otherwise() -> None:
    environ = {"OMP_WAIT_POLICY": "active"}
    never_spin(environ)
    assert environ == {"OMP_WAIT_POLICY": "active", "KMP_BLOCKTIME": "0"}


def test_command_sets_it_before_torch_is_loaded(tmp_path: Path) -> None:
    code = """
        import os, sys
        import hemseg_cli.app as app
        before = "torch" in sys.modules
        app.run = lambda: print(before, os.environ["OMP_WAIT_POLICY"], os.environ["KMP_BLOCKTIME"])
        app.main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["False", "passive", "0"], done.stderr
