"""Memory and pace of `hemseg predict` over many scans; prints one JSON object.

python benchmarks/batch.py [--scans 100] [--matrix 96] [--slices 16] [--workers 0] [--kill]

The command runs in a process of its own on drawn heads of one size. While it works, the memory of
it and its workers is sampled, with the number of scans that are finished. Compared are the last
fifth of the scans and the first: the most memory held, and the seconds a scan takes. `--kill` kills
the command (SIGKILL) half-way and starts it again: `done_twice` counts scans computed again beyond
those that were under way, which should be 0.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from predict import draw_scans, write_model

_SAMPLE_S = 0.05
_MODEL = "unet"


@dataclass(frozen=True)
class Sample:
    """The memory of the command and its workers when `finished` scans were done."""

    seconds: float
    finished: int
    memory_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument("--matrix", type=int, default=96)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        draw_scans(work, options.scans, options.matrix, options.slices)
        write_model(work, _MODEL, options.matrix)
        print(json.dumps(measure(work, options), indent=2))


def measure(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Predict all scans, killed half-way where that is asked for, and compare first and last."""
    half = options.scans // 2 if options.kill else None
    samples = run_predict(work, options, stop_at=half)
    again: list[Sample] = []
    made_before = made_at(work)
    if options.kill:
        again = run_predict(work, options, stop_at=None)

    kept = {name: time_ns for name, time_ns in made_at(work).items() if name in made_before}
    rows = list(csv.DictReader((work / "out/volumes.csv").read_text().splitlines()))
    result = {
        "scans": options.scans,
        "matrix": options.matrix,
        "slices": options.slices,
        "workers": options.workers,
        "rows_in_volumes_csv": len(rows),
        **compare(samples if not options.kill else again),
    }
    if options.kill:
        result["killed_after"] = len(made_before)
        result["done_twice"] = sum(kept[name] != made_before[name] for name in kept)
    return result


def run_predict(work: Path, options: argparse.Namespace, stop_at: int | None) -> list[Sample]:
    """Run the command and sample it, until it ends or `stop_at` scans are finished."""
    command = [sys.executable, "-m", "hemseg_cli", "predict", str(work / "image")]
    command += ["--run", str(work / "runs/bench"), "--out", str(work / "out")]
    command += ["--device", "cpu", "--quiet", "--workers", str(options.workers)]
    with (work / "said.txt").open("w") as said:
        process = subprocess.Popen(command, cwd=work, stdout=said, stderr=said)
        samples = []
        while process.poll() is None:
            finished = len(made_at(work))
            samples.append(Sample(time.monotonic(), finished, memory_mb(process.pid)))
            if stop_at is not None and finished >= stop_at:
                process.kill()
            time.sleep(_SAMPLE_S)

    # Killed as asked for is no failure.
    if stop_at is None and process.returncode != 0:
        raise SystemExit((work / "said.txt").read_text())
    return samples


def made_at(work: Path) -> dict[str, int]:
    """When each mask was written: the mask is the last output of a scan."""
    return {file.name: file.stat().st_mtime_ns for file in (work / "out").glob("*_mask.nii.gz")}


def memory_mb(number: int) -> float:
    """The memory of a process and all below it that is its own (USS), MB."""
    import psutil

    total = 0
    try:
        parent = psutil.Process(number)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().uss
    except psutil.Error:  # ended meanwhile
        return 0.0
    return total / 2**20


def compare(samples: list[Sample]) -> dict[str, Any]:
    """Set the last fifth of the scans beside the first."""
    # Counted from the first scan of this call on: before it the command starts and loads.
    first_done = next(one.finished for one in samples if one.finished > samples[0].finished)
    last_done = samples[-1].finished
    fifth = max(1, (last_done - first_done) // 5)
    first = _within(samples, first_done, first_done + fifth)
    last = _within(samples, last_done - fifth, last_done)
    return {
        "first_mb": round(max(sample.memory_mb for sample in first), 1),
        "last_mb": round(max(sample.memory_mb for sample in last), 1),
        "memory_ratio": round(
            max(sample.memory_mb for sample in last) / max(sample.memory_mb for sample in first), 3
        ),
        "first_seconds_a_scan": round(_seconds_a_scan(first), 3),
        "last_seconds_a_scan": round(_seconds_a_scan(last), 3),
    }


def _within(samples: list[Sample], low: int, high: int) -> list[Sample]:
    return [sample for sample in samples if low <= sample.finished <= high]


def _seconds_a_scan(samples: list[Sample]) -> float:
    """The time between the first and the last scan of some samples, by the scans between."""
    begun, ended = samples[0], next(one for one in samples if one.finished == samples[-1].finished)
    return (ended.seconds - begun.seconds) / max(1, ended.finished - begun.finished)


if __name__ == "__main__":
    main()
