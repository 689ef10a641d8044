"""Prediction against MONAI's sliding window with the published settings; prints one JSON object.

python benchmarks/predict.py speed [--device cpu|cuda] [--models unet,vnet] [--matrix 512] [--slices
32] [--scans 2] [--precision float32]
    seconds per scan and peak memory for each network. Both sides read a NIfTI file, bring it to the
    published grid, run the same weights
    (random, seeded), bring the mask back and write it. The reference is MONAI's transforms and
    `sliding_window_inference` over the whole
    volume: 256 x 256 x 16 (Swin UNETR: 128 x 128 x 32), overlap 0.25, batch 4. Each side runs in a
    process of its own, so that peak
    memory is its own; a piece of a scan warms it up.

python benchmarks/predict.py dice --folder FOLDER [--device cpu|cuda]
    test Dice of the trained runs that `benchmarks/train.py dice --folder FOLDER` left there, ours
    and by MONAI's sliding window over the
    whole volume (the run's patch, overlap 0.25, batch 4, constant weights), both at threshold 0.5
    without post-processing

Small try: python benchmarks/predict.py speed --models unet --matrix 128 --scans 1
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

SPACING_MM = (0.4882810115814209, 0.4882810115814209, 4.649400138854981)
WINDOW_HU = {
    "low": 11.99969482421875,
    "high": 79.0,
    "mean": 48.13441467285156,
    "std": 13.457549095153809,
}
MODELS = ("unet", "vnet", "segresnet", "attention-unet", "dynunet", "unetr", "swin-unetr")
OVERLAP, BATCH = 0.25, 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        choices=("speed", "dice", "ours", "reference"),
        help="speed or dice; the others are speed's own two sides",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--scans", type=int, default=2)
    parser.add_argument(
        "--precision", default="auto", help="of ours; the reference computes in float32"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="where trained runs lie (dice) or the scans to predict (the two sides)",
    )
    options = parser.parse_args()
    if options.what == "dice":
        print(json.dumps(dice_of_runs(options.folder, options.device), indent=2))
    elif options.what == "speed":
        print(json.dumps(speed(options), indent=2))
    else:
        own = options.what == "ours"
        print(
            json.dumps(
                ours(options.folder, options.device, options.precision)
                if own
                else reference(options.folder, options.device)
            )
        )


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides for each network; a row a network to stderr as it is done."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        draw_scans(work, options.scans, options.matrix, options.slices)
        rows = []
        for model in options.models.split(","):
            write_model(work, model, options.matrix)
            rows.append(compare(work, model, options.device, options.precision))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {
        "device": options.device,
        "matrix": options.matrix,
        "slices": options.slices,
        "scans": options.scans,
        "networks": rows,
    }


def draw_scans(work: Path, scans: int, matrix: int, slices: int) -> None:
    """Phantom scans of a 250 mm field, 5 mm apart: 0.488 mm pixels at 512."""
    from hemseg_cli.dataset.phantom.gantry import Gantry
    from hemseg_cli.dataset.phantom.scanner import draw_head
    from hemseg_cli.imaging.nifti import write_volume

    for number in range(scans):
        drawn = draw_head(number, gantry=Gantry(matrix=matrix, slices=slices, fov_mm=250.0))
        write_volume(work / "image" / f"scan{number}.nii.gz", drawn.image)
        if number == 0:
            middle = slice(matrix // 2 - 32, matrix // 2 + 32)
            write_volume(
                work / "piece.nii.gz",
                replace(drawn.image, array=drawn.image.array[middle, middle, :16].copy()),
            )


def patch_of(model: str, matrix: int) -> list[int]:
    """The published patch; in proportion at a small matrix."""
    i, j, k = (128, 128, 32) if model == "swin-unetr" else (256, 256, 16)
    return [max(32, i * matrix // 512), max(32, j * matrix // 512), k]


def write_model(work: Path, model: str, matrix: int) -> None:
    """A checkpoint with seeded weights."""
    import torch

    from hemseg_cli.imaging.preprocess import HuWindow, Preprocess
    from hemseg_cli.models.checkpoint import write_checkpoint
    from hemseg_cli.models.registry import build_network, full_config

    torch.manual_seed(0)
    patch = patch_of(model, matrix)
    config = full_config(model, {}, patch)
    scale = 512 / matrix
    preprocess = Preprocess(
        (SPACING_MM[0] * scale, SPACING_MM[1] * scale, SPACING_MM[2]), (HuWindow(**WINDOW_HU),)
    )
    write_checkpoint(
        work / "runs" / "bench" / "checkpoints" / "best.pt",
        {
            "model": build_network(model, config, 1).state_dict(),
            "model_name": model,
            "model_config": config,
            "preprocess": preprocess.to_dict(),
            "patch": patch,
            "in_channels": 1,
            "step": 0,
            "epoch": 0,
            "predict": {"overlap": OVERLAP, "threshold": 0.5},
        },
    )


def compare(work: Path, model: str, device: str, precision: str) -> dict[str, Any]:
    """Both sides, one after the other."""
    sides = {side: measured(work, side, device, precision) for side in ("reference", "ours")}
    own, other = sides["ours"], sides["reference"]
    return {
        "model": model,
        "ours_seconds": own["seconds"],
        "reference_seconds": other["seconds"],
        "ratio": round(other["seconds"] / own["seconds"], 2),
        "ours_peak_mb": own["peak_mb"],
        "reference_peak_mb": other["peak_mb"],
        "memory_ratio": round(own["peak_mb"] / other["peak_mb"], 2),
    }


def measured(work: Path, side: str, device: str, precision: str) -> dict[str, float]:
    """One side in a process of its own."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        side,
        "--folder",
        str(work),
        "--device",
        device,
        "--precision",
        precision,
    ]
    answer: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    return answer


