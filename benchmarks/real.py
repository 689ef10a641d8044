"""Train and transfer on real head CTs, through the commands; prints one JSON object.

python benchmarks/real.py train --source PHE_SICH [--targets blood,edema] [--models dynunet,nnunet]
[--recipes strong,paper] [--minutes 4] [--seeds 1] [--matrix 128] [--baseline TREE]
    test Dice, IoU, HD95, lesion precision and mL of each network and recipe after the same minutes
    on the expert's edema masks and on the derived blood masks; intervals over scans, of the mean
    over the seeds. --baseline: also another checkout of hemseg, and the paired difference to it

python benchmarks/real.py transfer --source PHE_SICH [--models dynunet] [--minutes 2]
    the demo's network, trained on drawings alone, on all real scans: with the restriction to the
    intracranial space and without

python benchmarks/real.py space --source PHE_SICH
    share of the blood and of the edema that lies in the intracranial space, scan by scan

Minutes are CPU minutes of the training process on one thread: a busy machine takes longer, and
gives nearly the same figures. --epochs, in place of them, gives two checkouts the same steps
whatever the machine does. The table goes to stderr as the runs end.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from small_matrix import FULL_MATRIX, recipe_keys

from hemseg_cli.evaluation.bootstrap import SIZE, Bootstrap, Interval
from hemseg_cli.imaging.geometry import header_voxel_volume_mm3
from hemseg_cli.imaging.intracranial import find_intracranial
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.imaging.orientation import to_canonical

TREE = Path(__file__).resolve().parents[1]
MASK_COLUMNS = {"blood": "hematoma", "edema": "phe"}
SHARE = (0.0, 1.0)
METRICS: dict[str, tuple[float, float] | None] = {
    "dice": SHARE,
    "iou": SHARE,
    "hd95_mm": SIZE,
    "lesion_precision": SHARE,
    "abs_volume_error_ml": SIZE,
}

# The training's clock counts the CPU time of its process; nothing else asks for that clock.
_RUN_BY_CPU_TIME = (
    "import runpy, time; time.monotonic = time.process_time; "
    "runpy.run_module('hemseg_cli', run_name='__main__', alter_sys=True)"
)
_RUN = "import runpy; runpy.run_module('hemseg_cli', run_name='__main__', alter_sys=True)"

# nnU-Net plans for this memory as the demo does, else one step takes a minute on a CPU.
_NNUNET_KEYS = (
    "train.nnunet.memory_gb=1.0",
    "train.nnunet.iterations_per_epoch=25",
    "train.nnunet.validation_iterations=5",
)


def main() -> None:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        work = {"train": _train_all, "transfer": _transfer, "space": _space}[options.what]
        print(json.dumps(work(options, folder), indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "transfer", "space"))
    parser.add_argument("--source", type=Path, required=True, help="the folder phe-sich")
    parser.add_argument("--targets", default="blood,edema")
    parser.add_argument("--models", default="dynunet,nnunet")
    parser.add_argument("--recipes", default="strong,paper")
    parser.add_argument("--minutes", type=float, default=4.0, help="CPU minutes of each training")
    parser.add_argument("--epochs", type=int, help="a fixed number of them, not minutes")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--matrix", type=int, default=128, help="128 or 256")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--baseline", type=Path, metavar="TREE", help="another checkout of hemseg")
    for option, whose in (("--set", "both checkouts"), ("--set-ours", "this checkout alone")):
        parser.add_argument(
            option, nargs="*", default=[], metavar="KEY=VALUE", help=f"config keys for {whose}"
        )
    parser.add_argument(
        "--folder", type=Path, help="where data and runs are kept (default: a temporary folder)"
    )
    return parser


@dataclass(frozen=True)
class _Run:
    """One training: which checkout, on what, and its name."""

    tree: Path
    label: str
    target: str
    model: str
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.label}-{self.target}-{self.model}-{self.recipe}-{self.seed}"


def _hemseg(
    tree: Path, folder: Path, arguments: Sequence[str], *, threads: int, clock: str = _RUN
) -> str:
    """Run a command of a checkout in `folder`; return its stdout, the log beside it in the error.

    SystemExit with the last lines of what it said where it fails.
    """
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run(
        [sys.executable, "-c", clock, *arguments],
        cwd=folder,
        env={**os.environ, **limits, "PYTHONPATH": str(tree), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"hemseg {' '.join(arguments)}\n{done.stderr[-2000:]}")
    return done.stdout


def _data_set(options: argparse.Namespace, folder: Path, target: str) -> str:
    """Shrink the scans to the matrix, and import them with the masks of one target."""
    name = f"{target}-{options.matrix}"
    if (folder / "data" / name / "cases.csv").is_file():
        return name

    small = folder / "small" / name
    rows = []
    with (options.source / "table.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            files = {"image": row["image"], "label": row[MASK_COLUMNS[target]]}
            for kind, file_name in files.items():
                shrunk = _shrunk(read_volume(options.source / file_name), options.matrix, kind)
                files[kind] = f"{kind}/s{row['patient']}.nii.gz"
                write_volume(small / files[kind], shrunk)
            rows.append({**files, "patient": row["patient"], "split": row["split"]})

    with (small / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = ["--layout", "table", "--table", str(small / "table.csv")]
    arguments = ["import", *table, "--name", name, "--copy", "--workers", "0", "-q"]
    _hemseg(TREE, folder, arguments, threads=options.threads)
    return name


def _shrunk(volume: Volume, matrix: int, kind: str) -> Volume:
    """Average blocks of pixels within the slices; a label's pixel is set where half of it is."""
    factor = volume.array.shape[0] // matrix
    i, j, k = volume.array.shape
    blocks = volume.array.astype(np.float32).reshape(i // factor, factor, j // factor, factor, k)
    means = blocks.mean(axis=(1, 3))
    array = means.round().astype(np.int16) if kind == "image" else (means >= 0.5).astype(np.uint8)

    # The centre of the new first pixel is that of the first block.
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :2].sum(axis=1) * (factor - 1) / 2
    affine[:3, :2] *= factor
    return Volume(array, affine)


