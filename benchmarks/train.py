"""Training against the published loop; prints one JSON object.

python benchmarks/train.py epoch [--device cpu|cuda] [--patients 6] [--matrix 512]
    seconds of an epoch of the U-Net, recipe paper, ours (to the letter in float32, and in bfloat16)
    and the published loop on the same
    data: the median of three epochs after a first one that warms up, without validation; peak
    memory of the process (on CUDA: of the
    device); and the network's floating-point operations

python benchmarks/train.py dice --models unet,dynunet --minutes 5 [--matrix 128] [--seed S]
[--strong train.patch=[64,64,16] ...] [--letter]
    test Dice of `strong` and `paper` after the same minutes on the same phantom data set (nnunet
    and dynunet: once), with bootstrap
    intervals; a Markdown table goes to stderr. At a matrix below 512 the patches of both recipes
    and the spacing of `paper` are theirs in
    proportion (a step of full size takes a minute on a CPU); --letter leaves those of `paper` as
    they are published
"""

import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import published
import torch
from gpu_watch import watched_gpu
from phantom_data import phantom_config
from predict import peak_mb
from small_matrix import FULL_MATRIX, recipe_keys
from torch.utils.flop_counter import FlopCounterMode

from hemseg_cli.config import Config
from hemseg_cli.core.cases import cases_in_split, read_cases
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.inference.predict import predict
from hemseg_cli.models.registry import build_network, full_config
from hemseg_cli.training.data_sets import data_set_cases
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.loop import StepDone, run_epochs
from hemseg_cli.training.setup import make_setup, make_state
from hemseg_cli.training.train import train

