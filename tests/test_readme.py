"""Every command and example of the README, typed as it stands there."""

import contextlib
import csv
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from hemseg_cli.app import app, run
from hemseg_cli.core.cases import read_cases
from hemseg_cli.core.run_directory import RunDirectory, mark_latest
from hemseg_cli.dataset.phantom.dataset import make_phantom
from hemseg_cli.evaluation.metric_table import metric_rows
from tests.inference.small_model import make_run

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
# As the demo's config, and small enough that an epoch takes a second.
CONFIG = """\
[data]
dataset = "phantom"
[fetch]
source = "phantom"
[convert]
dicom = "phantom"
[compute]
workers = 0
device = "cpu"
[train]
max_minutes = 0.01
patch = [32, 32, 8]
patches_per_scan = 1
batch_size = 2
folds = 3
choose = "mask"
validation_cases = 1
[train.models.dynunet]
network = { channels = [4, 8, 8], strides = [[1,1,1],[2,2,1],[2,2,2]], \
kernels = [[3,3,1],[3,3,3],[3,3,3]], supervised_levels = 1 }
[train.models.unet]
network = { channels = [4, 8], strides = [2] }
[train.models.attention-unet]
patch = [32, 32, 16]
network = { channels = [4, 8], strides = [2] }
[report]
viewer_matrix = 64
"""


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def _typed() -> list[str]:
    """Commands of the README in its order: those of code blocks, and of the table of steps."""
    found = []
    for place in re.finditer(
        r"^```sh\n(?P<block>.*?)^```|^\| \d+\. .*?`(?P<step>hemseg [^`]+)`",
        TEXT,
        re.DOTALL | re.MULTILINE,
    ):
        lines = place["step"] or place["block"]
        for line in lines.splitlines():
            found += [part.strip() for part in line.split("  #")[0].split("&&")]
    return found


