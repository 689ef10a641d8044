import os
import subprocess
import sys
from pathlib import Path

import pytest

from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.run_directory import RunDirectory, create_run, mark_latest, open_run


def test_names_inside_a_run_are_those_of_the_design() -> None:
    run = RunDirectory(Path("runs/a"))
    assert run.checkpoint("best") == Path("runs/a/checkpoints/best.pt")
    assert run.prediction_file("test", "0a1b2c3d4e") == Path(
        "runs/a/predictions/test/0a1b2c3d4e.nii.gz"
    )
    assert run.volumes_file("test") == Path("runs/a/predictions/test/volumes.csv")
    assert run.preview_file("test", "x") == Path("runs/a/predictions/test/preview/x.png")
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
