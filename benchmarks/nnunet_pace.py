"""Patches per second of our training and of nnU-Net's own trainer; prints one JSON object.

python benchmarks/nnunet_pace.py [--device cpu|cuda] [--patients 6] [--matrix 512] [--iterations 50]
[--memory-gb G]
    nnU-Net plans for the phantom data set and trains with its trainer, loaders and augmentation;
    then ours trains a DynUNet of the same stages, features, kernels and patch, at the same batch.
    `ratio` is ours / theirs: above 1 ours is faster. On a GPU, what nvidia-smi saw meanwhile.

Small try: python benchmarks/nnunet_pace.py --patients 5 --matrix 64 --iterations 3 --memory-gb 1
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

from gpu_watch import watched_gpu
from phantom_data import phantom_config

from hemseg_cli.config import Config
from hemseg_cli.core.cases import cases_in_split, read_cases
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.training.train import train

_EPOCHS = 2  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=50, help="steps of each epoch")
    parser.add_argument(
        "--memory-gb", type=float, help="what nnU-Net plans for; its own default: 8"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(_compare(options, Path(folder)), indent=2))


def _compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    theirs = _config(
        options,
        folder,
        "train.model=nnunet",
        f"train.nnunet.iterations_per_epoch={options.iterations}",
        "train.nnunet.validation_iterations=1",
        *([f"train.nnunet.memory_gb={options.memory_gb}"] if options.memory_gb else []),
    )
    with watched_gpu(options.device) as their_gpu:
        run = train(theirs).run
    rate = _last_rate(run)
    plan = _plan(run)

    # As many patches of each scan as fill the epoch's steps.
    scans = len(cases_in_split(read_cases(theirs.data.cases_file), "train"))
    patches = -(-options.iterations * plan["batch"] // scans)
    ours = _config(
        options,
        folder,
        "train.model=dynunet",
        f"train.patch={plan['patch']}",
        f"train.batch_size={plan['batch']}",
        f"train.patches_per_scan={patches}",
        f"train.validation_every={_EPOCHS}",
        f"train.network={_inline(plan['network'])}",
    )
    with watched_gpu(options.device) as our_gpu:
        own_rate = _last_rate(train(ours).run)
    return {
        "device": options.device,
        "plan": plan,
        "nnunet": {"patches_per_s": rate, **their_gpu},
        "ours": {"patches_per_s": own_rate, "ratio": own_rate / rate, **our_gpu},
    }


def _config(options: argparse.Namespace, folder: Path, *assignments: str) -> Config:
    return phantom_config(
        folder,
        seed=1,
        patients=options.patients,
        matrix=options.matrix,
        assignments=(
            f"compute.device={options.device}",
            f"train.epochs={_EPOCHS}",
            "train.choose=none",
            *assignments,
        ),
    )


def _last_rate(run: RunDirectory) -> float:
    with run.history_file.open(newline="") as file:
        return float(list(csv.DictReader(file))[-1]["patches_per_s"])


def _plan(run: RunDirectory) -> dict[str, Any]:
    """What nnU-Net planned, with axes in our order: nnU-Net's arrays are [k, j, i]."""
    [file] = (run.path / "nnunet" / "preprocessed").glob("*/*Plans*.json")
    configuration = json.loads(file.read_text())["configurations"]["3d_fullres"]
    kwargs = configuration["architecture"]["arch_kwargs"]

    def turned(steps: Any) -> list[list[int]]:
        return [[int(n) for n in reversed(step)] for step in steps]

    strides = turned(kwargs["strides"])
    return {
        "patch": [int(n) for n in reversed(configuration["patch_size"])],
        "batch": int(configuration["batch_size"]),
        "network": {
            "channels": [int(n) for n in kwargs["features_per_stage"]],
            "strides": strides,
            "kernels": turned(kwargs["kernel_sizes"]),
            "supervised_levels": max(1, len(strides) - 3),
        },
    }


def _inline(table: dict[str, Any]) -> str:
    """A table as `--set` takes it."""
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}"


if __name__ == "__main__":
    main()
