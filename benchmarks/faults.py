"""Kill every command at random changes of its files, and fill its disk at random places.

python benchmarks/faults.py --kills 200 --disks 50

Prints one JSON object: for every command how often it was killed and how often its disk was full,
and what was found wrong afterwards, which should be nothing: half files, outputs that differ from
those of a run without faults once the same command was typed again, leftovers, orphans (processes
that outlive the command by 3 s), bugs (exit 3). Linux, with a C compiler; the small disk is a tmpfs
and needs root.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.faults.killing import (
    COMMANDS,
    Faults,
    Killer,
    Reference,
    judge_finished,
    judge_stopped,
    kill_and_finish,
    killer,
    reference_of,
    set_up,
    states,
)

LARGE_DISK_BYTES = 2 * 2**30
BLOCK_BYTES = 4096
_UNSHARED = "FAULTS_UNSHARED"


def _mounts_of_our_own() -> bool:
    """Go on in a mount namespace of our own, where that is allowed; whether this is one."""
    if os.environ.get(_UNSHARED):
        return True
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        return False
    os.environ[_UNSHARED] = "1"
    os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={LARGE_DISK_BYTES}", "tmpfs", folder], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def _resize(disk: Path, size_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", disk], check=True)


def _fill_and_finish(
    runner: Killer, reference: Reference, free_bytes: int, work: Path, faults: Faults
) -> int:
    """Run the command with so much of the disk left, then again on a large one."""
    set_up(reference.before, work)
    disk = os.statvfs(work)
    used_bytes = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    _resize(work, used_bytes + free_bytes)
    ended = runner.run(reference.arguments, work)
    place = f"{free_bytes} bytes left on the disk"
    judge_stopped(reference, ended, work, place, faults)
    if ended.status not in (0, 1) or (ended.status == 1 and "full" not in ended.said):
        faults.bugs.append(f"{reference.arguments}, {place}: exit {ended.status}: {ended.said}")

    _resize(work, LARGE_DISK_BYTES)
    judge_finished(reference, runner.run(reference.arguments, work), work, place, faults)
    return ended.status


def _all_faults(
    runner: Killer, reference: Reference, kills: int, disks: int, chance: random.Random, work: Path
) -> dict[str, Any]:
    started, faults = time.monotonic(), Faults()
    every = range(1, reference.changes + 1)
    places = [*every] if kills >= len(every) else sorted(chance.sample(every, kills))
    for at in places:
        kill_and_finish(runner, reference, at, work, faults)

    # From no block left to one less than the command needs.
    blocks = max(0, reference.written_bytes) // BLOCK_BYTES
    filled = [chance.randrange(blocks) * BLOCK_BYTES for _ in range(disks if blocks else 0)]
    stopped = [_fill_and_finish(runner, reference, free, work, faults) for free in filled]
    return {
        "changes": reference.changes,
        "killed": len(places),
        "disk_full": len(filled),
        "refused_by_a_full_disk": stopped.count(1),
        **faults.counts(),
        "seconds": round(time.monotonic() - started, 1),
        "faults": faults.lines(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of each command")
    parser.add_argument("--disks", type=int, default=50, help="full disks for each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="*", default=[*COMMANDS], choices=[*COMMANDS])
    asked = parser.parse_args()

    own = _mounts_of_our_own()
    disks = asked.disks if own else 0
    if not own:
        print("no small disks: mounting a tmpfs is not allowed here", file=sys.stderr)

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        work = base / "work"
        with killer(base) as runner, _disk(work) if own else nullcontext():
            prepared = states(runner, base, work)
            for command in asked.commands:
                reference = reference_of(runner, COMMANDS[command], prepared[command], work)
                results[command] = _all_faults(
                    runner, reference, asked.kills, disks, random.Random(asked.seed), work
                )
                print(command, json.dumps(results[command], indent=1), file=sys.stderr)

    print(json.dumps(_summed(results), indent=1))
    return 0


def _summed(results: dict[str, Any]) -> dict[str, Any]:
    numbers = ["killed", "disk_full", *Faults().counts()]
    total = {key: sum(result[key] for result in results.values()) for key in numbers}
    return {"total": total, "commands": results}


if __name__ == "__main__":
    sys.exit(main())
