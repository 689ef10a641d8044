import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
