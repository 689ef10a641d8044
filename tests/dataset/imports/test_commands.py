"""An imported data set goes through every command, whatever its layout was."""

import csv
import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hemseg_cli.app import run
from hemseg_cli.config import load
from hemseg_cli.core.cases import read_cases
from hemseg_cli.core.classes import UNION
from hemseg_cli.dataset.phantom.dataset import make_phantom
from hemseg_cli.imaging.preprocess import Preprocess
from hemseg_cli.training.cache import prepared_cases
from tests.dataset.imports.sources import VOXEL_ML, write_pair
from tests.dataset.imports.test_layouts import (
    bhsd,
    bids,
    case_folders,
    ct_ich,
    decathlon,
    folders,
    instance22,
    nnunet,
    raters,
    seg_cq500,
)
from tests.inference.small_model import make_run

CONFIG = """\
[data]
dataset = "mydata"
[compute]
workers = 0
[train]
model = "unet"
epochs = 1
patch = [32, 32, 16]
patches_per_scan = 1
network = {channels = [4, 8], strides = [2]}
[predict]
previews = false
"""


def table(root: Path) -> Path:
    """A CSV as a German Excel writes it, beside scans that lie anywhere."""
    for n in range(4):
        write_pair(root / "x" / f"i{n}.nii.gz", root / "y" / f"l{n}.nii.gz", seed=n)
    splits = ("train", "train", "val", "test")
    rows = [("image", "label", "patient", "split")]
    rows += [(f"x/i{n}.nii.gz", f"y/l{n}.nii.gz", f"P{n}", splits[n]) for n in range(4)]
    (root / "scans.csv").write_text("\n".join(";".join(row) for row in rows))
    return root


FROM_FOLDER = ["Meine Scans"]
SOURCES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "folders": (folders, FROM_FOLDER),
    "bids": (bids, FROM_FOLDER),
    "decathlon": (decathlon, FROM_FOLDER),
    "case-folders": (case_folders, FROM_FOLDER),
    "nnunet": (nnunet, FROM_FOLDER),
    "table": (table, ["--table", "Meine Scans/scans.csv"]),
    "bhsd": (bhsd, [*FROM_FOLDER, "--layout", "bhsd"]),
    "mbh-seg": (raters, [*FROM_FOLDER, "--layout", "mbh-seg"]),
    "instance22": (instance22, [*FROM_FOLDER, "--layout", "instance22"]),
    "ct-ich": (ct_ich, [*FROM_FOLDER, "--layout", "ct-ich"]),
    "hemorica": (case_folders, [*FROM_FOLDER, "--layout", "hemorica"]),
    "seg-cq500": (seg_cq500, [*FROM_FOLDER, "--layout", "seg-cq500"]),
}


@pytest.mark.parametrize("layout", SOURCES)
def test_import_train_predict_evaluate_report(
    layout: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hemseg.toml").write_text(CONFIG)
    make, source = SOURCES[layout]
    make(tmp_path / "Meine Scans")
    assert run(["import", *source, "--name", "mydata", "--quiet"]) == 0
    assert run(["train", "--run", "r", "--quiet"]) == 0
    assert run(["predict", "--run", "r", "--quiet"]) == 0
    capsys.readouterr()
    assert run(["evaluate", "--run", "r", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary
    assert run(["report", "r", "--quiet"]) == 0
    assert (tmp_path / "runs" / "r" / "report.html").is_file()

    # The true volume that every command uses is the label's own: counted by hand.
    with (tmp_path / "data" / "mydata" / "cases.csv").open(newline="") as file:
        volumes = {row["scan"]: float(row["truth_ml"]) for row in csv.DictReader(file)}
    found: dict[str, float] = defaultdict(float)
    with (tmp_path / "runs/r/evaluation/test/cases.csv").open(newline="") as file:
        for row in csv.DictReader(file):  # one row for each class, and one for their union
            if row.get("class") != UNION:
                found[row["scan"]] += float(row["truth_ml"])

    assert found
    for scan, truth_ml in found.items():
        voxels = volumes[scan] / VOXEL_ML
        assert voxels == pytest.approx(round(voxels), abs=1e-4)
        assert truth_ml == pytest.approx(volumes[scan], abs=1e-5)


def test_what_was_converted_is_the_same_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes, preprocessed scans and masks, of tilted scans too."""
    monkeypatch.chdir(tmp_path)
    make_phantom(tmp_path / "phantom", seed=3, patients=4, matrix=48, slices=(10, 12), workers=0)
    common = ["--set", "compute.workers=0", "--set", "data.dataset=phantom", "--quiet"]
    assert run(["fetch-labels", "--source", "phantom", *common]) == 0
    assert run(["convert", "--dicom", "phantom", *common]) == 0

    # The same images and labels, as somebody's own folder of pairs.
    converted = read_cases(tmp_path / "data/phantom/cases.csv")
    assert any(case.tilt_deg > 1 for case in converted)
    for kind in ("image", "label"):
        (tmp_path / f"pairs/{kind}s").mkdir(parents=True)
        for case in converted:
            file = tmp_path / "data/phantom" / getattr(case, kind)
            shutil.copy(file, tmp_path / f"pairs/{kind}s/{case.scan}.nii.gz")
    assert run(["import", "pairs", "--name", "again", "--workers", "0", "--quiet"]) == 0

    imported = {case.scan: case for case in read_cases(tmp_path / "data/again/cases.csv")}
    assert len(imported) == len(converted)
    for case in converted:
        again = imported[case.scan]
        assert again.truth_ml == pytest.approx(case.truth_ml, rel=1e-6)
        assert again.voxel_volume_mm3 == pytest.approx(case.voxel_volume_mm3, rel=1e-6)

    # What a network is trained on.
    prepared = {
        name: prepared_cases(
            load(None, options={"data.dataset": name, "compute.workers": 0}, environ={}),
            cases,
            Preprocess((None, None, None)),
        )
        for name, cases in (
            ("phantom", converted),
            ("again", [imported[case.scan] for case in converted]),
        )
    }
    for one, other in zip(prepared["phantom"], prepared["again"], strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)
        assert one.grid == other.grid

    # What a network finds.
    make_run(tmp_path)
    volumes: dict[str, dict[str, float]] = {"phantom": {}, "again": {}}
    for name, found in volumes.items():
        for split in ("train", "val", "test"):
            out = tmp_path / f"masks-{name}-{split}"
            arguments = ["--dataset", name, "--split", split, "--out", str(out), "--quiet"]
            assert run(["predict", *arguments, "--set", "predict.previews=false"]) == 0
            with (out / "volumes.csv").open(newline="") as file:
                found |= {row["scan"]: float(row["predicted_ml"]) for row in csv.DictReader(file)}
    assert volumes["phantom"] == pytest.approx(volumes["again"], rel=1e-5)
    assert max(volumes["phantom"].values()) > 1
