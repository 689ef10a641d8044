import json
import subprocess
import sys
from pathlib import Path

import pytest

from hemseg_cli.app import run
from tests.dataset.label_files import label_bytes, scan_id, tiny_labels, write_source


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fetch(*options: str) -> int:
    return run(
        ["fetch-labels", "--dataset", "tiny", "--source", "source", "--workers", "0", *options]
    )


def test_json_is_one_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    write_source(Path("source"), tiny_labels())
    assert fetch("--json") == 0
    payload = json.loads(capsys.readouterr().out)
    assert payload["splits"] == {"train": 4, "val": 1, "test": 1}
    assert (payload["labels"], payload["written"], payload["folder"]) == (6, 6, "data/tiny")


def test_a_person_gets_the_counts_and_the_patients_in_two_splits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = tiny_labels()
    labels[scan_id(90)] = ("test", "ID_00000000", label_bytes())
    write_source(Path("source"), labels)
    assert fetch() == 0
    text = capsys.readouterr().out
    assert "7 (7 written, 0 already there)" in text
    assert "train 4  val 1  test 2" in text
    assert "6, 1 of them in more than one split" in text
    assert "train/0000000000  test/000000005a" in text
    assert "--splits patient" in text
    assert fetch() == 0
    assert "7 (0 written, 7 already there)" in capsys.readouterr().out


def test_a_differing_label_is_said_to_be_kept_and_force_restores_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_source(Path("source"), tiny_labels())
    fetch("--quiet")
    Path(f"data/tiny/test/label/{scan_id(3)}.nii.gz").write_bytes(label_bytes(voxels=50))
    capsys.readouterr()
    assert fetch("--quiet") == 0
    assert (
        "1 labels differ from the archive's and were kept; --force restores them"
        in capsys.readouterr().err
    )
    assert fetch("--force") == 0
    assert "0 written, 1 restored" in capsys.readouterr().out


def test_a_label_that_fails_is_named_with_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    labels = tiny_labels(3)
    labels[scan_id(9)] = ("test", "ID_9", b"no label")
    write_source(Path("source"), labels)
    assert fetch("--json") == 1
    payload = json.loads(capsys.readouterr().out)
    assert payload["labels"] == 3
    assert list(payload["failures"]) == [scan_id(9)]


def test_repaired_splits_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    labels = tiny_labels()
    labels[scan_id(90)] = ("test", "ID_00000000", label_bytes())
    write_source(Path("source"), labels)
    assert fetch("--splits", "patient", "--json") == 0
    payload = json.loads(capsys.readouterr().out)
    assert payload["splits"] == {"train": 3, "val": 1, "test": 2, "excluded": 1}
    assert payload["patients_in_several_splits"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--splits", "mine"], "fetch.splits"),
        (["--dataset", "../x"], "data.dataset"),
        (["--source", "http://example.com/mirror"], "only https://"),
    ],
)
def test_a_bad_option_is_a_usage_error(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fetch-labels", "--dataset", "tiny", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_data_folder_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write_source(Path("source"), tiny_labels(1))
    Path("data").write_text("a file")
    assert fetch() == 1
    assert "cannot write into data folder data/tiny" in capsys.readouterr().err


def test_help_comes_without_heavy_imports() -> None:
    code = (
        "import sys; from hemseg_cli.app import run; run(['fetch-labels', '--help']); "
        "print([m for m in HEAVY if m in sys.modules])"
    )
    heavy = ["torch", "monai", "pandas", "SimpleITK", "scipy", "numpy", "requests", "nibabel"]
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {heavy}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--source" in done.stdout
    assert done.stdout.rstrip().endswith("[]")
