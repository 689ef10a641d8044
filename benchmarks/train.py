"""Training against the published loop; prints one JSON object.

python benchmarks/train.py epoch [--device cpu|cuda] [--patients 3] [--matrix 512]
    seconds of an epoch of the U-Net, recipe paper, ours and the published loop on the same data

python benchmarks/train.py dice --models unet,dynunet --minutes 5 [--matrix 128] [--seed S] [--strong train.patch=[64,64,16] ...] [--letter]
    test Dice of `strong` and `paper` after the same minutes on the same phantom data set (nnunet and dynunet: once), with bootstrap
    intervals; a Markdown table goes to stderr. At a matrix below 512 the spacing and the patch of `paper` are those of the paper in
    proportion (a step of its full size takes a minute on a CPU); --letter leaves them as they are published
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import published
import torch
from phantom_data import phantom_config

from hemseg_cli.cases import cases_in_split, read_cases
from hemseg_cli.errors import HemsegError
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.inference.predict import predict
from hemseg_cli.training.distributed import World
from hemseg_cli.training.loop import StepDone, run_epochs
from hemseg_cli.training.material import make_engine, make_material
from hemseg_cli.training.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("epoch", "dice"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--patients", type=int, help="default: 3 for epoch, 26 for dice")
    parser.add_argument("--matrix", type=int, help="default: 512 for epoch, 128 for dice")
    parser.add_argument("--seed", type=int, default=4711, help="of the phantom; not the demo's")
    parser.add_argument("--models", default="unet,vnet,segresnet,attention-unet,unetr,swin-unetr,dynunet,nnunet")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--strong", nargs="*", default=[], metavar="KEY=VALUE", help="config keys for strong (the phantom is small)")
    parser.add_argument("--nnunet", nargs="*", default=[], metavar="KEY=VALUE", help="config keys for nnunet")
    parser.add_argument("--letter", action="store_true", help="paper with its own spacing and patch, whatever the matrix")
    parser.add_argument("--workers", type=int, default=1, help="loader processes of both loops (epoch)")
    parser.add_argument("--patch", type=int, nargs=3, default=published.PATCH, help="of both loops (epoch)")
    parser.add_argument("--folder", type=Path, help="where the phantom and the runs are kept (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        print(json.dumps(_epoch(options, folder) if options.what == "epoch" else _dice(options, folder), indent=2))


def _epoch(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    config = phantom_config(
        folder,
        seed=options.seed,
        patients=options.patients or 3,
        matrix=options.matrix or 512,
        assignments=(
            "train.recipe=paper",
            "train.model=unet",
            "train.epochs=1",
            f"train.patch={list(options.patch)}",
            f"compute.device={options.device}",
            f"compute.workers={options.workers}",
        ),
    )
    device = torch.device(options.device)
    started = time.perf_counter()
    material = make_material(config, device, World())
    prepare_s = time.perf_counter() - started
    events = run_epochs(make_engine(config, material, device, World()), material, World())
    started = time.perf_counter()
    steps = 0
    for event in events:
        steps += isinstance(event, StepDone)
        if steps == len(material.plan):  # the epoch's last step; validation would come next, and the published loop has none here
            break
    ours_s = time.perf_counter() - started
    events.close()

    cases = cases_in_split(read_cases(config.data.cases_file), "train")
    batches = published.loader(config.data.folder, cases, scans_per_batch=4, workers=options.workers, patch=options.patch)
    started = time.perf_counter()
    published_steps = len(list(published.unet_steps(batches, device)))
    published_s = time.perf_counter() - started
    return {
        "device": options.device,
        "scans": len(cases),
        "patch": list(options.patch),
        "ours": {"epoch_s": ours_s, "steps": steps, "prepare_once_s": prepare_s},
        "published": {"epoch_s": published_s, "steps": published_steps},
        "ratio": published_s / ours_s,
    }


def _dice(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    rows = []
    for model in options.models.split(","):
        for recipe in ("strong",) if model in ("nnunet", "dynunet") else ("strong", "paper"):  # the paper has no DynUNet
            rows.append({"model": model, "recipe": recipe, **_trained_dice(options, folder, model, recipe)})
            print(_row(rows[-1]), file=sys.stderr, flush=True)
    return {"seed": options.seed, "minutes": options.minutes, "matrix": options.matrix or 128, "runs": rows}


def _trained_dice(options: argparse.Namespace, folder: Path, model: str, recipe: str) -> dict[str, Any]:
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
            *(_paper(options, model) if recipe == "paper" else options.nnunet if model == "nnunet" else options.strong),
        ),
    )
    try:
        trained = train(config)
        predict(config, runs=[trained.run.name])
        summary = evaluate(config, runs=[trained.run.name]).runs[0].summary
    except HemsegError as error:
        return {"error": str(error)}
    return {
        "dice": summary["metrics"]["dice"],
        "cases": summary["n_cases"],
        "epochs": trained.epochs,
        "seconds": trained.seconds,
        "run": trained.run.name,
    }


def _paper(options: argparse.Namespace, model: str) -> list[str]:
    """What `paper` needs beside its recipe: the published way to predict, and sizes in proportion to the phantom's matrix."""
    keys = ["predict.overlap=0.25", "predict.weighting=constant", "predict.threshold=0.5"]
    scale = 512 // (options.matrix or 128)
    if scale > 1 and not options.letter:
        i, j, k = published.SPACING_MM
        keys.append(f"train.spacing_mm=[{i * scale}, {j * scale}, {k}]")
        if model == "swin-unetr":  # takes multiples of 32, and more than one of them
            keys += [
                f"train.patch=[{max(64, 128 // scale)}, {max(64, 128 // scale)}, 32]",
                f"train.pad_to=[{512 // scale}, {512 // scale}, 32]",
            ]
        else:
            keys.append(f"train.patch=[{256 // scale}, {256 // scale}, 16]")
    return keys


def _row(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {row['model']} | {row['recipe']} | {row['error'].splitlines()[0]} |"
    dice = row["dice"]
    return (
        f"| {row['model']} | {row['recipe']} | {dice['mean']:.3f} [{dice['ci_low']:.3f}, {dice['ci_high']:.3f}] | {row['epochs']} epochs |"
    )


if __name__ == "__main__":
    main()