# The two lines that install are what .ci/run does; tests/test_demo.py runs the demo.
COMMANDS = [line for line in _typed() if line.startswith(("hemseg ", "torchrun "))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of what `hemseg demo` leaves, with scans of the user's own below HOME."""
    home = tmp_path_factory.mktemp("home")
    place = home / "hemseg-demo"
    make_phantom(
        place / "phantom",
        seed=5,
        patients=8,
        matrix=48,
        slices=(10, 12),
        workers=0,
        smallest_ml=3.0,
    )
    (place / "hemseg.toml").write_text(CONFIG)
    (home / "rsna").symlink_to(place / "phantom")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for arguments in ("fetch-labels", "convert", "train --run first"):
            assert run([*arguments.split(), "--quiet"]) == 0

    cases = read_cases(place / "data/phantom/cases.csv")
    (home / "scans").mkdir()
    shutil.copy(place / "data/phantom" / cases[0].image, home / "scans/patient1.nii.gz")
    for kind in ("image", "label"):
        (home / f"labelled/{kind}s").mkdir(parents=True)
        for case in cases:
            file = place / "data/phantom" / getattr(case, kind)
            shutil.copy(file, home / f"labelled/{kind}s/{case.scan}.nii.gz")
    sidecar = (place / "data/phantom" / cases[1].image).with_name(f"{cases[1].scan}.json")
    (home / "dicom/patient2").mkdir(parents=True)
    for name in json.loads(sidecar.read_text())["source_slices"]:
        shutil.copy(place / f"phantom/stage_2_train/ID_{name}.dcm", home / "dicom/patient2")
    return place


@pytest.fixture
def typist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test stand in the demo's folder, as its user."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("COLUMNS", "80")


def _type(command: str) -> None:
    words = shlex.split(command)
    words = [os.path.expanduser(word) for word in words]  # as the shell does
    if words[0] == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        assert run(words[1:]) == 0, command


@contextlib.contextmanager
def _terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """stdout and stderr as a terminal; what was written on it is in the list afterwards."""
    here, there = pty.openpty()
    written: list[bytes] = []
    shown: list[str] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(here, 65536):
                written.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with monkeypatch.context() as patch, open(there, "w", encoding="utf-8") as stream:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        yield shown
    reader.join()
    os.close(here)
    text = b"".join(written).decode().replace("\r\n", "\n")
    shown.append(re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", text))


@pytest.mark.usefixtures("typist")
@pytest.mark.filterwarnings("ignore")  # of the networks' own libraries
def test_commands_of_the_readme_exit_0_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) > 20
    for command in COMMANDS:
        _type(command)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        if command.startswith("hemseg"):
            assert out.strip(), command
    pages = list(Path("runs").glob("*/report.html"))
    assert len(pages) >= 2


@pytest.mark.usefixtures("typist")
@pytest.mark.filterwarnings("ignore")
def test_results_on_80_columns_hold_every_word_of_those_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _type("hemseg predict")
    for command in COMMANDS:
        # Typed again, these do the same work and print the same result.
        if not re.match("hemseg (evaluate|report|doctor|fetch-labels|convert)", command):
            continue
        capsys.readouterr()
        _type(command)
        piped = capsys.readouterr().out
        with _terminal(monkeypatch) as shown:
            _type(command)
        # What a metric means is the same each time, and a narrow terminal says where it stands.
        words = set(piped.split()) - _words_of_definitions()
        assert {word for word in words if word not in shown[0] and not _changes(word)} == set()
        # A path alone may be wider: it is never broken.
        wide = [line for line in shown[0].splitlines() if len(line) > 80]
        wide = [line for line in wide if len(line) - max(map(len, line.split())) > 20]
        assert wide == []


def _words_of_definitions() -> set[str]:
    rows = [*metric_rows("native", 2.0), *metric_rows("paper", 2.0)]
    return {word for row in rows for word in row.definition.split()}


def _changes(word: str) -> bool:
    """Tell whether a word is a rule of a table, or a time."""
    return set(word) <= set("─-━ ") or bool(re.fullmatch(r"[\d.]+", word))


@pytest.mark.usefixtures("typist")
def test_python_example_gives_the_volume_of_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder.parent / "scans/patient1.nii.gz", "scan.nii.gz")
    make_run(folder, "bright")  # its masks are not empty
    mark_latest(RunDirectory(folder / "runs/bright"))
    (code,) = _blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    volume_ml, shape = capsys.readouterr().out.split(maxsplit=1)
    assert run(["predict", "scan.nii.gz", "--out", "by-command", "--quiet"]) == 0
    head, row = list(csv.reader(Path("by-command/volumes.csv").read_text().splitlines()))
    by_command = dict(zip(head, row, strict=True))
    ((_, in_ml),) = [(key, text) for key, text in by_command.items() if key.endswith("_ml")][:1]
    assert float(in_ml) > 1
    assert float(volume_ml) == pytest.approx(float(in_ml), abs=1e-3)
    assert shape.startswith("(48, 48")


@pytest.mark.usefixtures("typist")
def test_config_of_the_readme_is_valid(tmp_path: Path) -> None:
    (text,) = _blocks("toml")
    (tmp_path / "hemseg.toml").write_text(text)
    assert run(["config", "validate", str(tmp_path / "hemseg.toml")]) == 0


def test_readme_names_every_command_and_no_option_that_is_none() -> None:
    group = typer.main.get_command(app)
    commands = group.commands  # type: ignore[attr-defined]
    table = set(re.findall(r"^\| `hemseg ([a-z-]+)` \|", TEXT, re.MULTILINE))
    assert table == set(commands)

    options = {
        option
        for command in [group, *commands.values(), *commands["config"].commands.values()]
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    others = {"--nproc-per-node", "--shm-size"}  # torchrun's, docker's
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
    assert named - others - options - {"--help"} == set()


def test_keys_of_the_readme_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for assignment in re.findall(r"--set\s+((?:[a-z_]+\.)+\w+=[^\s`]+)", TEXT):
        assert run(["config", "show", "--quiet", "--set", assignment]) == 0