def dice_of_runs(folder: Path, device: str) -> dict[str, Any]:
    """A row for each trained network of a folder that `benchmarks/train.py dice` made."""
    (cases_file,) = folder.glob("*-data/cases.csv")
    rows = []
    for run in sorted(path for path in (folder / "runs").iterdir() if not path.is_symlink()):
        file = run / "checkpoints" / "best.pt"
        if file.is_file() and not run.name.startswith("nnunet"):
            rows.append({"run": run.name, **dice_of_run(file, cases_file, device)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"device": device, "runs": rows}


def dice_of_run(file: Path, cases_file: Path, device: str) -> dict[str, Any]:
    """Mean test Dice of both sides."""
    import torch
    from monai.inferers import sliding_window_inference

    from hemseg_cli.config.schema import PredictConfig
    from hemseg_cli.core.cases import cases_in_split, read_cases
    from hemseg_cli.evaluation.metrics import dice
    from hemseg_cli.imaging.nifti import read_volume
    from hemseg_cli.imaging.preprocess import Preprocess, prepare_image, restore_probability
    from hemseg_cli.inference.predictor import Predictor
    from hemseg_cli.models.checkpoint import network_of, read_checkpoint

    checkpoint = read_checkpoint(file)
    predictor = Predictor.load(
        [file],
        PredictConfig(overlap=OVERLAP, threshold=0.5, min_component_ml=0.0, tta=False),
        device=device,
    )
    network, settings = (
        network_of(checkpoint).to(device).eval(),
        Preprocess.from_dict(checkpoint["preprocess"]),
    )
    own, other = [], []
    for case in cases_in_split(read_cases(cases_file), "test"):
        scan, truth = (
            read_volume(cases_file.parent / case.image),
            read_volume(cases_file.parent / case.label).array > 0,
        )
        own.append(dice(predictor.probability(scan) >= 0.5, truth))
        image, grid = prepare_image(scan, settings)
        with torch.inference_mode():
            logits = sliding_window_inference(
                torch.from_numpy(image)[None].to(device),
                checkpoint["patch"],
                BATCH,
                network,
                overlap=OVERLAP,
                mode="constant",
            )
        other.append(
            dice(restore_probability(logits.sigmoid()[0, 0].cpu().numpy(), grid) >= 0.5, truth)
        )
    mean, reference_mean = sum(own) / len(own), sum(other) / len(other)
    return {
        "model": checkpoint["model_name"],
        "scans": len(own),
        "ours_dice": round(mean, 4),
        "reference_dice": round(reference_mean, 4),
        "difference": round(mean - reference_mean, 4),
    }


def ours(work: Path, device: str, precision: str) -> dict[str, float]:
    """`predict` as a user calls it, without previews.

    The time per scan from the second one on is that of all but loading.
    """
    from hemseg_cli.config import load
    from hemseg_cli.core import console

    console.configure(quiet=True)
    options = {
        "runs.root": str(work / "runs"),
        "predict.previews": False,
        "predict.precision": precision,
        "compute.device": device,
    }
    config = load(None, environ={}, options=options)
    from hemseg_cli.inference.predict import predict

    predict(config, runs=["bench"], inputs=[work / "piece.nii.gz"], out=work / "warm", force=True)
    start = time.perf_counter()
    result = predict(config, runs=["bench"], inputs=[work / "image"], out=work / "ours", force=True)
    return stop(start, len(result.predicted), device)


def reference(work: Path, device: str) -> dict[str, float]:
    """MONAI: transforms, whole-volume sliding window, inverse resampling, SaveImage."""
    import torch

    from hemseg_cli.models.checkpoint import network_of, read_checkpoint

    checkpoint = read_checkpoint(work / "runs" / "bench" / "checkpoints" / "best.pt")
    network = network_of(checkpoint).to(device)
    with torch.inference_mode():
        reference_scan(network, checkpoint, work / "piece.nii.gz", work / "warm_reference", device)
        start = time.perf_counter()
        scans = sorted((work / "image").glob("*.nii.gz"))
        for path in scans:
            reference_scan(network, checkpoint, path, work / "reference", device)
    return stop(start, len(scans), device)


def reference_scan(
    network: Any, checkpoint: dict[str, Any], path: Path, out: Path, device: str
) -> None:
    from monai import transforms as mt
    from monai.data import MetaTensor
    from monai.inferers import sliding_window_inference

    spacing = checkpoint["preprocess"]["spacing_mm"]
    load = mt.Compose([mt.LoadImaged("image"), mt.EnsureChannelFirstd("image")])
    prepare = mt.Compose(
        [
            mt.Orientationd("image", axcodes="RAS", labels=None),
            mt.Spacingd("image", pixdim=spacing, mode="bilinear"),
            mt.ThresholdIntensityd(
                "image", threshold=WINDOW_HU["high"], above=False, cval=WINDOW_HU["high"]
            ),
            mt.ThresholdIntensityd(
                "image", threshold=WINDOW_HU["low"], above=True, cval=WINDOW_HU["low"]
            ),
            mt.NormalizeIntensityd("image", subtrahend=WINDOW_HU["mean"], divisor=WINDOW_HU["std"]),
        ]
    )
    data = prepare(load({"image": str(path)}))
    logits = sliding_window_inference(
        data["image"][None].to(device),
        checkpoint["patch"],
        BATCH,
        network,
        overlap=OVERLAP,
        mode="constant",
    )
    data["probability"] = MetaTensor(logits.sigmoid()[0].cpu(), meta=data["image"].meta)
    back = mt.Invertd(
        "probability", transform=prepare, orig_keys="image", nearest_interp=False, to_tensor=True
    )(data)["probability"]
    mask = (back >= 0.5).to(dtype=logits.dtype)
    save = mt.SaveImage(
        output_dir=out,
        output_postfix="",
        separate_folder=False,
        output_dtype="uint8",
        resample=False,
        print_log=False,
    )
    save(mask, meta_data=back.meta)


def stop(start: float, scans: int, device: str) -> dict[str, float]:
    """Seconds per scan since `start`, and the peak memory."""
    return {"seconds": round((time.perf_counter() - start) / scans, 3), "peak_mb": peak_mb(device)}


def peak_mb(device: str) -> int:
    """Largest memory of this process; on CUDA of the device.

    Not `ru_maxrss`: that starts from the memory of this process's parent.
    """
    if device.startswith("cuda"):
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**20)
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) // 1024


if __name__ == "__main__":
    main()
