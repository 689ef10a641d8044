"""A real `torchrun` with gloo processes on 127.0.0.1."""

import os
import subprocess
import sys

# Without the `--`, torchrun reads `--run NAME` as an option of its own.
_TORCHRUN = (
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
)


def run_two(*arguments: str) -> str:
    """As `run_processes`, with two."""
    return run_processes(2, *arguments)


def run_processes(count: int, *arguments: str) -> str:
    """What `torchrun --nproc-per-node COUNT -m -- hemseg_cli ...` printed to stdout.

    Every process must end well.
    """
    done = subprocess.run(
        [*_TORCHRUN, str(count), "-m", "--", "hemseg_cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