def _train_all(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    trees = {"ours": TREE}
    if options.baseline:
        trees["baseline"] = options.baseline.resolve()

    rows = []
    for target in options.targets.split(","):
        data_set = _data_set(options, folder, target)
        for model in options.models.split(","):
            recipes = options.recipes.split(",")
            # The paper has no DynUNet, and nnU-Net has no recipe but its own.
            for recipe in recipes[:1] if model in ("nnunet", "dynunet") else recipes:
                tables = {
                    label: [
                        _scored(options, folder, data_set, run)
                        for seed in options.seeds.split(",")
                        for run in [_Run(tree, label, target, model, recipe, int(seed))]
                    ]
                    for label, tree in trees.items()
                }
                rows += _rows(target, model, recipe, tables)
    return {
        "cpu_minutes": None if options.epochs else options.minutes,
        "epochs": options.epochs,
        "threads": options.threads,
        "matrix": options.matrix,
        "seeds": options.seeds,
        "set": [*options.set, *options.set_ours],
        "runs": rows,
    }


def _scored(
    options: argparse.Namespace, folder: Path, data_set: str, run: _Run
) -> list[dict[str, str]]:
    """Train, predict and evaluate; return the rows of the evaluation's case table.

    What stands finished in `folder` is not done again.
    """
    cases = folder / "runs" / run.name / "evaluation" / "test" / "cases.csv"
    if not cases.is_file():
        keys = [
            f"data.dataset={data_set}",
            "predict.previews=false",
            "compute.workers=0",
            *options.set,
            *(options.set_ours if run.label == "ours" else []),
        ]
        common = ["-q", *(part for key in keys for part in ("--set", key))]
        _hemseg(
            run.tree,
            folder,
            ["train", "--run", run.name, *common, *_training(options, run)],
            threads=options.threads,
            clock=_RUN_BY_CPU_TIME,
        )
        for command in ("predict", "evaluate"):
            arguments = [command, "--run", run.name, *common]
            _hemseg(run.tree, folder, arguments, threads=options.threads)
    with cases.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _training(options: argparse.Namespace, run: _Run) -> list[str]:
    """The options of one training."""
    keys: Sequence[str] = _NNUNET_KEYS
    if run.model != "nnunet":
        keys = recipe_keys(run.model, run.recipe, FULL_MATRIX // options.matrix)
    minutes = f"train.max_minutes={options.minutes}"
    budget = f"train.epochs={options.epochs}" if options.epochs else minutes
    keys = [*keys, budget, f"train.seed={run.seed}"]
    chosen = ["--model", run.model, "--recipe", run.recipe]
    return [*chosen, *(part for key in keys for part in ("--set", key))]


def _rows(
    target: str, model: str, recipe: str, tables: dict[str, list[list[dict[str, str]]]]
) -> list[dict[str, Any]]:
    """One row for each checkout: its metrics, and of ours the paired difference in Dice."""
    values = {label: _by_scan(seeds, "dice") for label, seeds in tables.items()}
    rows = []
    for label, seeds in tables.items():
        row: dict[str, Any] = {"tree": label, "target": target, "model": model, "recipe": recipe}
        row |= {
            key: _interval(_by_scan(seeds, key), bounds).to_dict()
            for key, bounds in METRICS.items()
        }
        row["dice_by_seed"] = [float(np.mean(_column(seed, "dice"))) for seed in seeds]
        if label != "baseline" and "baseline" in values:
            row["dice_gain"] = _interval(values[label] - values["baseline"]).to_dict()
        rows.append(row)
        print(_line(row), file=sys.stderr, flush=True)
    return rows


def _by_scan(seeds: list[list[dict[str, str]]], key: str) -> np.ndarray[Any, Any]:
    """The mean over the seeds of a metric, scan by scan [scans]; rows stand in order of scan."""
    return np.mean([_column(seed, key) for seed in seeds], axis=0)


def _column(rows: list[dict[str, str]], key: str) -> list[float]:
    if key == "lesion_precision":
        found = [float(row["lesions_predicted"]) for row in rows]
        false = [float(row.get("lesions_false") or "nan") for row in rows]
        return [1 - b / a if a else float("nan") for a, b in zip(found, false, strict=True)]
    if key == "abs_volume_error_ml":
        # The signed error, which an older checkout's table has too.
        return [abs(float(row["volume_error_ml"])) for row in rows]
    return [float(row[key]) if row[key] else float("nan") for row in rows]


def _interval(values: np.ndarray[Any, Any], bounds: tuple[float, float] | None = None) -> Interval:
    """The mean over the scans, and its interval within the metric's bounds."""
    return Bootstrap().mean(values, bounds=bounds)


def _line(row: dict[str, Any]) -> str:
    """One line of a Markdown table."""
    cells = [row["tree"], row["target"], row["model"], row["recipe"]]
    for key in (*METRICS, "dice_gain"):
        if key in row:
            found = row[key]
            numbers = (found["mean"], found["ci_low"], found["ci_high"])
            mean, low, high = ("-" if value is None else f"{value:.3f}" for value in numbers)
            cells.append(f"{key} {mean} [{low}, {high}]")
    return f"| {' | '.join(cells)} |"


def _transfer(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train the demo's networks on drawings, and score them on every real scan."""
    folder.mkdir(parents=True, exist_ok=True)
    data_set = _data_set(options, folder, "blood")
    trees = {"ours": TREE}
    if options.baseline:
        trees["baseline"] = options.baseline.resolve()

    rows = []
    for model in options.models.split(","):
        for label, tree in trees.items():
            for seed in map(int, options.seeds.split(",")):
                demo = folder / f"demo-{label}-{model}-{seed}"
                if not (demo / "report.html").is_file():
                    arguments = ["--dir", str(demo), "--model", model, "--seed", str(seed)]
                    _hemseg(
                        tree,
                        folder,
                        ["demo", *arguments, "--minutes", str(options.minutes), "-q"],
                        threads=options.threads,
                        clock=_RUN_BY_CPU_TIME,
                    )
                ways = ("on", "off") if label == "ours" else ("",)
                rows += [
                    _transferred(options, folder / "data" / data_set, demo, _Way(tree, label, way))
                    | {"model": model, "seed": seed}
                    for way in ways
                ]
    return {"cpu_minutes": options.minutes, "matrix": options.matrix, "runs": rows}


@dataclass(frozen=True)
class _Way:
    """A checkout, and whether its prediction is restricted to the intracranial space."""

    tree: Path
    label: str
    intracranial: str


def _transferred(options: argparse.Namespace, data: Path, demo: Path, way: _Way) -> dict[str, Any]:
    """Predict all scans of the data set with the demo's run, and score the masks."""
    run = next(
        path for path in sorted((demo / "runs").iterdir()) if (path / "checkpoints").is_dir()
    )
    out = demo / f"real-{way.intracranial or 'plain'}"
    images, labels = out / "images", out / "labels"
    for kind, target in (("image", images), ("label", labels)):
        target.mkdir(parents=True, exist_ok=True)
        for file in data.glob(f"*/{kind}/*.nii.gz"):
            shutil.copy(file, target / file.name)

    keys = ["predict.previews=false", "compute.workers=0"]
    if way.intracranial:
        keys.append(f"predict.intracranial={str(way.intracranial == 'on').lower()}")
    common = ["-q", *(part for key in keys for part in ("--set", key))]
    masks = ["predict", str(images), "--run", str(run), "--out", str(out / "masks"), *common]
    _hemseg(way.tree, demo, masks, threads=options.threads)
    files = ["--predictions", str(out / "masks"), "--labels", str(labels)]
    scored = ["evaluate", *files, "--out", str(out / "evaluation"), "--set", "compute.workers=0"]
    _hemseg(way.tree, demo, [*scored, "-q"], threads=options.threads)

    with next((out / "evaluation").rglob("cases.csv")).open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    row: dict[str, Any] = {"tree": way.label, "target": "phantom -> blood", "model": demo.name}
    row["recipe"] = f"intracranial {way.intracranial or 'unknown'}"
    row |= {
        key: _interval(np.array(_column(table, key)), bounds).to_dict()
        for key, bounds in METRICS.items()
    }
    print(_line(row), file=sys.stderr, flush=True)
    return row


def _space(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Say how much of the true masks lies in the intracranial space, of all and of each scan."""
    del folder
    shares: dict[str, dict[str, tuple[int, int]]] = {target: {} for target in MASK_COLUMNS}
    lost, seconds, volumes_ml = [], [], []
    with (options.source / "table.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            scan, _ = to_canonical(read_volume(options.source / row["image"]))
            start = time.perf_counter()
            space = find_intracranial(scan)
            seconds.append(time.perf_counter() - start)
            if space is None:
                lost.append(row["patient"])
                continue
            volumes_ml.append(float(space.sum()) * header_voxel_volume_mm3(scan.affine) / 1000)
            for target, column in MASK_COLUMNS.items():
                label, _ = to_canonical(read_volume(options.source / row[column]))
                inside = label.array[space] > 0
                shares[target][row["patient"]] = (int(inside.sum()), int((label.array > 0).sum()))

    result: dict[str, Any] = {
        "not_found": lost,
        "seconds_per_scan": float(np.median(seconds)),
        "space_ml": [float(np.quantile(volumes_ml, share)) for share in (0, 0.1, 0.5, 0.9, 1)],
    }
    for target, by_scan in shares.items():
        worst = sorted((inside / of, scan) for scan, (inside, of) in by_scan.items() if of)[:3]
        inside, of = np.sum(list(by_scan.values()), axis=0)
        result[target] = {"scans": len(by_scan), "inside": float(inside / of), "worst": worst}
    return result


if __name__ == "__main__":
    main()
