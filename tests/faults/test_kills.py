"""Every command is killed while it changes files, and its disk is filled.

Nothing is half, nothing is left over, and the same command finishes the work as if nothing had
been. A few places each; `benchmarks/faults.py` tries hundreds.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.killing import (
    COMMANDS,
    KILLED,
    Faults,
    Killer,
    kill_and_finish,
    killer,
    reference_of,
    states,
)

KILLS = 4
# A training or an export starts anew for seconds; the benchmark kills them more often.
SLOW = {"train": 2, "export": 2, "predict": 2, "predict files": 2}


@dataclass(frozen=True)
class Place:
    """Where commands are killed."""

    runner: Killer
    states: dict[str, Path]
    work: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("kills")
    work = base / "work"
    with killer(base) as runner:
        yield Place(runner, states(runner, base, work), work)


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_command_leaves_nothing_half_and_finishes_when_typed_again(
    command: str, place: Place
) -> None:
    reference = reference_of(place.runner, COMMANDS[command], place.states[command], place.work)
    every = range(1, reference.changes + 1)
    if not every:
        assert command == "doctor", "it alone changes nothing"
        return

    faults = Faults()
    places = random.Random(command).sample(every, min(SLOW.get(command, KILLS), len(every)))
    for at in places:
        ended = kill_and_finish(place.runner, reference, at, place.work, faults)
        assert ended.status == KILLED
    assert faults.lines() == []