_EPOCHS = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("epoch", "dice"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--patients", type=int, help="default: 6 for epoch, 26 for dice")
    parser.add_argument("--matrix", type=int, help="default: 512 for epoch, 128 for dice")
    parser.add_argument("--seed", type=int, default=4711, help="of the phantom; not the demo's")
    parser.add_argument(
        "--models", default="unet,vnet,segresnet,attention-unet,unetr,swin-unetr,dynunet,nnunet"
    )
    parser.add_argument("--recipes", default="strong,paper")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument(
        "--strong",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="config keys for strong (the phantom is small)",
    )
    parser.add_argument(
        "--nnunet", nargs="*", default=[], metavar="KEY=VALUE", help="config keys for nnunet"
    )
    parser.add_argument(
        "--letter",
        action="store_true",
        help="paper with its own spacing and patch, whatever the matrix",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="loader processes of both loops (epoch)"
    )
    parser.add_argument(
        "--patch", type=int, nargs=3, default=published.PATCH, help="of both loops (epoch)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="where the phantom and the runs are kept (default: a temporary folder)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        print(
            json.dumps(
                _epoch(options, folder) if options.what == "epoch" else _dice(options, folder),
                indent=2,
            )
        )


def _epoch(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    config = _epoch_config(options, folder, "float32")
    scans = len(cases_in_split(read_cases(config.data.cases_file), "train"))
    with watched_gpu(options.device) as gpu:
        theirs = _alone(_published_epoch, options, folder) | gpu
    result: dict[str, Any] = {
        "device": options.device,
        "scans": scans,
        "patch": list(options.patch),
        "published": theirs,
    }
    for name, precision in (("ours", "float32"), ("ours_bfloat16", "bfloat16")):
        with watched_gpu(options.device) as gpu:
            own = _alone(_own_epoch, options, folder, precision)
        patches = published.PATCHES_PER_SCAN * scans
        result[name] = {
            **own,
            **gpu,
            "patches_per_s": patches / own["epoch_s"],
            "ratio": theirs["epoch_s"] / own["epoch_s"],
            "memory_ratio": own["peak_mb"] / theirs["peak_mb"],
        }
    return result | {"network_gflop": _gflop(options.patch, published.PATCHES_PER_SCAN * scans)}


def _alone(side: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a side returns from a process of its own, so that memory and its remains are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(side, *arguments).result()


def _epoch_config(options: argparse.Namespace, folder: Path, precision: str) -> Config:
    return phantom_config(
        folder,
        seed=options.seed,
        patients=options.patients or 6,
        matrix=options.matrix or 512,
        assignments=(
            "train.recipe=paper",
            "train.model=unet",
            f"train.epochs={_EPOCHS}",
            f"train.validation_every={_EPOCHS}",
            f"train.precision={precision}",
            f"train.patch={list(options.patch)}",
            f"compute.device={options.device}",
            f"compute.workers={options.workers}",
        ),
    )


def _published_epoch(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    config = _epoch_config(options, folder, "float32")
    cases = cases_in_split(read_cases(config.data.cases_file), "train")
    batches = published.loader(
        config.data.folder, cases, scans_per_batch=4, workers=options.workers, patch=options.patch
    )
    steps = published.unet_steps(batches, torch.device(options.device), epochs=_EPOCHS)
    marks = [time.perf_counter() for _ in steps]
    return {
        "epoch_s": _median_epoch(marks, len(batches)),
        "steps": len(batches),
        "peak_mb": peak_mb(options.device),
    }


def _own_epoch(options: argparse.Namespace, folder: Path, precision: str) -> dict[str, Any]:
    config, device = _epoch_config(options, folder, precision), torch.device(options.device)
    started = time.perf_counter()
    setup = make_setup(config, data_set_cases(config), device, Processes())
    prepare_s = time.perf_counter() - started
    events = run_epochs(make_state(config, setup, device, Processes()), setup, Processes())
    marks: list[float] = []
    while len(marks) < _EPOCHS * len(
        setup.plan
    ):  # the last step; validation would come next, and the published loop has none here
        if isinstance(next(events), StepDone):
            marks.append(time.perf_counter())
    events.close()
    steps = len(setup.plan)
    return {
        "epoch_s": _median_epoch(marks, steps),
        "steps": steps,
        "prepare_once_s": prepare_s,
        "peak_mb": peak_mb(options.device),
    }


def _median_epoch(marks: list[float], steps: int) -> float:
    """Seconds, from the time at the end of each step; without the first epoch."""
    ends = marks[steps - 1 :: steps]
    return statistics.median(after - before for before, after in itertools.pairwise(ends))


def _gflop(patch: list[int], patches: int) -> float:
    """Of forward and backward passes through the U-Net as it is published, 10^9."""
    network = build_network("unet", full_config("unet", {}, patch), 1)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, *patch)).sum().backward()
    return counter.get_total_flops() * patches / 1e9


def _dice(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    rows = []
    for model in options.models.split(","):
        for recipe in (
            ("strong",) if model in ("nnunet", "dynunet") else options.recipes.split(",")
        ):  # the paper has no DynUNet
            rows.append(
                {"model": model, "recipe": recipe, **_trained_dice(options, folder, model, recipe)}
            )
            print(_row(rows[-1]), file=sys.stderr, flush=True)
    return {
        "seed": options.seed,
        "minutes": options.minutes,
        "matrix": options.matrix or 128,
        "runs": rows,
    }


def _trained_dice(
    options: argparse.Namespace, folder: Path, model: str, recipe: str
) -> dict[str, Any]:
    config = phantom_config(
        folder,
        seed=options.seed,
        patients=options.patients or 26,
        matrix=options.matrix or 128,
        assignments=(
            f"train.model={model}",
            f"train.recipe={recipe}",
            f"train.max_minutes={options.minutes}",
            f"compute.device={options.device}",
            "predict.previews=false",
            *_assignments(options, model, recipe),
        ),
    )
    try:
        trained = train(config)
        predict(config, runs=[trained.run.name])
        scored = evaluate(config, runs=[trained.run.name]).runs[0]
        summary = scored.summary.to_dict()
    except HemsegError as error:
        return {"error": str(error)}
    return {
        "dice": summary["metrics"]["dice"],
        "cases": summary["n_cases"],
        "epochs": trained.epochs,
        "seconds": trained.seconds,
        "run": trained.run.name,
    }


def _assignments(options: argparse.Namespace, model: str, recipe: str) -> list[str]:
    """What a recipe needs beside its name: sizes in proportion to the phantom's matrix."""
    if model == "nnunet":
        return list(options.nnunet)
    own = options.strong if recipe == "strong" else []
    scale = FULL_MATRIX // (options.matrix or 128)
    return [*recipe_keys(model, recipe, scale, letter=options.letter), *own]


def _row(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {row['model']} | {row['recipe']} | {row['error'].splitlines()[0]} |"
    dice = row["dice"]
    interval = f"[{dice['ci_low']:.3f}, {dice['ci_high']:.3f}]"
    measured = f"{dice['mean']:.3f} {interval} | {row['epochs']} epochs"
    return f"| {row['model']} | {row['recipe']} | {measured} |"


if __name__ == "__main__":
    main()
