"""Ctrl-C while a file is being written, in every stage.

Exit 130, nothing half-written, and the same command then finishes the work.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hemseg_cli.app import run
from hemseg_cli.dataset.phantom.dataset import make_phantom
from tests.test_pipeline import CONFIG, SMALL

# Sends itself SIGINT when the n-th file is about to get its final name.
CHILD = """
import os, signal, sys
left, real = int(sys.argv[1]), os.fsync

def fsync(handle):
    global left
    left -= 1
    if left == 0:
        signal.raise_signal(signal.SIGINT)
    real(handle)

os.fsync = fsync
sys.argv = ["hemseg", *sys.argv[2:]]
from hemseg_cli.app import main
main()
"""


def _interrupted(
    number: int, arguments: list[str], folder: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(number), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage was run once."""
    folder = tmp_path_factory.mktemp("interrupt") / "work"
    make_phantom(folder / "phantom", seed=5, patients=6, matrix=32, slices=(8, 9), smallest_ml=3.0)
    (folder / "hemseg.toml").write_text(CONFIG.replace("previews = false", "previews = true"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (
            "fetch-labels",
            "convert",
            f"train --run a --set train.network={SMALL['dynunet'].replace(' ', '')}",
            "predict",
            "evaluate",
            "report",
        ):
            assert run([*command.split(), "--quiet"]) == 0, command
    return folder


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    ("arguments", "outputs", "made"),
    [
        (["fetch-labels"], "data", "data/phantom/*/label/*.nii.gz"),
        (["convert"], "data/phantom/*/image", "data/phantom/*/image/*.nii.gz"),
        (["predict"], "runs/a/predictions", "runs/a/predictions/test/*.nii.gz"),
        (["evaluate"], "runs/a/evaluation", "runs/a/evaluation/test/*"),
        (["report"], "runs/a/report*", "runs/a/report*"),
    ],
)
def test_ctrl_c_in_a_stage_leaves_nothing_half_written_and_the_same_command_finishes(
    arguments: list[str], outputs: str, made: str, number: int, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    shutil.copytree(finished, folder, symlinks=True)
    expected = sorted(path.relative_to(folder) for path in folder.glob(made))
    for path in folder.glob(outputs):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    stopped = _interrupted(number, arguments, folder)
    if stopped.returncode == 0 and arguments == ["evaluate"]:
        assert number > 2, "evaluate writes two files and no more"
        return
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert [path.name for path in folder.rglob("*.part.*")] == []
    again = subprocess.run(
        [sys.executable, "-m", "hemseg_cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert sorted(path.relative_to(folder) for path in folder.glob(made)) == expected
