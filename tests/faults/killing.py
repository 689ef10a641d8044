"""Kill a command at its n-th change of a folder, and judge what it has left there.

The tests here kill a few times, `benchmarks/faults.py` as often as one likes.
"""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hemseg_cli.core.files import read_table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KILLED = -9


@dataclass(frozen=True)
class Ended:
    """How a command ended: `changes` is how often it has changed the folder, 0 if killed."""

    status: int
    changes: int
    orphans: list[str]
    said: str
    seconds: float


class Killer:
    """Runs commands in copies of one process, each to its end or to its n-th change."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self._process = process
        self._output = output

    def run(self, arguments: Sequence[str], folder: Path, *, kill_at: int = 0) -> Ended:
        """Run one command in a folder; `kill_at`: the change at which it is killed, 0: never."""
        asked = {
            "arguments": [*arguments],
            "folder": str(folder),
            "kill_at": kill_at,
            "output": str(self._output),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process that runs the commands has died at {arguments}"
        return Ended(**json.loads(answer))


@contextmanager
def killer(folder: Path) -> Iterator[Killer]:
    """Start the process that runs commands; `folder` is for its own files.

    Skips the test where there is no C compiler or no Linux.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("counting file operations needs Linux and a C compiler")
    library = folder / "count_operations.so"
    source = HERE / "count_operations.c"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)

    environment = os.environ | {
        "LD_PRELOAD": str(library),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    command = [sys.executable, HERE / "kept_alive.py", library]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, cwd=folder, env=environment
    ) as process:
        try:
            yield Killer(process, folder / "output.txt")
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=30)


# --- What lies in a folder ------------------------------------------------------------------------

Files = dict[str, str]
"""Path below the folder -> hash of what it says."""


