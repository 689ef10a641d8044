"""Run directories and a data set on disk as DESIGN section 4 lays them out, drawn small."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.config import Config
from hemseg_cli.core.cases import Case, write_cases
from hemseg_cli.imaging.nifti import Volume, write_volume

SHAPE = (64, 64, 8)
AFFINE = np.diag([-1.5, -1.5, 5.0, 1.0])
VOXEL_ML = 1.5 * 1.5 * 5.0 / 1000

METRIC_COLUMNS = (
    *("dice", "iou", "hd95_mm", "nsd_2mm", "truth_ml", "predicted_ml", "volume_error_ml"),
    *("abs_volume_error_ml", "relative_volume_difference", "abs_relative_volume_difference"),
    *("lesions_truth", "lesions_predicted", "lesions_detected", "lesions_false", "lesion_f1_case"),
)
CASE_COLUMNS = [
    *("scan", "patient", "split"),
    *METRIC_COLUMNS,
    *("tilt_deg", "scan_class", "mask", "label_sha256"),
]
_PAPER_COLUMNS = {"hd95_mm": "hd95_voxel"}


@dataclass(frozen=True)
class Workplace:
    """A folder with data/ and runs/, and the config that names them."""

    folder: Path
    config: Config

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def run(self, name: str = "dynunet-1") -> Path:
        return self.runs / name


def draw_case(
    radius: float, shift: int = 0, shape: tuple[int, int, int] = SHAPE
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """HU of a round head with a bleed of `radius` voxels, and its mask moved along i by `shift`."""
    i, j, k = np.indices(shape)
    ci, cj, ck = (n // 2 for n in shape)
    in_slice = np.hypot(i - ci, j - cj)
    hu = np.where(in_slice < ci * 0.85, 35, -1000)
    hu = np.where((in_slice >= ci * 0.78) & (in_slice < ci * 0.85), 900, hu)
    bleed = np.hypot(i - ci, j - cj - 4) ** 2 + (2 * (k - ck)) ** 2 < radius**2
    hu = np.where(bleed, 65, hu)
    return hu.astype(np.int16), np.roll(bleed, shift, axis=0).astype(np.uint8)


def write_run(
    folder: Path,
    scans: Sequence[str],
    *,
    shift: int = 1,
    images: bool = True,
    columns: Sequence[str] = CASE_COLUMNS,
    summary: dict[str, Any] | None = None,
    dataset: str = "phantom",
    shape: tuple[int, int, int] = SHAPE,
) -> None:
    """A trained, predicted and evaluated run.

    The metrics are those of the masks written (Dice, IoU, volumes), HD95 and NSD made up.
    """
    rows = []
    for n, scan in enumerate(scans):
        radius = 4.0 + 1.5 * n
        _, truth = draw_case(radius, shape=shape)
        _, prediction = draw_case(radius, shift * (1 + n % 3), shape=shape)
        if images:
            write_volume(
                folder / "predictions" / "test" / f"{scan}.nii.gz", Volume(prediction, AFFINE)
            )
        both, either = int((truth & prediction).sum()), int((truth | prediction).sum())
        truth_ml, predicted_ml = (
            truth.sum() * VOXEL_ML,
            prediction.sum() * VOXEL_ML * (1 + 0.02 * n),
        )
        dice = 2 * both / int(truth.sum() + prediction.sum())
        error = predicted_ml - truth_ml
        volumes = (truth_ml, predicted_ml, error, abs(error), error / truth_ml)
        overlap = (dice, both / either, 4.0 + n, 0.9 - 0.01 * n)
        numbers = [*overlap, *volumes, abs(error / truth_ml), 1, 1, 1, 0, 1.0]
        digest = f"{int(truth.sum()):016x}"
        rows.append([scan, f"ID_{n:08x}", "test", *numbers, 0.0, "", "found", digest])

    protocol = (summary or {}).get("protocol", "native")
    if protocol == "paper":
        columns = [_PAPER_COLUMNS.get(name, name) for name in columns]
    evaluation = folder / "evaluation" / "test"
    evaluation.mkdir(parents=True)
    with (evaluation / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([row[: len(columns)] for row in rows])
    (evaluation / "summary.json").write_text(
        json.dumps(plain_summary(rows, dataset) | (summary or {}))
    )
    (folder / "config.toml").write_text(
        f'[data]\ndataset = "{dataset}"\n\n'
        '[train]\nmodel = "dynunet"\nrecipe = "strong"\nepochs = 6\n'
    )
    (folder / "environment.json").write_text(
        json.dumps({"hemseg": "0.1.0", "python": "3.11.2", "device": "cpu"})
    )
    (folder / "train").mkdir()
    with (folder / "train" / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "seconds", "lr", "train_loss", "val_loss", "val_dice", "best"])
        for epoch in range(1, 7):
            writer.writerow(
                [
                    epoch,
                    2.5,
                    0.01,
                    1 / epoch,
                    "" if epoch % 2 else 1.1 / epoch,
                    "" if epoch % 2 else 1 - 1 / epoch,
                    epoch == 6,
                ]
            )


def plain_summary(rows: Sequence[Sequence[Any]], dataset: str) -> dict[str, Any]:
    """Every key of `summary.json`; the intervals are made up."""
    averaged = {
        name: float(np.mean([row[3 + n] for row in rows]))
        for n, name in enumerate(METRIC_COLUMNS)
        if name not in ("truth_ml", "predicted_ml") and not name.startswith("lesions_")
    }
    return {
        "protocol": "native",
        "split": "test",
        "dataset": dataset,
        "trained_on": dataset,
        "nsd_tolerance_mm": 2.0,
        "n_cases": len(rows),
        "n_missed": 0,
        "n_false_positive": 0,
        "n_empty_truth": 0,
        "n_missing": 0,
        "n_resampled": 0,
        "metrics": {
            name: interval(mean, mean * 0.95, mean * 1.04, len(rows))
            for name, mean in averaged.items()
        },
        "bootstrap": {
            "samples": 1000,
            "confidence": 0.95,
            "seed": 47,
            "unit": "patient",
            "method": "studentised",
        },
        "strata": {},
        "lesions": {"truth": len(rows), "predicted": len(rows), "detected": len(rows), "false": 0},
        "agreement": {
            "n": len(rows),
            **dict.fromkeys(("bias_ml", "sd_ml", "loa_low_ml", "loa_high_ml", "ccc")),
        },
        "definitions": {"dice": "2 |P and T| / (|P| + |T|)"},
        "warnings": [],
        "format": 1,
    }


def interval(mean: float, low: float | None, high: float | None, n: int) -> dict[str, Any]:
    """An estimate as `summary.json` holds it."""
    return {"mean": mean, "ci_low": low, "ci_high": high, "n": n, "method": "studentised"}


def write_dataset(
    folder: Path, scans: Sequence[str], *, shape: tuple[int, int, int] = SHAPE
) -> None:
    """cases.csv with image and label of each scan."""
    cases = []
    for n, scan in enumerate(scans):
        hu, truth = draw_case(4.0 + 1.5 * n, shape=shape)
        noise = np.random.default_rng(n).normal(0, 6, shape).astype(np.int16)
        label, image = f"test/label/{scan}.nii.gz", f"test/image/{scan}.nii.gz"
        write_volume(folder / label, Volume(truth, AFFINE))
        write_volume(folder / image, Volume(hu + noise, AFFINE))
        cases.append(
            Case(
                scan,
                patient=f"ID_{n:08x}",
                split="test",
                n_slices=shape[2],
                label=label,
                image=image,
                truth_ml=float(truth.sum() * VOXEL_ML),
                voxel_volume_mm3=11.25,
            )
        )
    write_cases(folder / "cases.csv", cases)
