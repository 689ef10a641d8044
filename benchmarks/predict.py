"""Seconds per scan and peak memory of prediction, ours against MONAI's sliding window with the published settings, per network.

Both sides read a NIfTI file, bring it to the published grid, run the same weights, bring the mask back and write it. The reference is
MONAI's transforms and `sliding_window_inference` over the whole volume: 256 x 256 x 16 (Swin UNETR: 128 x 128 x 32), overlap 0.25,
batch 4. Each side runs in a process of its own, so that peak memory is its own. Dice is against the phantom's truth; with random weights
(the default) it says nothing of a network, but the agreement of the two masks does. `--run NAME` takes a trained run.

Full figures: python benchmarks/predict.py --device cpu     Small try: python benchmarks/predict.py --models unet --matrix 128 --scans 1
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SPACING_MM = (0.4882810115814209, 0.4882810115814209, 4.649400138854981)
WINDOW_HU = {"low": 11.99969482421875, "high": 79.0, "mean": 48.13441467285156, "std": 13.457549095153809}
MODELS = ("unet", "vnet", "segresnet", "attention-unet", "dynunet", "unetr", "swin-unetr")
OVERLAP, BATCH = 0.25, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--scans", type=int, default=2)
    parser.add_argument(
        "--train-steps", type=int, default=0, help="steps of quick training on crops of other phantoms, for a Dice that says something"
    )
    parser.add_argument("--side", choices=("ours", "reference"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side = ours if arguments.side == "ours" else reference
        print(json.dumps(side(arguments.work, arguments.device)))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        draw_scans(work, arguments.scans, arguments.matrix, arguments.slices)
        rows = []
        for model in arguments.models:
            write_model(work, model, arguments.matrix, arguments.train_steps)
            rows.append(compare(work, model, arguments.device))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"device": arguments.device, "matrix": arguments.matrix, "scans": arguments.scans, "networks": rows}, indent=2))


def draw_scans(work: Path, scans: int, matrix: int, slices: int) -> None:
    """Phantom scans of a 250 mm field, 5 mm apart: 0.488 mm pixels at 512."""
    from hemseg_cli.dataset.phantom_scanner import Gantry, draw_head
    from hemseg_cli.imaging.volume import write_volume

    for number in range(scans):
        drawn = draw_head(number, gantry=Gantry(matrix=matrix, slices=slices, fov_mm=250.0))
        write_volume(work / "image" / f"scan{number}.nii.gz", drawn.image)
        write_volume(work / "label" / f"scan{number}.nii.gz", drawn.label)


def patch_of(model: str, matrix: int) -> list[int]:
    """The published patch; in proportion at a small matrix."""
    i, j, k = (128, 128, 32) if model == "swin-unetr" else (256, 256, 16)
    return [max(32, i * matrix // 512), max(32, j * matrix // 512), k]


def write_model(work: Path, model: str, matrix: int, steps: int) -> None:
    """A checkpoint with seeded weights, trained for some steps if asked for."""
    import torch

    from hemseg_cli.imaging.preprocess import Preprocess, Window
    from hemseg_cli.models.checkpoint import write_checkpoint
    from hemseg_cli.models.registry import build_network, full_config

    torch.manual_seed(0)
    patch = patch_of(model, matrix)
    config = full_config(model, {}, patch)
    network = build_network(model, config, 1)
    scale = 512 / matrix
    preprocess = Preprocess((SPACING_MM[0] * scale, SPACING_MM[1] * scale, SPACING_MM[2]), (Window(**WINDOW_HU),))
    if steps:
        train(network, preprocess, patch, matrix, steps)
    write_checkpoint(
        work / "runs" / "bench" / "checkpoints" / "best.pt",
        {
            "model": network.state_dict(),
            "model_name": model,
            "model_config": config,
            "preprocess": preprocess.to_dict(),
            "patch": patch,
            "in_channels": 1,
            "step": steps,
            "epoch": 0,
            "predict": {"overlap": OVERLAP, "threshold": 0.5},
        },
    )


def train(network: Any, preprocess: Any, patch: list[int], matrix: int, steps: int) -> None:
    """Some steps of Adam on patches around hemorrhage of phantoms that are not predicted."""
    import numpy as np
    import torch
    from monai.losses import DiceCELoss

    from hemseg_cli.dataset.phantom_scanner import Gantry, draw_head
    from hemseg_cli.imaging.preprocess import prepare_image, prepare_label

    drawn = [draw_head(seed, gantry=Gantry(matrix=matrix, slices=28, fov_mm=250.0)) for seed in (100, 101, 102)]
    pairs = [(prepare_image(one.image, preprocess)[0], prepare_label(one.label, preprocess)) for one in drawn]
    rng, loss = np.random.default_rng(0), DiceCELoss(sigmoid=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    network.train()
    for _ in range(steps):
        image, label = pairs[rng.integers(len(pairs))]
        voxels = np.argwhere(label)
        centre = voxels[rng.integers(len(voxels))]
        middle = [int(c) - p // 2 + int(rng.integers(-p // 4, p // 4 + 1)) for c, p in zip(centre, patch, strict=True)]
        starts = [min(max(m, 0), max(0, n - p)) for m, n, p in zip(middle, label.shape, patch, strict=True)]
        box = tuple(slice(start, start + size) for start, size in zip(starts, patch, strict=True))
        output = network(torch.from_numpy(image[:, *box].copy())[None])
        output = output[0] if isinstance(output, list) else output
        value = loss(output, torch.from_numpy(label[box].astype(np.float32))[None, None])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    network.eval()


def compare(work: Path, model: str, device: str) -> dict[str, Any]:
    """Both sides, one after the other, and how their masks agree."""
    sides = {side: measured(work, side, device) for side in ("reference", "ours")}
    own, other = sides["ours"], sides["reference"]
    return {
        "model": model,
        "ours_seconds": own["seconds"],
        "reference_seconds": other["seconds"],
        "ratio": round(other["seconds"] / own["seconds"], 2),
        "ours_peak_mb": own["peak_mb"],
        "reference_peak_mb": other["peak_mb"],
        "memory_ratio": round(own["peak_mb"] / other["peak_mb"], 2),
        "ours_dice": dice_of(work / "ours", work / "label"),
        "reference_dice": dice_of(work / "reference", work / "label"),
        "dice_between_them": dice_of(work / "ours", work / "reference"),
    }


def measured(work: Path, side: str, device: str) -> dict[str, float]:
    """One side in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--side", side, "--work", str(work), "--device", device]
    answer: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return answer


