from pathlib import Path

import pytest

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.evaluation.case_table import read_case_table
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.evaluation.volume_intervals import read_volume_intervals
from tests.evaluation.toy import VOXEL_MM3, make_workplace, truth

HEADER = "scan,predicted_ml,volume_low_ml,volume_high_ml\n"


def true_ml(n: int) -> float:
    return float(truth(n).sum()) * VOXEL_MM3 / 1000


def test_coverage_is_the_share_of_intervals_that_hold_the_truth(tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    run = place.run("a", truth)
    # Of four scans one has no interval, and of the other three two hold: at its bound and inside.
    (run.volumes_file("test")).write_text(
        HEADER
        + f"scan0,1,{true_ml(0):.6f},9\n"
        + "scan1,1,0.000001,9\n"
        + "scan2,1,8,9\n"
        + "scan3,1,,\n"
    )
    found = evaluate(place.config()).runs[0]
    coverage = found.summary.metrics["volume_coverage"]
    assert (coverage.mean, coverage.n, coverage.method) == (pytest.approx(2 / 3), 3, "exact")
    assert 0 < coverage.ci_low < 2 / 3 < coverage.ci_high <= 1
    assert "0.90" in found.summary.definitions["volume_coverage"]

    # What is read back from the file gives the same.
    table = read_case_table(found.cases_file, found.summary.rows)
    assert table["volume_low_ml"].tolist()[:2] == [pytest.approx(true_ml(0), abs=1e-6), 1e-6]
    assert table["volume_low_ml"].isna().tolist() == [False, False, False, True]
    shown = "\n".join(
        " ".join(row) for table in evaluate(place.config()).tables() for row in table.rows
    )
    assert "Coverage of the volume intervals 0.667" in shown


def test_without_intervals_there_is_no_row_and_no_column(tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    run = place.run("a", truth)
    run.volumes_file("test").write_text(HEADER + "scan0,1,,\n")
    found = evaluate(place.config()).runs[0]
    assert "volume_coverage" not in found.summary.metrics
    assert "volume_low_ml" not in found.cases_file.read_text()


def test_each_class_has_intervals_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "volumes.csv"
    file.write_text(
        "scan,volume_low_ml,volume_high_ml,IPH_ml,IPH_low_ml,IPH_high_ml\na,1,2,0.5,0.25,0.75\n"
    )
    assert read_volume_intervals(file, ["IPH", "IVH"]) == {
        "a": {"union": (1.0, 2.0), "IPH": (0.25, 0.75)}
    }


def test_another_tools_table_is_left_alone_and_a_broken_one_named(tmp_path: Path) -> None:
    file = tmp_path / "volumes.csv"
    assert read_volume_intervals(file, []) == {}
    file.write_text("name;ml\na;1\n")
    assert read_volume_intervals(file, []) == {}
    file.write_text(HEADER + "scan0,1,much,9\n")
    with pytest.raises(FileFormatError, match=r"volumes.csv, line 2.*volume_low_ml"):
        read_volume_intervals(file, [])
