import json
from collections.abc import Callable

import pytest

from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.reporting import content
from hemseg_cli.reporting.charts import charts
from hemseg_cli.reporting.comparison import comparison_tables
from hemseg_cli.reporting.published import PUBLISHED, Estimate
from hemseg_cli.reporting.report import report
from hemseg_cli.reporting.results import RunResults, read_run
from hemseg_cli.reporting.svg import tips_of
from tests.reporting import workplace
from tests.reporting.workplace import Workplace, write_run

Make = Callable[..., Workplace]


def read(place: Workplace, *names: str) -> list[RunResults]:
    return [read_run(RunDirectory(place.run(name)), "test") for name in names]


def test_published_numbers_are_the_papers() -> None:
    nnunet = PUBLISHED[-1]
    assert (nnunet.name, nnunet.dice, nnunet.iou) == (
        "nnU-Net",
        Estimate(0.7899, 0.7321, 0.8386),
        Estimate(0.6849, 0.6205, 0.7425),
    )
    assert nnunet.hd95_voxel == Estimate(22.16, 9.19, 38.20)
    assert [row.dice.mean for row in PUBLISHED] == [
        0.6370,
        0.6119,
        0.3266,
        0.6677,
        0.5598,
        0.4850,
        0.7899,
    ]


def test_summary_shows_the_evaluations_numbers_with_protocols(make_workplace: Make) -> None:
    place = make_workplace()
    (run,) = read(place, "dynunet-1")
    table = content.summary_table([run])
    row = dict(zip([column.key for column in table.columns], table.rows[0], strict=True))
    stored = json.loads((place.run() / "evaluation/test/summary.json").read_text())["metrics"][
        "dice"
    ]
    assert row["dice"] == Estimate(
        stored["mean"], stored["ci_low"], stored["ci_high"], "studentised"
    )
    assert (row["protocol"], row["n"]) == ("native", 5)


def test_published_rows_stand_beside_the_data_they_were_made_on_alone(make_workplace: Make) -> None:
    place = make_workplace(dataset="hemseg-200")
    table = content.summary_table(read(place, "dynunet-1"))
    published = dict(zip([column.key for column in table.columns], table.rows[-1], strict=True))
    assert (published["protocol"], published["hd95_mm"]) == ("paper", None)
    assert "not directly comparable" in table.note
    write_run(place.run("other"), ("0a1b2c3d4e",))
    elsewhere = read(place, "other")
    assert [row[0] for row in content.summary_table(elsewhere).rows] == ["other"]
    assert "Published rows" not in content.summary_table(elsewhere).note
    forest = next(chart for chart in charts(elsewhere) if chart.key == "forest")
    assert len(tips_of(forest.wide)) == 1


def test_resampled_masks_are_marked_and_stand_beside_nothing(make_workplace: Make) -> None:
    summary = {"protocol": "paper", "n_resampled": 5}
    (run,) = read(make_workplace(dataset="hemseg-200", summary=summary), "dynunet-1")
    assert not content.stands_beside_published(run)
    table = content.summary_table([run])
    assert table.rows[0][1] == "paper (resampled)"
    assert "does not compare with the published table" in table.note


def test_a_run_scored_as_the_paper_did_stands_beside_it(make_workplace: Make) -> None:
    place = make_workplace(dataset="hemseg-200", summary={"protocol": "paper"})
    assert content.stands_beside_published(read(place, "dynunet-1")[0])
    assert "not directly comparable" not in content.summary_table(read(place, "dynunet-1")).note


def test_the_surface_metric_is_named_by_its_tolerance(make_workplace: Make) -> None:
    columns = [name if name != "nsd_2mm" else "nsd_1.5mm" for name in workplace.CASE_COLUMNS]
    metrics = {
        "dice": workplace.interval(0.5, None, None, 5),
        "nsd_1.5mm": workplace.interval(0.7, None, None, 5),
    }
    place = make_workplace(columns=columns, summary={"metrics": metrics, "nsd_tolerance_mm": 1.5})
    assert [column.title for column in content.metric_columns(read(place, "dynunet-1"))] == [
        "Dice",
        "NSD at 1.5 mm",
    ]


def test_warnings_come_first_and_name_their_runs(make_workplace: Make) -> None:
    place = make_workplace(
        runs=("a", "b"),
        summary={"n_missed": 2, "n_false_positive": 1, "warnings": ["leakage: ID_1"]},
    )
    said = content.warnings(read(place, "a", "b"))
    assert said[0].startswith("a, b: 2 of 5 scans were missed")
    assert said[1].startswith("a, b: False positives: 1 scans")
    assert said[2] == "a, b: leakage: ID_1"
    page = report(place.config, runs=["a", "b"]).html.read_text()
    assert page.index("leakage: ID_1") < page.index('<h2 id="summary">')


