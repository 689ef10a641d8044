"""Patches per second of our loader against the published chain, on full-size phantom scans.

One worker each; prints one JSON object.

    python benchmarks/data.py [--device cpu|cuda] [--patients 6] [--seconds 30] [--folder DIR]

On cuda it also says how busy the loader keeps the device: steps per second fed by the loader over
those on one fixed batch.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import published
import torch
from phantom_data import phantom_config
from torch.utils.data import DataLoader

from hemseg_cli.config import Config, load
from hemseg_cli.core.cases import read_cases
from hemseg_cli.models.registry import build_network, full_config
from hemseg_cli.training.cache import prepared_cases, preprocess_of
from hemseg_cli.training.losses import make_loss
from hemseg_cli.training.sampling import PatchDataset
from hemseg_cli.training.schedule import make_optimizer

_ENDLESS = 100_000  # patches per scan


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument(
        "--workers", type=int, default=1, help="loader processes, the same for both"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the phantom is kept (default: a temporary folder)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(_measure(options, options.folder or Path(temporary)), indent=2))


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    data = phantom_config(folder, seed=1, patients=options.patients, matrix=options.matrix)
    patch = tuple(
        min(n, options.matrix) if axis < 2 else n for axis, n in enumerate(published.PATCH)
    )
    cases = [case for case in read_cases(data.data.cases_file) if case.split == "train"]
    result: dict[str, Any] = {
        "scans": len(cases),
        "patch": list(patch),
        "workers": options.workers,
        "device": options.device,
    }
    result["published"] = {"patches_per_s": _published_rate(data, cases, patch, options)}
    for name, assignments in (
        ("ours_paper", ["train.recipe=paper", "train.model=unet"]),
        ("ours_strong", ["train.recipe=strong", "train.model=dynunet"]),
    ):
        config = load(
            assignments=[
                f"data.root='{folder}'",
                f"data.dataset={data.data.dataset}",
                *assignments,
            ],
            environ={},
        )
        started = time.perf_counter()
        prepared = prepared_cases(config, cases, preprocess_of(config.train))
        seconds_to_prepare = time.perf_counter() - started
        rate = _rate(
            (len(batch["scan"]) for batch in _batches(config, prepared, patch, options.workers)),
            options.seconds,
        )
        result[name] = {
            "patches_per_s": rate,
            "ratio": rate / result["published"]["patches_per_s"],
            "prepare_s": seconds_to_prepare,
        }
        if options.device != "cpu":
            result[name] |= _feeding(config, prepared, patch, options)
    return result


def _batches(config: Config, prepared: Any, patch: Any, workers: int) -> Iterator[dict[str, Any]]:
    # One endless epoch: the training's own stream starts its workers once, too.
    train = config.train.model_copy(update={"patches_per_scan": _ENDLESS})
    dataset = PatchDataset(prepared, train, patch, seed=train.seed, epoch=0)
    return iter(
        DataLoader(
            dataset,
            batch_size=train.batch_size,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
    )


def _published_rate(data: Config, cases: Any, patch: Any, options: argparse.Namespace) -> float:
    def epochs() -> Iterator[int]:
        batches = published.loader(
            data.data.folder, cases, scans_per_batch=1, workers=options.workers, patch=patch
        )
        while True:
            yield from (len(batch["image"]) for batch in batches)

    return _rate(epochs(), options.seconds)


def _rate(sizes: Iterable[int], seconds: float) -> float:
    """Items per second after the first batch, which starts the workers."""
    stream = iter(sizes)
    next(stream)
    started, items = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        items += next(stream)
    return items / (time.perf_counter() - started)


def _feeding(
    config: Config, prepared: Any, patch: Any, options: argparse.Namespace
) -> dict[str, float]:
    """Training steps per second on one fixed batch and fed by the loader, and their ratio."""
    train, device = config.train, torch.device(options.device)
    network = (
        build_network(
            train.model, full_config(train.model, train.network, patch), len(train.windows)
        )
        .to(device)
        .train()
    )
    optimizer, loss_of = make_optimizer(network, train), make_loss(train)

    def step(batch: Any) -> int:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = network(batch["image"].to(device, non_blocking=True))
        loss_of(output, batch["label"].to(device, non_blocking=True)).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1

    batches = _batches(config, prepared, patch, options.workers)
    first = next(batches)
    fixed = _rate((step(first) for _ in iter(int, 1)), options.seconds)
    fed = _rate((step(batch) for batch in batches), options.seconds)
    return {
        "steps_per_s_fixed_batch": fixed,
        "steps_per_s_fed": fed,
        "device_busy_share": fed / fixed,
    }


if __name__ == "__main__":
    main()
