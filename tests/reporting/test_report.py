import csv
import json
from collections.abc import Callable

import pytest
from workplace import Workplace

from hemseg_cli.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.reporting.report import report

Make = Callable[..., Workplace]


def test_one_run_writes_page_markdown_and_csv_into_the_run(make_workplace: Make) -> None:
    place = make_workplace()
    result = report(place.config)
    assert result.html == place.run() / "report.html"
    assert result.markdown == place.run() / "report.md"
    assert result.html.read_text().startswith("<!doctype html>")
    assert "dynunet-1" in result.markdown.read_text()
    with (place.run() / "report_csv" / "cases.csv").open() as file:
        shown = {row["scan"]: float(row["dice"]) for row in csv.DictReader(file)}
    with (place.run() / "evaluation" / "test" / "cases.csv").open() as file:
        stored = {row["scan"]: round(float(row["dice"]), 6) for row in csv.DictReader(file)}
    assert shown == stored


def test_several_runs_are_written_into_the_first(make_workplace: Make) -> None:
    place = make_workplace(runs=("a", "b"))
    result = report(place.config, runs=["a", "b"])
    assert result.html == place.run("a") / "comparison.html"
    assert result.runs == ("a", "b")


def test_out_names_a_file_or_a_folder(make_workplace: Make) -> None:
    place = make_workplace()
    assert report(place.config, out=place.folder / "x.html").markdown == place.folder / "x.md"
    assert report(place.config, out=place.folder / "folder").html == place.folder / "folder" / "report.html"
    with pytest.raises(UsageError, match="neither a folder nor an HTML file"):
        report(place.config, out=place.folder / "x.pdf")


def test_a_run_without_evaluation_says_what_to_type(make_workplace: Make) -> None:
    place = make_workplace()
    (place.run() / "evaluation" / "test" / "summary.json").unlink()
    with pytest.raises(HemsegError, match="has no evaluation") as caught:
        report(place.config)
    assert caught.value.hint == "hemseg evaluate --run dynunet-1"


def test_a_run_without_predictions_is_told_to_predict_first(make_workplace: Make) -> None:
    place = make_workplace(images=False)
    (place.run() / "evaluation" / "test" / "summary.json").unlink()
    with pytest.raises(HemsegError) as caught:
        report(place.config)
    assert caught.value.hint == "hemseg predict --run dynunet-1 && hemseg evaluate --run dynunet-1"


def test_a_bad_number_in_a_table_is_named_by_line_and_column(make_workplace: Make) -> None:
    place = make_workplace()
    table = place.run() / "evaluation" / "test" / "cases.csv"
    lines = table.read_text().splitlines()
    cells = lines[2].split(",")
    cells[3] = "0.8o"
    lines[2] = ",".join(cells)
    table.write_text("\n".join(lines))
    with pytest.raises(FileFormatError, match=r"cases\.csv, line 3: dice = '0\.8o' is not a number"):
        report(place.config)


def test_a_run_named_twice_is_refused(make_workplace: Make) -> None:
    place = make_workplace()
    with pytest.raises(UsageError, match="named twice"):
        report(place.config, runs=["dynunet-1", "dynunet-1"])


def test_runs_evaluated_on_different_splits_are_refused(make_workplace: Make) -> None:
    place = make_workplace(runs=("a", "b"))
    (place.run("b") / "evaluation" / "test").rename(place.run("b") / "evaluation" / "val")
    with pytest.raises(HemsegError, match="different splits"):
        report(place.config, runs=["a", "b"])


def test_payload_is_json(make_workplace: Make) -> None:
    place = make_workplace()
    payload = json.loads(json.dumps(report(place.config).payload()))
    assert payload["runs"] == ["dynunet-1"]
    assert payload["split"] == "test"
