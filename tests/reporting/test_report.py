import csv
import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hemseg_cli.app import run
from hemseg_cli.core.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.evaluation import metric_table
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.evaluation.metric_table import Metric
from hemseg_cli.reporting.packing import pack_hu
from hemseg_cli.reporting.report import report
from tests.evaluation.toy import block, truth
from tests.evaluation.toy import make_workplace as make_toy
from tests.reporting.workplace import Workplace, write_run

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
    assert (
        report(place.config, out=place.folder / "folder").html
        == place.folder / "folder" / "report.html"
    )
    with pytest.raises(UsageError, match="neither a folder nor an HTML file"):
        report(place.config, out=place.folder / "x.pdf")


def test_a_run_without_evaluation_says_what_to_type(make_workplace: Make) -> None:
    place = make_workplace()
    (place.run() / "evaluation" / "test" / "summary.json").unlink()
    with pytest.raises(HemsegError, match="has no evaluation") as caught:
        report(place.config)
    assert caught.value.hint == f"hemseg evaluate --run {place.run()} --split test"


def test_a_run_without_predictions_is_told_to_predict_first(make_workplace: Make) -> None:
    place = make_workplace(images=False)
    (place.run() / "evaluation" / "test" / "summary.json").unlink()
    with pytest.raises(HemsegError) as caught:
        report(place.config)
    run = f"--run {place.run()} --split test"
    assert caught.value.hint == f"hemseg predict {run} && hemseg evaluate {run}"


def test_a_bad_number_in_a_table_is_named_by_line_and_column(make_workplace: Make) -> None:
    place = make_workplace()
    table = place.run() / "evaluation" / "test" / "cases.csv"
    lines = table.read_text().splitlines()
    cells = lines[2].split(",")
    cells[3] = "0.8o"
    lines[2] = ",".join(cells)
    table.write_text("\n".join(lines))
    with pytest.raises(
        FileFormatError, match=r"cases\.csv, line 3: dice = '0\.8o' is not a number"
    ):
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


def test_forty_five_scans_and_seven_runs_stay_below_15_mb(make_workplace: Make) -> None:
    scans = [f"{n:010x}" for n in range(45)]
    place = make_workplace(scans=scans[:3], runs=("r0",))
    for n in range(7):
        write_run(place.run(f"run-{n}"), scans, shape=(64, 64, 4), images=False)
    # The viewer's part at full size: three scans of 512 x 512 x 40 of noise over the head, which
    # packs worst.
    noise = np.random.default_rng(0).normal(35, 8, (256, 256, 40)).astype(np.float32)
    packed = len(pack_hu(noise))
    result = report(place.config, runs=[f"run-{n}" for n in range(7)])
    assert result.size_bytes + 3 * packed < 15_000_000


def test_markdown_has_the_tables_of_the_page(make_workplace: Make) -> None:
    place = make_workplace(runs=("a", "b"))
    text = report(place.config, runs=["a", "b"]).markdown.read_text()
    assert [line for line in text.splitlines() if line.startswith("### ")] == [
        "### Summary",
        "### Ranking",
        "### Comparison of the runs",
        "### Volumes and lesions",
        "### Scans",
    ]
    assert text.count("Research use only") == 1


def test_page_says_research_use_only_once_and_names_no_host(make_workplace: Make) -> None:
    page = report(make_workplace().config).html.read_text()
    assert page.count("Research use only") == 1
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "http" not in policy[1]
    assert "unsafe-eval" not in policy[1]
    assert policy[1].startswith("default-src &#39;none&#39;")