def files_of(folder: Path) -> Files:
    """Hash every file below a folder; a link is hashed as its target's name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = _meaning(path)
    return found


def _meaning(path: Path) -> str:
    """Hash what a file says: of a checkpoint its weights, since it also holds times."""
    digest = hashlib.sha256()
    if path.suffix == ".pt":
        import torch

        try:
            values = torch.load(path, weights_only=True)
        except Exception:  # half a checkpoint: its bytes differ from every whole one
            return hashlib.sha256(path.read_bytes()).hexdigest()
        for name, weight in sorted(values["model"].items()):
            digest.update(name.encode() + weight.numpy().tobytes())
    else:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read_pt(path: Path) -> None:
    import torch

    torch.load(path, weights_only=True)


def _read_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def _read_html(path: Path) -> None:
    assert path.read_text().rstrip().endswith("</html>")


def _read_png(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.load()


_READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".toml": lambda path: tomllib.loads(path.read_text()),
    ".csv": lambda path: read_table(path, columns={}),
    ".gz": lambda path: gzip.decompress(path.read_bytes()),
    ".pt": _read_pt,
    ".zip": _read_zip,
    ".html": _read_html,
    ".png": _read_png,
}


def is_whole(path: Path) -> bool:
    """Whether a file can be read to its end by a reader of its kind; logs are whole at any length.

    A file without such a reader counts as whole if it has any content.
    """
    if path.name == "log.txt" or path.name.startswith(".lock"):
        return True
    try:
        reader = _READERS.get(path.suffix)
        if reader is None:
            return path.stat().st_size > 0
        reader(path)
    except Exception:  # whatever the reader raises, the file is half
        return False
    return True


# --- Judgement ------------------------------------------------------------------------------------


@dataclass
class Faults:
    """What was found wrong, one line each."""

    half: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    bugs: list[str] = field(default_factory=list)
    not_finished: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {name: len(lines) for name, lines in vars(self).items()}

    def lines(self) -> list[str]:
        """Every fault in words."""
        return [f"{name}: {line}" for name, lines in vars(self).items() for line in lines]


@dataclass(frozen=True)
class Reference:
    """What a command makes of a folder when nothing stops it.

    `volatile`: files that differ between two such runs (times, seconds), of which only wholeness
    is asked. `written_bytes`: by how much the folder grows.
    """

    arguments: list[str]
    before: Path
    files_before: Files
    files_after: Files
    volatile: frozenset[str]
    changes: int
    written_bytes: int


def set_up(source: Path, work: Path) -> None:
    """Make `work` a copy of `source`; the folder itself stays, as it may be a disk of its own."""
    work.mkdir(parents=True, exist_ok=True)
    for path in work.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(source, work, symlinks=True, dirs_exist_ok=True)


def folder_bytes(folder: Path) -> int:
    """How many bytes the files of a folder take on a disk with blocks of 4096 bytes."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    sizes = (path.stat().st_size for path in files)
    return sum(-(-size // 4096) * 4096 for size in sizes)


def reference_of(killer: Killer, arguments: list[str], before: Path, work: Path) -> Reference:
    """Run a command twice without a fault, each time on the same folder."""
    ends, files, grown = [], [], 0
    for _ in range(2):
        set_up(before, work)
        start = folder_bytes(work)
        ends.append(killer.run(arguments, work))
        assert ends[-1].status == 0, ends[-1].said
        files.append(files_of(work))
        grown = folder_bytes(work) - start

    first, second = files
    volatile = {name for name in first | second if first.get(name) != second.get(name)}
    return Reference(
        arguments,
        before,
        files_of(before),
        second,
        frozenset(volatile),
        min(end.changes for end in ends),
        grown,
    )


def judge_stopped(reference: Reference, ended: Ended, work: Path, at: str, faults: Faults) -> None:
    """Judge the folder as the stopped command has left it."""
    what = f"{' '.join(reference.arguments)}, {at}"
    faults.orphans += [f"{what}: {orphan}" for orphan in ended.orphans]
    if ended.status == 3 or "Traceback" in ended.said:
        faults.bugs.append(f"{what}: {ended.said.strip()[-600:]}")

    for name, content in files_of(work).items():
        known = (reference.files_before.get(name), reference.files_after.get(name))
        # Temporary names are judged once the next command had its turn.
        if content in known or ".part." in name or content.startswith("->"):
            continue
        if not is_whole(work / name):
            faults.half.append(f"{what}: {name}")


def judge_finished(reference: Reference, ended: Ended, work: Path, at: str, faults: Faults) -> None:
    """Judge the folder after the same command was typed again and nothing stopped it."""
    what = f"{' '.join(reference.arguments)}, {at}, typed again"
    faults.orphans += [f"{what}: {orphan}" for orphan in ended.orphans]
    if ended.status == 3 or "Traceback" in ended.said:
        faults.bugs.append(f"{what}: {ended.said.strip()[-600:]}")
    # "it is there already" is a good answer where everything is there.
    elif ended.status != 0 and files_of(work) != reference.files_after:
        faults.not_finished.append(f"{what}: exit {ended.status}: {ended.said.strip()[-400:]}")
        return

    after, wanted = files_of(work), reference.files_after
    faults.leftovers += [f"{what}: {name}" for name in sorted(after.keys() - wanted.keys())]
    faults.differing += [
        f"{what}: {name} is not there" for name in sorted(wanted.keys() - after.keys())
    ]
    for name in sorted(after.keys() & wanted.keys()):
        # The checkpoint before the last is of another step after a training was resumed.
        if name in reference.volatile or name.endswith("previous.pt"):
            if not is_whole(work / name):
                faults.half.append(f"{what}: {name}")
        elif after[name] != wanted[name]:
            faults.differing.append(f"{what}: {name}")


def kill_and_finish(
    killer: Killer, reference: Reference, at: int, work: Path, faults: Faults
) -> Ended:
    """Kill the command at one change, judge, type it again, judge; return how it ended first."""
    set_up(reference.before, work)
    stopped = killer.run(reference.arguments, work, kill_at=at)
    place = f"killed at change {at}"
    judge_stopped(reference, stopped, work, place, faults)
    judge_finished(reference, killer.run(reference.arguments, work), work, place, faults)
    return stopped


# --- What is killed -------------------------------------------------------------------------------

CONFIG = """\
[data]
dataset = "phantom"
[fetch]
source = "phantom"
[convert]
dicom = "phantom"
[compute]
workers = 0
[train]
epochs = 2
patch = [32, 32, 8]
patches_per_scan = 1
validation_cases = 1
choose = "none"
max_minutes = 30
[train.models.unet]
network = {channels = [4, 8], strides = [2]}
"""
TRAIN = ["train", "--model", "unet", "--run", "a"]
COMMANDS: dict[str, list[str]] = {
    "fetch-labels": ["fetch-labels"],
    "convert": ["convert"],
    "convert series": ["convert", "--layout", "series", "--dicom", "phantom", "--out", "own"],
    "import": [
        *("import", "--images", "pairs/images", "--labels", "pairs/labels"),
        *("--layout", "folders", "--name", "mine"),
    ],
    "train": TRAIN,
    "predict": ["predict"],
    "predict files": ["predict", "pairs/images", "--run", "a", "--out", "masks"],
    "evaluate": ["evaluate", "--bootstrap", "100"],
    "report": ["report"],
    "export": ["export", "a", "--out", "model.zip"],
    "clean": ["clean", "--yes"],
    "doctor": ["doctor", "--data"],
    "config init": ["config", "init", "new.toml"],
}


def states(killer: Killer, folder: Path, work: Path) -> dict[str, Path]:
    """Make, for every command of `COMMANDS`, a folder in which it has something to do."""
    from hemseg_cli.dataset.phantom.dataset import make_phantom

    first = folder / "first"
    make_phantom(first / "phantom", seed=5, patients=6, matrix=32, slices=(8, 9), smallest_ml=3.0)
    (first / "hemseg.toml").write_text(CONFIG)

    def after(name: str, state: Path, commands: Sequence[str]) -> Path:
        set_up(state, work)
        for command in commands:
            ended = killer.run(COMMANDS[command], work)
            assert ended.status == 0, ended.said
        made = folder / name
        shutil.copytree(work, made, symlinks=True)
        return made

    labelled = after("labelled", first, ["fetch-labels"])
    # Names of series come from a key; every folder would else draw one of its own.
    (labelled / "own").mkdir()
    (labelled / "own/.names-key").write_text("0123456789abcdef" * 2 + "\n")
    converted = after("converted", labelled, ["convert"])
    # Images and labels in two folders: what `import` and `predict FILES` work on.
    for kind in ("image", "label"):
        pairs = converted / "pairs" / f"{kind}s"
        pairs.mkdir(parents=True)
        for path in converted.glob(f"data/phantom/t*/{kind}/*.nii.gz"):
            shutil.copy(path, pairs / path.name)
    trained = after("trained", converted, ["train"])
    predicted = after("predicted", trained, ["predict"])
    evaluated = after("evaluated", predicted, ["evaluate"])
    return {
        "fetch-labels": first,
        "convert": labelled,
        "convert series": labelled,
        "import": converted,
        "train": converted,
        "predict": trained,
        "predict files": trained,
        "evaluate": predicted,
        "report": evaluated,
        "export": trained,
        "clean": trained,
        "doctor": evaluated,
        "config init": evaluated,
    }