def dice_of(one: Path, other: Path) -> float:
    """Mean Dice of the masks of two folders; both empty counts as 1."""
    from hemseg_cli.imaging.volume import read_volume

    values = []
    for path in sorted(other.glob("*.nii.gz")):
        b = read_volume(path).array > 0
        mask = one / path.name if (one / path.name).exists() else one / path.name.replace(".nii.gz", "_mask.nii.gz")
        a = read_volume(mask).array > 0
        both = int(a.sum()) + int(b.sum())
        values.append(2 * int((a & b).sum()) / both if both else 1.0)
    return round(sum(values) / len(values), 4)


def ours(work: Path, device: str) -> dict[str, float]:
    """`predict` as a user calls it, without previews; the time per scan from the second one on is that of all but loading."""
    from hemseg_cli import console
    from hemseg_cli.config import load

    console.configure(quiet=True)
    config = load(None, environ={}, options={"runs.root": str(work / "runs"), "predict.previews": False, "compute.device": device})
    from hemseg_cli.inference.predict import predict

    predict(config, runs=["bench"], inputs=[first(work)], out=work / "warm", force=True)
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
        reference_scan(network, checkpoint, first(work), work / "warm_reference", device)
        start = time.perf_counter()
        scans = sorted((work / "image").glob("*.nii.gz"))
        for path in scans:
            reference_scan(network, checkpoint, path, work / "reference", device)
    return stop(start, len(scans), device)


def reference_scan(network: Any, checkpoint: dict[str, Any], path: Path, out: Path, device: str) -> None:
    from monai import transforms as mt
    from monai.data import MetaTensor
    from monai.inferers import sliding_window_inference

    spacing = checkpoint["preprocess"]["spacing_mm"]
    load = mt.Compose([mt.LoadImaged("image"), mt.EnsureChannelFirstd("image")])
    prepare = mt.Compose(
        [
            mt.Orientationd("image", axcodes="RAS", labels=None),
            mt.Spacingd("image", pixdim=spacing, mode="bilinear"),
            mt.ThresholdIntensityd("image", threshold=WINDOW_HU["high"], above=False, cval=WINDOW_HU["high"]),
            mt.ThresholdIntensityd("image", threshold=WINDOW_HU["low"], above=True, cval=WINDOW_HU["low"]),
            mt.NormalizeIntensityd("image", subtrahend=WINDOW_HU["mean"], divisor=WINDOW_HU["std"]),
        ]
    )
    data = prepare(load({"image": str(path)}))
    logits = sliding_window_inference(data["image"][None].to(device), checkpoint["patch"], BATCH, network, overlap=OVERLAP, mode="constant")
    data["probability"] = MetaTensor(logits.sigmoid()[0].cpu(), meta=data["image"].meta)
    back = mt.Invertd("probability", transform=prepare, orig_keys="image", nearest_interp=False, to_tensor=True)(data)["probability"]
    mask = (back >= 0.5).to(dtype=logits.dtype)
    save = mt.SaveImage(output_dir=out, output_postfix="", separate_folder=False, output_dtype="uint8", resample=False, print_log=False)
    save(mask, meta_data=back.meta)


def first(work: Path) -> Path:
    """The scan that warms both sides up."""
    return min((work / "image").glob("*.nii.gz"))


def stop(start: float, scans: int, device: str) -> dict[str, float]:
    """Seconds per scan since `start`, and the peak memory of this process (on CUDA: of the device)."""
    import torch

    seconds = (time.perf_counter() - start) / scans
    if device.startswith("cuda"):
        return {"seconds": round(seconds, 3), "peak_mb": round(torch.cuda.max_memory_allocated() / 2**20)}
    return {"seconds": round(seconds, 3), "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


if __name__ == "__main__":
    main()
