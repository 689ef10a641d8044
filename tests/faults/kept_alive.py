"""A process that has everything imported and runs each command in a copy of itself.

Started as a script, with the library of `count_operations.c` loaded before everything else. Each
line of its input is one JSON object (see `killing.Killer`), each line of its output the answer.
"""

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

import psutil

ORPHAN_GRACE_S = 3.0
PR_SET_CHILD_SUBREAPER = 36
MOST_OUTPUT_BYTES = 1 << 20


def _command(asked: dict[str, Any], library: ctypes.CDLL, report: int) -> None:
    """Run the command in this copy of the process, and write how much it has changed."""
    os.chdir(asked["folder"])
    output = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)

    from hemseg_cli.app import run

    library.fault_arm(asked["folder"].encode(), asked["kill_at"])
    status = run(asked["arguments"])
    os.write(report, str(library.fault_count()).encode())
    sys.exit(status)


def _orphans() -> list[str]:
    """Name the processes that a dead command has left, after a time to end; and end them."""
    deadline = time.monotonic() + ORPHAN_GRACE_S
    while left := psutil.Process().children(recursive=True):
        if time.monotonic() > deadline:
            break
        for child in left:
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, 0)
        time.sleep(0.02)

    names = [" ".join(child.cmdline()) for child in left]
    for child in left:
        child.kill()
    psutil.wait_procs(left, timeout=5)
    return names


def _serve(library: ctypes.CDLL) -> None:
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        reading, report = os.pipe()
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            # The copy leaves the loop, and ends as a command ends.
            return _command(asked, library, report)

        os.close(report)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.monotonic() - started
        orphans = _orphans()
        os.set_blocking(reading, False)
        try:
            counted = os.read(reading, 64)
        except BlockingIOError:
            counted = b""
        os.close(reading)
        with open(asked["output"], "rb") as file:
            said = file.read(MOST_OUTPUT_BYTES).decode("utf-8", "replace")
        answer = {
            "status": status,
            "changes": int(counted or 0),
            "orphans": orphans,
            "said": said,
            "seconds": seconds,
        }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # What every command would import for seconds.
    import hemseg_cli.commands
    import hemseg_cli.dataset.conversion.convert
    import hemseg_cli.evaluation.evaluate
    import hemseg_cli.inference.predict
    import hemseg_cli.reporting.report
    import hemseg_cli.training.train  # noqa: F401

    _serve(ctypes.CDLL(sys.argv[1]))
