"""Recipe `paper` against the published chain, stated independently with MONAI."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.published import score_scan
from hemseg_cli.config import load
from hemseg_cli.config.schema import EvaluateConfig
from hemseg_cli.core.cases import Case, write_cases
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.dataset.phantom.gantry import Gantry
from hemseg_cli.dataset.phantom.scanner import draw_head
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.evaluation.metrics import dice, hd95_mm, iou
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.imaging.preprocess import prepare_image, prepare_label
from hemseg_cli.inference.predict import predict
from hemseg_cli.inference.settings import PUBLISHED
from hemseg_cli.models.checkpoint import write_checkpoint
from hemseg_cli.models.registry import build_network
from hemseg_cli.training.cache import preprocess_of
from tests.inference.small_model import config_in

# MONAI looks for a GPU decoder of DICOM that nothing here needs, and warns of its own arguments.
pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader"),
    pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning"),
]

PATCH = (64, 64, 16)
NETWORK = {"channels": [4, 8, 8], "strides": [2, 2], "num_res_units": 1}
PAPER = preprocess_of(
    load(assignments=["train.recipe=paper", "train.model=unet"], environ={}).train
)
GANTRIES = {
    "straight": Gantry(matrix=128, slices=18),
    "tilted": Gantry(matrix=128, slices=18, tilt_deg=17.3),
    "thin": Gantry(matrix=160, slices=30, slice_distance_mm=2.5, fov_mm=210.0),
}


def _middle(volume: Volume) -> Volume:
    """The middle of a scan, so that the test takes seconds."""
    i, j, k = volume.array.shape
    start = np.array([i // 5, j // 5, k // 6])
    array = volume.array[start[0] : i - start[0], start[1] : j - start[1], start[2] : k - start[2]]
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    return Volume(np.ascontiguousarray(array), affine)


def _write_scans(folder: Path) -> None:
    cases = []
    for number, (name, gantry) in enumerate(GANTRIES.items()):
        drawn = draw_head(number, gantry=gantry, volumes_ml=(30.0, 4.0))
        for kind, volume in (("image", drawn.image), ("label", drawn.label)):
            write_volume(folder / f"test/{kind}/{name}.nii.gz", _middle(volume))
        cases.append(
            Case(
                name,
                split="test",
                label=f"test/label/{name}.nii.gz",
                image=f"test/image/{name}.nii.gz",
                voxel_volume_mm3=drawn.voxel_volume_mm3,
            )
        )
    write_cases(folder / "cases.csv", cases)


def _random_network(folder: Path) -> nn.Module:
    """A U-Net with random weights, its bias such that a fiftieth of a scan is hemorrhage."""
    torch.manual_seed(0)
    network = build_network("unet", NETWORK, 1).eval()
    image, _ = prepare_image(read_volume(folder / "test/image/tilted.nii.gz"), PAPER)
    with torch.inference_mode():
        logits = network(torch.from_numpy(image[None, :, :128, :128, :12]))
    bias = [value for name, value in network.named_parameters() if name.endswith("bias")][-1]
    bias.data -= float(np.quantile(logits.numpy(), 0.98))
    return network


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A folder with three scans predicted by a run of recipe `paper`, and its network."""
    folder = tmp_path_factory.mktemp("paper")
    _write_scans(folder / "data/hemseg-200")
    network = _random_network(folder / "data/hemseg-200")
    write_checkpoint(
        folder / "runs/run/checkpoints/best.pt",
        {
            "model": network.state_dict(),
            "model_name": "unet",
            "model_config": NETWORK,
            "preprocess": PAPER.to_dict(),
            "padding": "zero",
            "patch": list(PATCH),
            "in_channels": 1,
            "step": 1,
            "epoch": 1,
            "predict": PUBLISHED.to_dict(),
        },
    )
    assert not predict(config_in(folder), runs=["run"]).failed
    return folder, network


@pytest.mark.parametrize("scan", GANTRIES)
def test_a_paper_run_scores_as_the_published_scripts_do(
    place: tuple[Path, nn.Module], scan: str
) -> None:
    folder, network = place
    data = folder / "data/hemseg-200/test"
    label = data / f"label/{scan}.nii.gz"
    published, mask = score_scan(network, data / f"image/{scan}.nii.gz", label, PATCH)

    ours = read_volume(RunDirectory(folder / "runs/run").network_mask_file("test", scan)).array
    truth = prepare_label(read_volume(label), PAPER)
    assert ours.shape == tuple(mask.shape)
    assert np.count_nonzero(ours != mask.numpy()) < 1e-5 * ours.size
    assert 0.0 < published["dice"] < 1.0
    assert dice(ours, truth) == pytest.approx(published["dice"], abs=1e-4)
    assert iou(ours, truth) == pytest.approx(published["iou"], abs=1e-4)
    assert hd95_mm(ours, truth, spacing_mm=(1.0, 1.0, 1.0)) == pytest.approx(
        published["hd95_voxel"], abs=1e-4
    )


def test_evaluate_scores_the_mask_on_the_networks_own_grid(place: tuple[Path, nn.Module]) -> None:
    folder, network = place
    config = config_in(folder, evaluate=EvaluateConfig(protocol="paper"))
    evaluate(config, runs=["run"])
    file = RunDirectory(folder / "runs/run").evaluation_cases_file("test")
    rows = {row["scan"]: row for row in csv.DictReader(file.read_text().splitlines())}
    data = folder / "data/hemseg-200/test"
    for scan in GANTRIES:
        published, _ = score_scan(
            network, data / f"image/{scan}.nii.gz", data / f"label/{scan}.nii.gz", PATCH
        )
        for ours, theirs in (("dice", "dice"), ("iou", "iou")):
            assert float(rows[scan][ours]) == pytest.approx(published[theirs], abs=1e-4)
        assert float(rows[scan]["hd95_voxel"]) == pytest.approx(published["hd95_voxel"], abs=1e-4)