def test_command_prints_one_json_object(
    make_workplace: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_workplace()
    root = f"runs.root={place.runs}"
    assert (
        run(
            [
                "report",
                "--json",
                "--quiet",
                "--set",
                root,
                "--set",
                f"data.root={place.folder / 'data'}",
            ]
        )
        == 0
    )
    payload = json.loads(capsys.readouterr().out)
    assert payload["html"] == str(place.run() / "report.html")
    assert len(payload["viewer"]["scans"]) == 5


def test_command_exits_1_and_says_what_to_type_without_evaluation(
    make_workplace: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_workplace()
    (place.run() / "evaluation/test/cases.csv").unlink()
    assert run(["report", "--set", f"runs.root={place.runs}"]) == 1
    said = capsys.readouterr()
    assert f"hemseg evaluate --run {place.run()} --split test" in said.err
    assert said.out == ""


def test_a_run_that_does_not_exist_is_named(
    make_workplace: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_workplace()
    assert run(["report", "nothing", "--set", f"runs.root={place.runs}"]) == 1
    assert "no run nothing" in capsys.readouterr().err


def test_latex_is_written_where_it_is_asked_for(make_workplace: Make) -> None:
    place = make_workplace()
    report(place.config)
    assert not (place.run() / "report.tex").exists()
    report(place.config, latex=True)
    assert r"\caption{Summary}" in (place.run() / "report.tex").read_text()


def test_page_holds_no_secret_of_a_url(make_workplace: Make) -> None:
    place = make_workplace()
    config = place.run() / "config.toml"
    signed = "https://me:hunter2@files.example/x.zip?X-Amz-Signature=CANARY1&token=CANARY2#CANARY3"
    config.write_text(config.read_text() + f'\n[convert]\ndicom = "{signed}"\n')
    environment = place.run() / "environment.json"
    environment.write_text(json.dumps({"command": ["hemseg", "convert", f"--dicom={signed}"]}))
    result = report(place.config)
    shown = result.html.read_text() + result.markdown.read_text()
    for secret in ("CANARY1", "CANARY2", "CANARY3", "hunter2"):
        assert secret not in shown
    assert "https://files.example/x.zip" in shown


def test_raw_html_in_a_warning_is_text_in_the_markdown(make_workplace: Make) -> None:
    place = make_workplace(summary={"warnings": ["<script>alert(1)</script>", "<img src=x>"]})
    text = report(place.config).markdown.read_text()
    assert "<script>" not in text.replace("\\<", "")
    assert "<img" not in text.replace("\\<", "")


def test_comparison_is_that_of_evaluate(tmp_path: Path) -> None:
    place = make_toy(tmp_path)
    place.run("a", truth)
    place.run("b", lambda n: None if n == 3 else block(2 + 2 * n))
    compared = evaluate(place.config(), runs=["a", "b"], allow_missing=True).comparison
    assert compared is not None
    report(place.config(), runs=["a", "b"])
    with (tmp_path / "runs/a/comparison_csv/comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(compared.pairs)
    for row, pair in zip(rows, compared.pairs, strict=True):
        assert row["metric"] == compared.heading(pair.metric)
        # Undefined without a scan to compare (no scan is free of hemorrhage): an empty cell.
        difference = float(row["difference"] or "nan")
        assert difference == pytest.approx(pair.difference, abs=1e-6, nan_ok=pair.n == 0)
        assert int(row["n"]) == pair.n
    assert (tmp_path / "runs/a/comparison_csv/comparison_complete.csv").is_file()


def test_a_metric_added_to_the_table_appears_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Volume similarity: 1 - |P - T| / (P + T). One row, and nothing else is touched.
    row = Metric(
        "volume_similarity",
        "Volume similarity",
        "",
        4,
        "higher",
        "1 minus the volumes' difference over their sum",
        lambda case: 1 - abs(case.volume_error_ml) / (case.truth_ml + case.predicted_ml),
        bounds=(0.0, 1.0),
    )
    monkeypatch.setattr(metric_table, "METRICS", (*metric_table.METRICS, row))
    place = make_toy(tmp_path)
    place.run("a", truth)
    place.run("b", lambda n: block(2 + 2 * n))
    result = evaluate(place.config(), runs=["a", "b"])

    run = tmp_path / "runs" / "b"
    with (run / "evaluation/test/cases.csv").open() as file:
        assert float(next(csv.DictReader(file))["volume_similarity"]) == pytest.approx(2 / 3)
    summary = json.loads((run / "evaluation/test/summary.json").read_text())
    assert summary["metrics"]["volume_similarity"]["mean"] == pytest.approx(2 / 3)
    assert summary["definitions"]["volume_similarity"] == row.definition
    assert "volume_similarity" in summary["strata"]["tilt"]["tilted"]["metrics"]

    metrics, strata, pairs = result.tables()[2], result.tables()[3], result.tables()[4]
    assert ["Volume similarity", "0.6667"] in [list(line)[:2] for line in metrics.rows]
    assert "Volume similarity" in strata.columns
    assert any(line[0] == "Volume similarity" for line in pairs.rows)

    written = report(place.config(), runs=["a", "b"], latex=True)
    page = written.html.read_text()
    assert page.count("Volume similarity") > 3
    assert 'id="chart-volume_similarity"' in page
    assert html.escape(row.definition, quote=True).replace("&#x27;", "&#39;") in page
    assert "Volume similarity" in written.markdown.read_text()
    assert "Volume similarity" in written.html.with_suffix(".tex").read_text()
    for name in ("summary", "strata", "cases"):
        path = written.html.with_name("comparison_csv") / f"{name}.csv"
        assert "volume_similarity" in path.read_text().splitlines()[0]
    assert (
        "Volume similarity" in (written.html.parent / "comparison_csv/comparison.csv").read_text()
    )
