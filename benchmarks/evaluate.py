"""Seconds and peak memory of the metrics of one full-size case.

Ours against MONAI's chain and surface-distance, on the same masks.

Also reading the two files, and the bootstrap against the published function: python
benchmarks/evaluate.py
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

SHAPE, SPACING_MM, VOXEL_MM3 = (512, 512, 36), (0.488, 0.488, 5.0), 1.19
Mask = NDArray[np.uint8]
Masks = tuple[Mask, Mask]


def ellipsoids(*shapes: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Mask:
    i, j, k = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    mask = np.zeros(SHAPE, dtype=np.uint8, order="F")  # as NIfTI readers give it
    for centre, radius in shapes:
        mask[
            sum(((axis - c) / r) ** 2 for axis, c, r in zip((i, j, k), centre, radius, strict=True))
            <= 1
        ] = 1
    return mask


def masks(kind: str) -> Masks:
    """Prediction and truth. Small: 1 mL; large: 110 mL, the largest in HemSeg; far-apart.

    40 mL on opposite sides; empty: missed.
    """
    if kind == "small":
        return ellipsoids(((252, 251, 15), (12, 11, 2))), ellipsoids(((250, 250, 15), (12, 10, 2)))
    if kind == "large":
        return ellipsoids(((254, 246, 15), (56, 54, 7.5))), ellipsoids(
            ((250, 250, 15), (60, 52, 7))
        )
    if kind == "far-apart":
        return ellipsoids(((100, 100, 5), (50, 40, 4))), ellipsoids(((420, 400, 28), (50, 45, 4)))
    return ellipsoids(), ellipsoids(((250, 250, 15), (30, 30, 4)))


def ours(prediction: Mask, truth: Mask) -> dict[str, float]:
    from hemseg_cli.evaluation.metrics import case_metrics

    found = case_metrics(
        prediction, truth, spacing_mm=SPACING_MM, voxel_volume_mm3=VOXEL_MM3, tolerance_mm=2.0
    )
    return {"dice": found.dice, "iou": found.iou, "hd95_mm": found.hd95_mm, "nsd_2mm": found.nsd}


def monai(prediction: Mask, truth: Mask) -> dict[str, float]:
    import torch
    from monai.metrics import DiceMetric, HausdorffDistanceMetric, MeanIoU

    torch.set_num_threads(1)
    p, t = (
        torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, truth)
    )
    values = {}
    for name, metric, options in (
        ("dice", DiceMetric(), {}),
        ("iou", MeanIoU(), {}),
        (
            "hd95_mm",
            HausdorffDistanceMetric(include_background=True, percentile=95),
            {"spacing": SPACING_MM},
        ),
    ):
        values[name] = float(metric(y_pred=p, y=t, **options))
    return values


def surface_distance(prediction: Mask, truth: Mask) -> dict[str, float]:
    import surface_distance as library

    p, t = prediction.astype(bool), truth.astype(bool)
    found = library.compute_surface_distances(t, p, SPACING_MM)
    return {
        "dice": library.compute_dice_coefficient(t, p),
        "hd95_mm": library.compute_robust_hausdorff(found, 95),
        "nsd_2mm": library.compute_surface_dice_at_tolerance(found, 2.0),
    }


def ours_from_files(folder: Path) -> dict[str, float]:
    from hemseg_cli.evaluation.scoring import CaseFiles, score_case

    return {
        "dice": score_case(
            CaseFiles("case", folder / "truth.nii.gz", folder / "prediction.nii.gz")
        ).values["dice"]
    }


def monai_from_files(folder: Path) -> dict[str, float]:
    import nibabel

    return monai(
        *(
            np.asanyarray(nibabel.load(folder / f"{name}.nii.gz").dataobj).astype(np.uint8)
            for name in ("prediction", "truth")
        )
    )


CHAINS: dict[str, Callable[..., dict[str, float]]] = {
    "ours": ours,
    "monai": monai,
    "surface-distance": surface_distance,
    "ours, files": ours_from_files,
    "monai, files": monai_from_files,
}


def measure(chain: str, kind: str, folder: Path, repeats: int, pipe: Any) -> None:
    """In a process of its own, so that its peak memory is its own."""
    warnings.simplefilter("ignore")
    given = (folder,) if chain.endswith("files") else masks(kind)
    CHAINS[chain](*given)  # imports
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        values = CHAINS[chain](*given)
        seconds.append(time.process_time() - start)
    pipe.send(
        {
            "cpu_s": min(seconds),
            "peak_mb": peak_mb(),
            "values": {k: finite(v) for k, v in values.items()},
        }
    )


def peak_mb() -> float:
    """Not `getrusage`, whose peak a process inherits from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return (
        int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        / 1024
    )


def finite(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def in_process(function: Callable[..., None], *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(*arguments, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def one_case(kind: str, repeats: int) -> dict[str, Any]:
    from hemseg_cli.imaging.nifti import Volume, write_volume

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
        prediction, truth = masks(kind)
        write_volume(folder / "prediction.nii.gz", Volume(prediction, affine))
        write_volume(folder / "truth.nii.gz", Volume(truth.astype(np.int16), affine))
        found = {
            chain: in_process(measure, chain, kind, folder, repeats)
            for chain in CHAINS
            if works(chain, kind)
        }
    seconds = {chain: row["cpu_s"] for chain, row in found.items()}
    ratios = {
        f"{chain} / ours": seconds[chain] / seconds["ours"]
        for chain in ("monai", "surface-distance")
        if chain in seconds
    }
    return {
        "voxels": int(truth.sum()),
        **found,
        **ratios,
        "monai / ours, with files": seconds["monai, files"] / seconds["ours, files"],
    }


def works(chain: str, kind: str) -> bool:
    """surface-distance has no robust Hausdorff distance of an empty mask."""
    return chain != "surface-distance" or kind != "empty"


def bootstrap(cases: int, samples: int) -> dict[str, float]:
    from hemseg_cli.evaluation.bootstrap import Bootstrap

    data = np.random.default_rng(0).beta(5, 2, size=cases)
    Bootstrap(samples=100).mean(data)
    start = time.process_time()
    found = Bootstrap(samples=samples).mean(data)
    ours_s = time.process_time() - start
    start = time.process_time()
    means = np.sort(
        np.mean(np.random.RandomState(47).choice(data, size=(samples, cases), replace=True), axis=1)
    )
    published_s = time.process_time() - start
    return {
        "cases": cases,
        "samples": samples,
        "ours_cpu_s": ours_s,
        "published_cpu_s": published_s,
        "published / ours": published_s / ours_s,
        "ours_ci_low": found.ci_low,
        "published_ci_low": float(means[int(0.025 * samples)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kind", nargs="*", default=["small", "large", "far-apart", "empty"])
    options = parser.parse_args()
    cases = {kind: one_case(kind, options.repeats) for kind in options.kind}
    print(
        json.dumps(
            {"shape": SHAPE, "per_case": cases, "bootstrap": bootstrap(1000, 10_000)}, indent=2
        )
    )


if __name__ == "__main__":
    main()
