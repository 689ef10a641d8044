"""How often the 90 % interval of a predicted volume holds the true one on fresh scans.

A network is trained on phantom heads with two folds, so that the other half calibrates it; 60 fresh
heads of each of four other seeds are then predicted: one draw of 60 tells the coverage to +- 8 %
only. Beside the coverage: how many ordinary fresh scans are
flagged as unlike the training, and whether scans with metal, contrast agent, another slice distance
and without a head are: python benchmarks/calibration.py
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from phantom_data import phantom_config

from hemseg_cli.config import Config
from hemseg_cli.core.cases import read_cases
from hemseg_cli.evaluation.bootstrap import clopper_pearson
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.inference.predict import predict
from hemseg_cli.training.train import train

# The demo's small DynUNet, which learns the phantom within minutes.
NETWORK = (
    "train.model=dynunet",
    "train.network={channels=[8, 16, 32, 64], strides=[1, [2, 2, 1], [2, 2, 1], 2], "
    "kernels=[[3, 3, 1], [3, 3, 1], 3, 3], supervised_levels=1}",
    "train.patch=[64, 64, 8]",
    "train.patches_per_scan=4",
    "train.lr=0.005",
    "train.ema_share=0.05",
    "train.validation_every=1000",
    "train.choose=mask",
    "predict.previews=false",
)


def with_metal(scan: Volume) -> Volume:
    """A clip of about 6 mm."""
    array = scan.array.astype(np.int16)
    i, j, k = (size // 2 for size in array.shape)
    array[i - 1 : i + 3, j - 1 : j + 3, k : k + 1] = 3071
    return Volume(array, scan.affine)


def with_contrast(scan: Volume) -> Volume:
    """5 HU more in the brain, and vessels of 180 HU in 2 % of it."""
    array = scan.array.astype(np.int16)
    brain: NDArray[np.bool_] = (array > 15) & (array < 60)
    array[brain] += 5
    array[brain & (np.random.default_rng(0).random(array.shape) < 0.02)] = 180
    return Volume(array, scan.affine)


def without_head(scan: Volume) -> Volume:
    """A trunk in the place of the head: soft tissue in fat, and a spine."""
    i, j, k = scan.array.shape
    x, y = np.meshgrid(np.linspace(-1, 1, i), np.linspace(-1, 1, j), indexing="ij")
    plane = np.full((i, j), -1000)
    plane[(x / 0.95) ** 2 + (y / 0.7) ** 2 < 1] = -100
    plane[(x / 0.8) ** 2 + (y / 0.55) ** 2 < 1] = 55
    plane[x**2 + (y + 0.4) ** 2 < 0.01] = 500
    noise = np.random.default_rng(0).normal(0, 4, (i, j, k))
    affine = scan.affine @ np.diag([1.7, 1.7, 1.0, 1.0])
    return Volume((plane[:, :, None] + noise).astype(np.int16), affine)


CHANGES = {"metal": with_metal, "contrast": with_contrast, "no_head": without_head}


def fresh_scans(config: Config, count: int) -> tuple[list[Path], dict[str, float]]:
    """Images of fresh heads, one a patient, and the true mL of each by scan."""
    cases = {case.patient: case for case in read_cases(config.data.cases_file)}
    images, truth = [], {}
    for case in list(cases.values())[:count]:
        image, label = config.data.directory.image_of(case), config.data.directory.label_of(case)
        images.append(image)
        voxels = np.count_nonzero(read_label(label).array)
        truth[case.scan] = voxels * float(case.voxel_volume_mm3 or 0) / 1000
    return images, truth


def measure(options: argparse.Namespace) -> dict[str, Any]:
    settings = (*NETWORK, f"train.max_minutes={options.minutes}", "train.fold=0", "train.folds=2")
    small = {"matrix": options.matrix, "assignments": settings}
    config = phantom_config(options.folder, seed=1, patients=options.patients, **small)
    name = f"calibration-{options.patients}-{options.minutes:g}"
    if not (config.runs.root / name / "checkpoints" / "best.pt").is_file():
        train(config, run=name)

    images: list[Path] = []
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        fresh = phantom_config(options.folder, seed=seed, patients=options.fresh, **small)
        images, truth = fresh_scans(fresh, options.fresh)
        out = options.folder / f"masks-{name}-{seed}"
        found = predict(config, runs=[name], inputs=images, out=out, force=True).payload()
        flags = {scan for scan, said in found["warnings"].items() if "unlike" in " ".join(said)}
        rows += [
            {**row, "seed": seed, "truth_ml": truth[row["scan"]], "flagged": row["scan"] in flags}
            for row in found["predicted"]
        ]
    return {
        "all_seeds": coverage(rows),
        **{f"seed_{n}": coverage([r for r in rows if r["seed"] == n]) for n in options.seeds},
        "flagged": flagged_changes(config, name, images[: options.changed], options.folder),
    }


def coverage(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of the intervals that hold the truth, with its own 95 % interval, and the flags."""
    stated = [row for row in rows if row["volume_low_ml"] is not None]
    held = sum(row["volume_low_ml"] <= row["truth_ml"] <= row["volume_high_ml"] for row in stated)
    width = [row["volume_high_ml"] / max(row["volume_low_ml"], 0.1) for row in stated]
    low, high = clopper_pearson(held, len(stated), 0.95)
    return {
        "scans": len(rows),
        "without_interval": len(rows) - len(stated),
        "coverage": round(held / len(stated), 3),
        "coverage_95": [round(low, 3), round(high, 3)],
        "median_high_over_low": round(float(np.median(width)), 2),
        "flagged_ordinary": sum(row["flagged"] for row in rows),
    }


def flagged_changes(config: Config, name: str, images: list[Path], folder: Path) -> dict[str, str]:
    """How many of the changed scans are flagged as unlike the training, by kind of change."""
    flagged = {}
    for kind, change in CHANGES.items():
        changed = []
        for image in images:
            changed.append(folder / kind / image.name)
            write_volume(changed[-1], change(read_volume(image)))
        out = folder / f"masks-{kind}"
        said = predict(config, runs=[name], inputs=changed, out=out, force=True).payload()
        count = sum("unlike" in " ".join(texts) for texts in said["warnings"].values())
        flagged[kind] = f"{count} of {len(changed)}"
    return flagged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("calibration"))
    parser.add_argument("--patients", type=int, default=96)
    parser.add_argument("--fresh", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4, 5])
    parser.add_argument("--changed", type=int, default=5)
    parser.add_argument("--matrix", type=int, default=96)
    parser.add_argument("--minutes", type=float, default=3.0)
    options = parser.parse_args()
    start = time.monotonic()
    options.folder = options.folder.resolve()
    found = measure(options)
    print(
        json.dumps({**found, "cores": os.cpu_count(), "seconds": round(time.monotonic() - start)})
    )


if __name__ == "__main__":
    main()
