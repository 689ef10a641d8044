"""An imported data set goes through every command, whatever its layout was."""

import csv
import json
from pathlib import Path

import pytest

from hemseg_cli.app import run
from tests.dataset.imports.sources import VOXEL_ML
from tests.dataset.imports.test_layouts import MAKERS

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


@pytest.mark.parametrize("layout", ["folders", "bids", "decathlon", "case-folders"])
def test_import_train_predict_evaluate_report(
    layout: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hemseg.toml").write_text(CONFIG)
    MAKERS[layout][0](tmp_path / "Meine Scans")
    assert run(["import", "Meine Scans", "--name", "mydata", "--quiet"]) == 0
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
    with (tmp_path / "runs/r/evaluation/test/cases.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert volumes[row["scan"]] / VOXEL_ML == pytest.approx(
                round(volumes[row["scan"]] / VOXEL_ML), abs=1e-4
            )
            assert float(row["truth_ml"]) == pytest.approx(volumes[row["scan"]], abs=1e-5)
