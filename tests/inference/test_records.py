import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.nifti import write_volume
from hemseg_cli.inference.outputs import OutputFolder
from hemseg_cli.inference.predict import MASK_SUFFIX, PredictResult, predict
from hemseg_cli.inference.records import read_record, write_record
from hemseg_cli.inference.settings import Settings, chosen_settings
from hemseg_cli.models.checkpoint import read_checkpoint, write_checkpoint
from tests.inference.small_model import config_in, make_run, scan

QUIET = PredictConfig(previews=False)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a run and four scans."""
    make_run(tmp_path)
    for number in range(4):
        write_volume(tmp_path / "in" / f"s{number}.nii.gz", scan(seed=number))
    return tmp_path


def _run(work: Path) -> PredictResult:
    return predict(
        config_in(work, predict=QUIET), runs=["run"], inputs=[work / "in"], out=work / "out"
    )


def test_a_copied_project_finds_its_work_done(
    work: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _run(work)
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(work, moved, symlinks=True)  # other paths
    for file in (moved / "in").iterdir():  # and other times
        file.touch()
    again = _run(moved)
    assert again.already_done == ["s0", "s1", "s2", "s3"]
    assert not again.predicted
    assert not again.failed


def test_scans_without_hemorrhage_are_done_too(work: Path) -> None:
    make_run(work, shift=10.0)  # no voxel is that bright: the masks are empty
    first = _run(work)
    assert [row.predicted_ml for row in first.predicted] == [0.0] * 4
    assert len((work / "out/volumes.csv").read_text().splitlines()) == 1 + 4

    again = _run(work)
    assert again.already_done == ["s0", "s1", "s2", "s3"]

    # Another model writes them again: they are ours.
    make_run(work)
    other = _run(work)
    assert not other.failures
    assert min(row.predicted_ml for row in other.predicted) > 0


def test_a_missing_file_that_was_typed_is_not_to_be_converted(work: Path) -> None:
    result = predict(
        config_in(work, predict=QUIET), runs=["run"], inputs=[work / "absent"], out=work / "out"
    )
    assert "absent does not exist" in result.failures["absent"]
    assert result.hints.get("absent", "") == ""
    assert [table.title for table in result.tables()] == ["1 scan failed"]


def test_an_input_that_changed_is_predicted_again(work: Path) -> None:
    _run(work)
    write_volume(work / "in/s1.nii.gz", scan(seed=9))
    again = _run(work)
    assert [row.scan for row in again.predicted] == ["s1"]


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"done": 3}', "\x00", '{"done": true}'])
def test_a_record_of_another_form_is_no_record(work: Path, text: str) -> None:
    _run(work)
    (work / "out/.cases/s2.json").write_text(text)
    (work / "out/s2_mask.nii.gz").unlink()
    again = _run(work)
    assert [row.scan for row in again.predicted] == ["s2"]
    assert not again.failed


def test_two_calls_in_one_folder_share_the_scans(work: Path) -> None:
    results: list[PredictResult] = []
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from tests.inference.test_records import _run; r = _run(Path(sys.argv[1]));"
        "sys.exit(len(r.failures) or (0 if len(r.predicted) + len(r.already_done) == 4 else 9))"
    )
    root = str(Path(__file__).parents[2])
    other = subprocess.Popen([sys.executable, "-c", code, str(work), root])
    thread = threading.Thread(target=lambda: results.append(_run(work)))
    thread.start()
    thread.join()
    assert other.wait() == 0
    assert not results[0].failures
    assert len(results[0].predicted) + len(results[0].already_done) == 4
    lines = (work / "out/volumes.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["scan", "s0", "s1", "s2", "s3"]
    assert not list((work / "out").rglob(".*.part.*"))


def test_the_claim_of_a_process_that_is_gone_does_not_hold(work: Path) -> None:
    folder = OutputFolder(work / "out", MASK_SUFFIX)
    _run(work)
    record = read_record(folder, "s0")
    assert record is not None
    assert record.process is None
    gone = json.loads(record.model_dump_json())
    gone |= {"done": False, "process": {"machine": "nowhere", "number": 1, "started_s": 0.0}}
    write_record(folder, "s0", type(record).model_validate(gone))
    assert [row.scan for row in _run(work).predicted] == ["s0"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_give_no_number_fail_the_scan_by_name(work: Path, value: float) -> None:
    file = work / "runs/run/checkpoints/best.pt"
    checkpoint = read_checkpoint(file)
    # Finite weights whose products are not: the largest number, times 8.
    weights = {key: tensor.clone() for key, tensor in checkpoint["model"].items()}
    weights["model.0.conv.weight"][0] = torch.finfo(torch.float32).max
    weights["model.2.conv.weight"][0] = 1e4 if value == float("inf") else 8.0
    write_checkpoint(file, {**checkpoint, "model": weights})
    result = _run(work)
    assert set(result.failures) == {"s0", "s1", "s2", "s3"}
    assert all("not finite" in reason for reason in result.failures.values())
    assert not list((work / "out").glob("*_mask.nii.gz"))


@pytest.mark.parametrize(
    "stored",
    [
        {"threshold": float("nan")},
        {"threshold": 1.5},
        {"overlap": float("inf")},
        {"overlap": 1.0},
        {"min_component_ml": -1.0},
        {"weighting": "none"},
        {"tta": "perhaps"},
        {"precision": 7},
    ],
)
def test_stored_settings_out_of_bounds_are_refused(stored: dict[str, object]) -> None:
    with pytest.raises(FileFormatError, match=next(iter(stored))):
        chosen_settings(PredictConfig(), stored)
    assert chosen_settings(PredictConfig(), None) == Settings()
