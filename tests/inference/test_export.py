import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.imaging.nifti import read_volume, write_volume
from hemseg_cli.inference.export import export
from hemseg_cli.inference.predict import predict
from hemseg_cli.models.archive import read_card, read_models
from tests.inference.small_model import config_in, make_run, scan

SUMMARY = {
    "protocol": "native",
    "n_cases": 45,
    "bootstrap": {"confidence": 0.95},
    "metrics": {
        "dice": {"mean": 0.78912, "ci_low": 0.7321, "ci_high": 0.8386, "n": 44},
        "hd95_mm": {"mean": None, "ci_low": None, "ci_high": None, "n": 0},
        "<b>|": {"mean": 1.0, "ci_low": 1.0, "ci_high": 1.0, "n": 1},
    },
}


def _with_summary(folder: Path, run: str, split: str) -> None:
    file = RunDirectory(folder / "runs" / run).evaluation_summary_file(split)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(SUMMARY))


def test_card_states_classes_data_metrics_with_intervals_limits_and_citation(
    tmp_path: Path,
) -> None:
    make_run(tmp_path)
    _with_summary(tmp_path, "run", "test")
    export(config_in(tmp_path), run="run", out=tmp_path / "model.zip")

    card = read_card(tmp_path / "model.zip")["README.md"]
    assert card.startswith("# U-Net for intracranial hemorrhage on head CT\n")
    assert "| 1 | hemorrhage | Intracranial hemorrhage | 50960005 |" in card
    assert "| trained on | - |" in card  # this checkpoint names no data set
    assert "On the test split, 45 scans, protocol native" in card
    assert "| metric | mean | 95% interval | n |" in card
    assert "| dice | 0.789 | 0.732 to 0.839 | 44 |" in card
    assert "| hd95_mm | - | - to - | 0 |" in card
    assert "| &lt;b>\\| | 1.000 |" in card
    for heading in ("## Training", "## Limits", "## Citation", "not a medical device"):
        assert heading in card


def test_card_of_a_run_that_was_not_evaluated_says_so(tmp_path: Path) -> None:
    make_run(tmp_path)
    export(config_in(tmp_path), run="run", out=tmp_path / "model.zip")
    card = read_card(tmp_path / "model.zip")
    assert "Not evaluated." in card["README.md"]
    assert "metrics.json" not in card


def test_all_folds_are_one_archive_that_predicts_as_the_ensemble_does(tmp_path: Path) -> None:
    for fold, shift in enumerate((-0.1, 0.0, 0.2)):
        make_run(tmp_path, f"cv-fold{fold}", shift=shift)
    _with_summary(tmp_path, "cv-ensemble", "test")
    write_volume(tmp_path / "a.nii.gz", scan())
    config = config_in(tmp_path)

    result = export(config, run="cv", out=tmp_path / "cv.zip")
    assert result.payload()["networks"] == 3
    assert len(read_models(tmp_path / "cv.zip")) == 3
    card = read_card(tmp_path / "cv.zip")["README.md"]
    assert "3 networks" in card
    assert "cv-fold0, cv-fold1, cv-fold2" in card
    assert "| dice | 0.789 |" in card

    answers = []
    for name in ("cv", str(tmp_path / "cv.zip")):
        out = tmp_path / f"out{len(answers)}"
        config = config_in(tmp_path).model_copy(
            update={"predict": config.predict.model_copy(update={"save_probabilities": True})}
        )
        predict(config, runs=[name], inputs=[tmp_path / "a.nii.gz"], out=out)
        answers.append({path.name: read_volume(path).array for path in out.rglob("*.nii.gz")})
    assert answers[0].keys() == answers[1].keys()
    assert len(answers[0]) >= 2  # the mask and the probabilities
    assert all(np.array_equal(answers[0][name], answers[1][name]) for name in answers[0])


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="extra onnx is not installed"
)
@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
def test_each_network_of_an_ensemble_becomes_an_onnx_file(tmp_path: Path) -> None:
    for fold in range(2):
        make_run(tmp_path, f"cv-fold{fold}", shift=0.1 * fold)
    result = export(
        config_in(tmp_path), run="cv", out=tmp_path / "cv.zip", onnx=tmp_path / "cv.onnx"
    )
    assert [path.name for path in result.onnx] == ["cv-0.onnx", "cv-1.onnx"]
    assert all(path.is_file() for path in result.onnx)
    assert max(result.onnx_differences) <= 1e-4


def test_damaged_summary_is_named(tmp_path: Path) -> None:
    make_run(tmp_path)
    _with_summary(tmp_path, "run", "val")
    RunDirectory(tmp_path / "runs" / "run").evaluation_summary_file("val").write_text("{")
    with pytest.raises(HemsegError, match=r"summary\.json is not readable"):
        export(config_in(tmp_path), run="run", out=tmp_path / "model.zip")


def test_archive_that_is_exported_again_keeps_its_networks(tmp_path: Path) -> None:
    make_run(tmp_path)
    config = config_in(tmp_path)
    export(config, run="run", out=tmp_path / "one.zip")
    export(config, run=str(tmp_path / "one.zip"), out=tmp_path / "two.zip")
    [first], [second] = read_models(tmp_path / "one.zip"), read_models(tmp_path / "two.zip")
    assert first["model"].keys() == second["model"].keys()
