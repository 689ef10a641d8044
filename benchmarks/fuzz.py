"""Damaged and hostile files of every kind: what their readers raise, and what that costs.

python benchmarks/fuzz.py --inputs 2000

Prints one JSON object: for every kind how many inputs were tried, read and refused, what was raised
that is no error of ours (which should be nothing), the slowest input in seconds and by how much the
process grew in MB. No input may take 10 s or 1 GB.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.faults.fuzzing import KINDS

MOST_SECONDS = 10.0
MOST_MB = 1024.0


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tried(name: str, inputs: int, number: int) -> dict[str, Any]:
    """Read so many inputs of one kind."""
    counts = {"read": 0, "refused": 0}
    faults: dict[str, str] = {}
    slowest_s = 0.0
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        kind = KINDS[name](folder)
        started, before_mb = time.monotonic(), _peak_mb()

        @seed(number)
        @settings(
            max_examples=inputs,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(data=st.data())
        def attempt(data: st.DataObject) -> None:
            nonlocal slowest_s
            content = data.draw(kind.contents)
            start = time.monotonic()
            try:
                counts["read" if kind.attempt(folder, content) else "refused"] += 1
            except Exception as error:  # what is looked for
                place = traceback.extract_tb(error.__traceback__)[-1]
                faults[f"{type(error).__name__} at {place.name}:{place.lineno}"] = str(error)[:300]
                Path(tempfile.gettempdir(), f"fuzz-{name}-{len(faults)}").write_bytes(content)
            slowest_s = max(slowest_s, time.monotonic() - start)

        attempt()
        grown_mb = _peak_mb() - before_mb
    return {
        "inputs": inputs,
        **counts,
        "faults": faults,
        "slowest_s": round(slowest_s, 3),
        "grown_mb": round(grown_mb, 1),
        "seconds": round(time.monotonic() - started, 1),
        "within_bounds": slowest_s < MOST_SECONDS and grown_mb < MOST_MB,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[*KINDS], choices=[*KINDS])
    asked = parser.parse_args()

    results = {}
    for name in asked.kinds:
        # A process of its own for each kind: the peak of its memory is the kind's own.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results[name] = pool.apply(tried, (name, asked.inputs, asked.seed))
        print(name, json.dumps(results[name]), file=sys.stderr)
    print(json.dumps(results, indent=1))
    return 0 if all(one["within_bounds"] and not one["faults"] for one in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
