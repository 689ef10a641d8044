"""A real `torchrun` with two gloo processes on 127.0.0.1."""

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
    "2",
    "-m",
    "--",
    "hemseg_cli",
)


def run_two(*arguments: str) -> str:
    """What both processes of `torchrun --nproc-per-node 2 -m -- hemseg_cli ...` printed to stdout.

    Both must end well.
    """
    done = subprocess.run(
        [*_TORCHRUN, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
