"""Recipe `paper` against the published chain, same weights, scan by scan; prints one JSON object.

python benchmarks/paper.py [--models unet,vnet,...] [--scans 3] [--voxels 160] [--device cpu|cuda]

Phantom scans (each second one from a tilted gantry), cut to `--voxels` in plane around their
middle, are predicted by `hemseg predict` with a run of recipe `paper` that has seeded weights, and
scored on the mask that it keeps on the network's own grid. The reference is `published.score_scan`:
MONAI's transforms, sliding window and metrics. `largest_difference` is over all scans.

Small try: python benchmarks/paper.py --models unet --scans 1 --voxels 96
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

MODELS = ("unet", "vnet", "segresnet", "attention-unet", "unetr", "swin-unetr")
POSITIVE_SHARE = 0.02
METRICS = ("dice", "iou", "hd95_voxel")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--scans", type=int, default=3)
    parser.add_argument("--voxels", type=int, default=160)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        scans = draw_scans(work, options.scans, options.voxels)
        rows = []
        for model in options.models.split(","):
            rows.append(compare(work, model, scans, options.device))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"device": options.device, "scans": scans, "networks": rows}, indent=2))


def draw_scans(work: Path, count: int, voxels: int) -> list[str]:
    """Phantom scans with their labels and a case table, as a data set."""
    from hemseg_cli.core.cases import Case, write_cases
    from hemseg_cli.dataset.phantom.gantry import Gantry
    from hemseg_cli.dataset.phantom.scanner import draw_head
    from hemseg_cli.imaging.nifti import write_volume

    data, cases = work / "data" / "hemseg-200", []
    for number in range(count):
        tilt_deg = 18.5 if number % 2 else 0.0
        gantry = Gantry(matrix=256, slices=24, tilt_deg=tilt_deg)
        drawn = draw_head(number, gantry=gantry, volumes_ml=(30.0, 4.0))
        name = f"scan{number}"
        for kind, volume in (("image", drawn.image), ("label", drawn.label)):
            write_volume(data / f"test/{kind}/{name}.nii.gz", middle(volume, voxels))
        cases.append(
            Case(
                name,
                split="test",
                label=f"test/label/{name}.nii.gz",
                image=f"test/image/{name}.nii.gz",
                voxel_volume_mm3=drawn.voxel_volume_mm3,
            )
        )
    write_cases(data / "cases.csv", cases)
    return [case.scan for case in cases]


def middle(volume: Any, voxels: int) -> Any:
    """The middle of a scan, `voxels` wide in plane."""
    from hemseg_cli.imaging.nifti import Volume

    start = [max(0, (size - voxels) // 2) for size in volume.array.shape[:2]]
    array = volume.array[start[0] : start[0] + voxels, start[1] : start[1] + voxels]
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :2] @ np.array(start)
    return Volume(np.ascontiguousarray(array), affine)


def compare(work: Path, model: str, scans: list[str], device: str) -> dict[str, Any]:
    """Both sides on every scan."""
    from benchmarks.published import score_scan
    from hemseg_cli.config import load
    from hemseg_cli.core.run_directory import RunDirectory
    from hemseg_cli.evaluation.metrics import dice, hd95_mm, iou
    from hemseg_cli.imaging.nifti import read_volume
    from hemseg_cli.imaging.preprocess import prepare_label
    from hemseg_cli.inference.predict import predict

    config = load(
        assignments=[
            f"data.root={work / 'data'}",
            "data.dataset=hemseg-200",
            f"runs.root={work / 'runs'}",
            "train.recipe=paper",
            f"train.model={model}",
            f"compute.device={device}",
            "predict.previews=false",
        ],
        environ={},
    )
    network, preprocess = write_run(work / "runs" / model, config, scans, work)
    failures = predict(config, runs=[model]).failures
    if failures:
        raise SystemExit(f"{model}: {failures}")

    rows = []
    for scan in scans:
        label = work / f"data/hemseg-200/test/label/{scan}.nii.gz"
        image = work / f"data/hemseg-200/test/image/{scan}.nii.gz"
        published, mask = score_scan(network, image, label, config.train.patch)

        file = RunDirectory(work / "runs" / model).network_mask_file("test", scan)
        own = read_volume(file).array
        truth = prepare_label(read_volume(label), preprocess)
        hemseg = {
            "dice": dice(own, truth),
            "iou": iou(own, truth),
            "hd95_voxel": hd95_mm(own, truth, spacing_mm=(1.0, 1.0, 1.0)),
        }
        differing = int(np.count_nonzero(own != mask.numpy()))
        rows.append({"scan": scan, "hemseg": hemseg, "published": published, "voxels": differing})
    largest = {
        name: max(abs(row["hemseg"][name] - row["published"][name]) for row in rows)
        for name in METRICS
    }
    return {"model": model, "scans": rows, "largest_difference": largest}


def write_run(run: Path, config: Any, scans: list[str], work: Path) -> tuple[Any, Any]:
    """A run of recipe `paper` with seeded weights; its network and preprocessing.

    The network's last bias is such that a fiftieth of a scan is hemorrhage.
    """
    from hemseg_cli.imaging.nifti import read_volume
    from hemseg_cli.imaging.preprocess import prepare_image
    from hemseg_cli.inference.sliding_window import sliding_window
    from hemseg_cli.models.checkpoint import write_checkpoint
    from hemseg_cli.models.registry import build_network, full_config
    from hemseg_cli.training.cache import preprocess_of
    from hemseg_cli.training.validation import run_settings

    train, preprocess = config.train, preprocess_of(config.train)
    torch.manual_seed(0)
    model_config = full_config(train.model, {}, train.patch)
    network = build_network(train.model, model_config, 1).to(config.compute.device).eval()

    image, _ = prepare_image(
        read_volume(work / f"data/hemseg-200/test/image/{scans[0]}.nii.gz"), preprocess
    )
    probability = sliding_window(
        network,
        torch.from_numpy(image),
        patch=train.patch,
        weighting="constant",
        overlap=0.25,
        device=config.compute.device,
    )
    bias = [value for name, value in network.named_parameters() if name.endswith("bias")][-1]
    bias.data -= float(np.quantile(torch.logit(probability).cpu().numpy(), 1 - POSITIVE_SHARE))

    write_checkpoint(
        run / "checkpoints" / "best.pt",
        {
            "model": network.cpu().state_dict(),
            "model_name": train.model,
            "model_config": model_config,
            "preprocess": preprocess.to_dict(),
            "padding": train.padding,
            "patch": list(train.patch),
            "in_channels": 1,
            "step": 0,
            "epoch": 0,
            "predict": run_settings(config).to_dict(),
        },
    )
    return network.to(config.compute.device), preprocess


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
