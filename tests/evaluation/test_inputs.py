"""Where truth and classes come from."""

from pathlib import Path

import pytest

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.evaluation.inputs import run_inputs, scan_classes
from tests.evaluation.toy import make_workplace, truth


def test_classes_of_the_published_tables(shared_data: Path) -> None:
    classes = scan_classes(shared_data / "hemseg")
    assert len(classes) == 525
    assert classes["62ac06d17d"] == "1"
    assert set(classes.values()) == {"0", "1"}


def test_no_class_table_no_classes(tmp_path: Path) -> None:
    assert scan_classes(tmp_path) == {}


def test_class_table_with_a_row_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "scan_class.csv").write_text("scan,class\na,1\nb\n")
    with pytest.raises(FileFormatError, match=r"scan_class.csv, line 3: two cells wanted"):
        scan_classes(tmp_path)


def test_probabilities_beside_the_masks_are_no_masks(tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    run = place.run("a", truth)
    (run.predictions("test") / "scan0_probability.nii.gz").write_bytes(b"")
    source = run_inputs(place.config(), "a", allow_missing=False)
    assert [case.prediction for case in source.cases] == [
        run.prediction_file("test", case.scan) for case in source.cases
    ]
    assert source.warnings == ()
