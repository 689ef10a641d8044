"""What nvidia-smi sees of the GPU while a benchmark runs."""

import contextlib
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator

_EVERY_S = 0.5
_QUERY = ("--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")


@contextlib.contextmanager
def watched_gpu(device: str) -> Iterator[dict[str, float]]:
    """Fill the table that is given with the GPU's figures at the end of the block.

    `gpu_busy_percent`: the median; `gpu_memory_mb`: the most. Empty on a CPU.
    """
    figures: dict[str, float] = {}
    if not device.startswith("cuda") or shutil.which("nvidia-smi") is None:
        yield figures
        return

    number = device.partition(":")[2] or "0"
    seen: list[tuple[float, float]] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            command = ["nvidia-smi", f"--id={number}", *_QUERY]
            answer = subprocess.run(command, capture_output=True, text=True)
            if answer.returncode == 0:
                busy, memory = answer.stdout.split(",")
                seen.append((float(busy), float(memory)))
            time.sleep(_EVERY_S)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield figures
    finally:
        done.set()
        watcher.join()
        if seen:
            figures["gpu_busy_percent"] = statistics.median(busy for busy, _ in seen)
            figures["gpu_memory_mb"] = max(memory for _, memory in seen)