def test_runs_that_do_not_compare_are_said_to(make_workplace: Make) -> None:
    place = make_workplace(runs=("a",))
    write_run(place.run("b"), ("0a1b2c3d4e",), summary={"protocol": "paper"}, dataset="hemseg-500")
    said = " ".join(content.warnings(read(place, "a", "b")))
    assert "a was scored by the native protocol, b by the paper protocol" in said
    assert "different scans" in said
    assert comparison_tables(read(place, "a", "b")) == []
    assert "different data sets (hemseg-500, phantom)" in said


def test_one_scan_has_no_interval(make_workplace: Make) -> None:
    undefined = {"dice": workplace.interval(0.5, None, None, 1) | {"method": "too few"}}
    place = make_workplace(scans=("aa",), summary={"metrics": undefined})
    result = report(place.config)
    assert "One scan only: there is no interval." in result.warnings
    line = next(line for line in result.markdown.read_text().splitlines() if "| dynunet-1" in line)
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        *("dynunet-1", "native", "0.5000 (too few)", "1", "0")
    ]
    assert "no interval" in result.html.read_text()


def test_strata_and_agreement_come_from_the_summary(make_workplace: Make) -> None:
    stratum = {"n": 2, "metrics": {"dice": workplace.interval(0.4, 0.3, 0.5, 2)}}
    summary = {
        "strata": {"volume": {"<1": stratum}, "tilt": {}},
        "agreement": {
            "n": 5,
            "bias_ml": 0.5,
            "sd_ml": 1.0,
            "loa_low_ml": -1.25,
            "loa_high_ml": 2.5,
            "ccc": 0.9,
        },
    }
    runs = read(make_workplace(summary=summary), "dynunet-1")
    strata, volumes = content.strata_table(runs), content.volumes_table(runs)
    assert strata is not None
    assert strata.rows == (
        ("true volume", "<1 mL", "dynunet-1", 2, Estimate(0.4, 0.3, 0.5, "studentised")),
    )
    assert volumes is not None
    assert (
        dict(zip([c.key for c in volumes.columns], volumes.rows[0], strict=True))["loa_low_ml"]
        == -1.25
    )
    assert [chart.key for chart in charts(runs) if chart.key == "strata"] == ["strata"]


def test_comparison_is_paired_on_common_scans(make_workplace: Make) -> None:
    place = make_workplace(runs=("a", "b"))
    runs = read(place, "a", "b")
    ranking, pairs = comparison_tables(runs)
    rows = [dict(zip([c.key for c in pairs.columns], row, strict=True)) for row in pairs.rows]
    dice = next(row for row in rows if row["metric"] == "Dice")
    by_scan = [{case.scan: case.number("dice") for case in run.cases} for run in runs]
    expected = sum(by_scan[0][scan] - by_scan[1][scan] for scan in by_scan[0]) / 5
    assert dice["difference"].mean == pytest.approx(expected)
    assert dice["n"] == 5
    assert [row[0] for row in ranking.rows] == ["a", "b"]
    assert comparison_tables(runs[:1]) == []


def test_bland_altman_lines_are_the_evaluations(make_workplace: Make) -> None:
    runs = read(make_workplace(), "dynunet-1")
    chart = next(chart for chart in charts(runs) if chart.key == "bland_altman")
    differences = [case.number("predicted_ml") - case.number("truth_ml") for case in runs[0].cases]
    mean = sum(differences) / 5
    sd = (sum((d - mean) ** 2 for d in differences) / 4) ** 0.5
    for svg in (chart.wide, chart.narrow):
        tips = tips_of(svg)["0"]
        shown = [float(tip.split()[-1].replace("\u2212", "-")) for tip in tips[5:]]
        assert shown == pytest.approx([mean, mean - 1.96 * sd, mean + 1.96 * sd], abs=0.006)
        assert len(tips[:5]) == 5


def test_runs_with_other_labels_are_not_tested_against_each_other(make_workplace: Make) -> None:
    place = make_workplace(runs=("a", "b"))
    table = place.run("b") / "evaluation/test/cases.csv"
    lines = table.read_text().splitlines()
    cells = lines[1].split(",")
    cells[-1] = "another"
    table.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    runs = read(place, "a", "b")
    assert f"different labels of 1 scans ({cells[0]})" in " ".join(content.warnings(runs))
    assert comparison_tables(runs) == []
