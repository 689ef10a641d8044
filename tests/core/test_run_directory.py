import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.run_directory import (
    RunDirectory,
    create_run,
    discard_run,
    mark_latest,
    open_run,
)


def test_names_inside_a_run_are_those_of_the_design() -> None:
    run = RunDirectory(Path("runs/a"))
    assert run.checkpoint("best") == Path("runs/a/checkpoints/best.pt")
    assert run.prediction_file("test", "0a1b2c3d4e") == Path(
        "runs/a/predictions/test/0a1b2c3d4e.nii.gz"
    )
    assert run.volumes_file("test") == Path("runs/a/predictions/test/volumes.csv")
    assert run.evaluation_cases_file("val") == Path("runs/a/evaluation/val/cases.csv")
    assert run.evaluation_summary_file("val") == Path("runs/a/evaluation/val/summary.json")
    assert run.history_file == Path("runs/a/train/history.csv")


def test_newest_run_is_opened_without_a_name(tmp_path: Path) -> None:
    create_run(tmp_path, model="unet", name="first")
    mark_latest(create_run(tmp_path, model="unet", name="second"))
    assert open_run(tmp_path).name == "second"
    assert open_run(tmp_path, "first").name == "first"
    assert open_run(tmp_path / "elsewhere", tmp_path / "first").name == "first"


def test_default_name_is_model_and_utc_time(tmp_path: Path) -> None:
    assert create_run(tmp_path, model="unet").name.startswith("unet-20")


def test_no_run_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(HemsegError, match="no run in") as caught:
        open_run(tmp_path)
    assert "hemseg train" in caught.value.hint


def test_unknown_run_lists_what_there_is(tmp_path: Path) -> None:
    create_run(tmp_path, model="unet", name="there")
    with pytest.raises(HemsegError, match="no run other") as caught:
        open_run(tmp_path, "other")
    assert "there" in caught.value.hint
    assert "latest" not in caught.value.hint


@pytest.mark.parametrize("name", ["../up", "a/b", "latest", "", " x", "-x"])
def test_name_that_leaves_the_runs_folder_is_refused(tmp_path: Path, name: str) -> None:
    if name == "":
        assert create_run(tmp_path, model="unet", name=name).path.parent == tmp_path
        return
    with pytest.raises(UsageError, match="not a run name"):
        create_run(tmp_path, model="unet", name=name)


def test_runs_root_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(HemsegError, match="cannot create run folder"):
        create_run(tmp_path / "runs", model="unet", name="a")


def test_second_writer_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    run = create_run(tmp_path, model="unet", name="a")
    code = f"""
import sys
from pathlib import Path
from hemseg_cli.core.run_directory import RunDirectory
with RunDirectory(Path({str(run.path)!r})).lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HemsegError, match=f"process {holder.pid}"), run.lock():
            pass
        holder.kill()
    with run.lock():
        assert (run.path / ".lock.holder").read_text() == f"{os.getpid()}\n"


def _train(run: RunDirectory, at_s: float) -> RunDirectory:
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    run.checkpoint("last").write_bytes(b"weights")
    os.utime(run.checkpoint("last"), (at_s, at_s))
    return run


def test_two_runs_in_one_second_get_two_names(tmp_path: Path) -> None:
    names = [create_run(tmp_path, model="unet").name for _ in range(4)]
    assert len(set(names)) == 4
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("how", ["gone", "untrained", "nonsense", "outside", "absent"])
def test_where_latest_names_no_trained_run_the_newest_is_taken(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for at_s, name in enumerate(["z-old", "a-new", "b-middle"]):
        _train(create_run(tmp_path, model="unet", name=name), 1000.0 + (at_s == 1) * 10 + at_s)
    latest = tmp_path / "latest"
    if how == "untrained":
        mark_latest(create_run(tmp_path, model="unet", name="failed"))
    elif how == "gone":
        latest.symlink_to("no-such-run")
    elif how == "nonsense":
        latest.write_bytes(b"\x1b[2J\n")
    elif how == "outside":
        latest.write_text("../..\n")
    assert open_run(tmp_path).name == "a-new"
    assert ("a-new" in capsys.readouterr().err) == (how != "absent")
    assert open_run(tmp_path, "latest").name == "a-new"


def test_without_links_latest_is_a_text_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", no_links)
    for at_s, name in enumerate(["second", "first"]):
        _train(create_run(tmp_path, model="unet", name=name), 1000.0 + at_s)
    mark_latest(RunDirectory(tmp_path / "first"))
    mark_latest(RunDirectory(tmp_path / "second"))
    assert (tmp_path / "latest").read_text() == "second\n"
    assert open_run(tmp_path).name == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "latest", "second"]


def test_a_failed_training_leaves_nothing_of_its_own_and_everything_else(tmp_path: Path) -> None:
    run = create_run(tmp_path, model="unet", name="a")
    with run.lock():
        run.config_file.write_text("")
        run.log_file.write_text("")
        discard_run(run)
    assert not run.path.exists()

    run = create_run(tmp_path, model="unet", name="b")
    (run.path / "notes.txt").write_text("mine")
    run.config_file.write_text("")
    discard_run(run)
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]

    trained = _train(create_run(tmp_path, model="unet", name="c"), 1000.0)
    trained.config_file.write_text("")
    discard_run(trained)
    assert trained.config_file.exists()
    assert trained.is_trained
