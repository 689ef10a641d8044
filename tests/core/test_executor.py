import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hemseg_cli.core.errors import CaseError, HemsegError
from hemseg_cli.core.executor import Outcome, attempt, map_cases


def double(number: int) -> int:
    if number == 3:
        raise CaseError("three is no case", hint="leave it out")
    if number == 4:
        raise FileNotFoundError(2, "No such file or directory", "/data/four.nii.gz")
    return 2 * number


def double_or_die(item: tuple[int, str]) -> int:
    """Kills its own worker at number 5, once for the file and every time without one."""
    number, flag = item
    if number == 5 and not (flag and Path(flag).exists()):
        if flag:
            Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def bug(number: int) -> int:
    return number // 0


def _values(outcomes: Iterator[Outcome[Any, int]]) -> dict[Any, int | str | None]:
    return {outcome.item: outcome.value if outcome.ok else outcome.error for outcome in outcomes}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_case_is_named_and_the_others_go_on(workers: int) -> None:
    values = _values(map_cases(double, [1, 2, 3, 4, 5], workers=workers))
    assert values == {
        1: 2,
        2: 4,
        3: "three is no case",
        4: "/data/four.nii.gz: No such file or directory",
        5: 10,
    }


def test_the_hint_comes_along() -> None:
    assert attempt(double, 3).hint == "leave it out"


def test_a_bug_is_raised_and_not_reported_as_a_bad_case() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_cases(bug, [1], workers=0))


def test_an_item_whose_process_dies_is_tried_again_by_itself(tmp_path: Path) -> None:
    flag = str(tmp_path / "died")
    assert _values(
        map_cases(double_or_die, [(number, flag) for number in range(4, 7)], workers=2)
    ) == {(number, flag): 2 * number for number in range(4, 7)}


def test_an_item_that_kills_every_process_is_named() -> None:
    values = _values(map_cases(double_or_die, [(4, ""), (5, ""), (6, "")], workers=2))
    assert "died on it" in str(values[(5, "")])
    assert (values[(4, "")], values[(6, "")]) == (8, 12)


def test_no_scheduler_at_the_address_is_said() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(HemsegError, match="no Dask scheduler at tcp"):
        list(map_cases(double, [1], scheduler="tcp://127.0.0.1:1"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A scheduler and two worker processes on 127.0.0.1."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=50,
    ) as made:
        yield made.scheduler_address


def test_cluster_gives_what_one_process_gives(cluster: str) -> None:
    items = [1, 2, 3, 4, 5]
    assert _values(map_cases(double, items, scheduler=cluster)) == _values(
        map_cases(double, items, workers=0)
    )


def test_nothing_is_lost_when_a_worker_of_the_cluster_is_killed(
    cluster: str, tmp_path: Path
) -> None:
    flag = str(tmp_path / "died")
    items = [(number, flag) for number in range(10)]
    assert _values(map_cases(double_or_die, items, scheduler=cluster)) == {
        item: 2 * item[0] for item in items
    }
    assert Path(flag).exists()


def _threads(_item: int) -> tuple[str | None, ...]:
    return tuple(
        os.environ.get(name)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    )


def test_workers_have_one_numerical_thread_each_and_this_process_keeps_its_own() -> None:
    before = dict(os.environ)
    assert {outcome.value for outcome in map_cases(_threads, [1, 2], workers=2)} == {
        ("1", "1", "1")
    }
    assert dict(os.environ) == before


# Maps over cases in a folder whose modules have the names of Python's own and ours.
IN_A_STRANGE_FOLDER = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
from tests.core.test_executor import double
from hemseg_cli.core import executor
executor._START_METHODS = (sys.argv[1],)
print(sorted(outcome.value for outcome in executor.map_cases(double, [1, 2], workers=2)))
"""
TRAP = "import os\nopen(os.path.join(os.path.dirname(__file__), 'TRAPPED'), 'w').close()\n"
ROOT = Path(__file__).resolve().parents[2]


def _folder_of_traps(folder: Path) -> Path:
    for name in ("selectors", "random", "signal", "struct", "socket", "tempfile", "numpy", "typer"):
        (folder / f"{name}.py").write_text(TRAP)
    return folder


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_run_no_module_of_the_current_folder(tmp_path: Path, method: str) -> None:
    script = tmp_path / "script" / "main.py"
    script.parent.mkdir()
    text = IN_A_STRANGE_FOLDER.replace("\n", "\n    ").rstrip()
    script.write_text(f"if __name__ == '__main__':\n    {text.strip()}\n")
    folder = tmp_path / "scans"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(script), method],
        cwd=_folder_of_traps(folder),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[2, 4]\n", done.stderr
    assert not (folder / "TRAPPED").exists()


def test_python_m_runs_no_module_of_the_current_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hemseg_cli", "config", "show", "--json"],
        cwd=_folder_of_traps(tmp_path),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "TRAPPED").exists()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


STOPPED_WHILE_WORKING = """
import sys
from hemseg_cli.core.executor import map_cases
from hemseg_cli.core.errors import Stopped
from tests.core.test_executor import sleep
import signal
def stop(number, frame):
    raise Stopped(143, "")
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        for outcome in map_cases(sleep, [0.0, 0.0, 60.0, 60.0, 60.0], workers=2):
            print("one", flush=True)
    except Stopped as stopped:
        code = stopped.exit_code
    sys.exit(code)
"""


def test_a_stopped_command_ends_its_workers_at_once(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(STOPPED_WHILE_WORKING)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        assert process.stdout.readline() == "one\n"
        time.sleep(0.3)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, gone


# Where the fork server has no room for its socket, or there are no semaphores.
WITHOUT = """
import os, sys, tempfile
from tests.core.test_executor import double
from hemseg_cli.core import console
from hemseg_cli.core.executor import map_cases
if __name__ == "__main__":
    console.configure()
    if sys.argv[1] == "no semaphores":
        import _multiprocessing
        class SemLock:
            def __init__(self, *arguments):
                raise FileNotFoundError(2, "No such file or directory")
            SEM_VALUE_MAX = 1
            @staticmethod
            def sem_unlink(name): ...
        _multiprocessing.SemLock = SemLock
    print(sorted(outcome.value for outcome in map_cases(double, [1, 2], workers=2)))
"""


@pytest.mark.parametrize("what", ["no semaphores", "long TMPDIR"])
def test_cases_are_worked_on_where_workers_cannot_be_started(tmp_path: Path, what: str) -> None:
    (tmp_path / "main.py").write_text(WITHOUT)
    long = tmp_path / ("x" * 120)
    long.mkdir()
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py"), what],
        env=os.environ
        | {"PYTHONPATH": str(ROOT)}
        | ({"TMPDIR": str(long)} if what == "long TMPDIR" else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[2, 4]\n", done.stderr
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    if what == "no semaphores":
        assert "one case after the other" in done.stderr


def test_a_full_disk_is_named_as_such() -> None:
    assert attempt(_fill, 1).error == "the disk is full (/data/x)"


def _fill(_number: int) -> int:
    raise OSError(errno.ENOSPC, "No space left on device", "/data/x")


def test_a_command_into_a_full_disk_or_closed_stream_is_no_bug(tmp_path: Path) -> None:
    for redirection, code in ((">/dev/full", 1), (">&-", 0), ("2>&-", 0), ("| true", 0)):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f'"$PYTHON" -m hemseg_cli config show {redirection}'],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, (redirection, done.stderr)
        assert "Traceback" not in done.stderr
