"""`report`: reads runs, writes one HTML page, Markdown, and CSV files of everything shown."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hemseg_cli.config import Config, config_of_run, data_of
from hemseg_cli.core.cases import read_cases
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.files import remove_leftovers, write_text
from hemseg_cli.core.run_directory import RunDirectory, open_run
from hemseg_cli.evaluation.inputs import run_on_data
from hemseg_cli.inference.outputs import OutputFolder
from hemseg_cli.reporting import content
from hemseg_cli.reporting.charts import charts
from hemseg_cli.reporting.class_tables import classes_table, confusion_table
from hemseg_cli.reporting.comparison import comparison_tables
from hemseg_cli.reporting.external_table import external_table, external_warnings
from hemseg_cli.reporting.page import Page, render
from hemseg_cli.reporting.report_result import ReportResult
from hemseg_cli.reporting.results import RunResults, choose_split, evaluated_splits, read_run
from hemseg_cli.reporting.tables import (
    ReportTable,
    escape_markdown,
    to_csv,
    to_latex,
    to_markdown,
)
from hemseg_cli.reporting.viewer import Viewer, build_viewer, choose_scans
from hemseg_cli.reporting.worklist import predictions_in, worklist_page

_MANY_SCANS, _MATRIX_OF_MANY = 60, 192
"""Above so many scans slices are at most so many pixels wide: a page of 45 heads takes 23 MB."""

_RESEARCH_ONLY = "Research use only. Not a medical device."


def report(
    config: Config,
    *,
    runs: Sequence[str | Path] | None = None,
    out: Path | None = None,
    latex: bool = False,
) -> ReportResult:
    """Write the report of the given runs (None: the newest).

    One run: `report.html`, `report.md` and `report_csv/` in its folder; several: `comparison.html`
    and so on in the folder of the first; `out`: an HTML file or a folder instead. A folder that
    `predict` wrote (and no run) gets the worklist of its scans. `latex`: the
    tables for a paper too (`report.tex`). HemsegError: a run without evaluation;
    FileFormatError: a table that cannot be read, naming the cell.
    """
    folder = _predictions(config, runs)
    if folder is not None:
        return _report_worklist(config, folder, out)
    directories = (
        [open_run(config.runs.root, name) for name in runs]
        if runs
        else [open_run(config.runs.root)]
    )
    _refuse_twice(directories)
    # All runs on one split and one data set, read before anything is drawn.
    directories = [_on_data(config, run) for run in directories]
    split = choose_split(directories, config.report.split)
    results = [read_run(run, split) for run in directories]
    html, markdown, csv_folder = _output_files(directories, out)
    tables = [table for table in _tables(config, results) if table is not None]
    warnings = [*content.warnings(results), *external_warnings(results)]
    viewer = _viewer(config, results)
    page = Page(
        title=config.report.title,
        split=split,
        runs=results,
        tables=tables,
        charts=charts(results),
        viewer=viewer,
        matrix=_viewer_matrix(config, len(viewer.scans)),
        warnings=warnings,
        made=datetime.now(UTC),
        notice=_RESEARCH_ONLY,
    )
    csv_files = _write_files(page, tables, html, markdown, csv_folder, latex=latex)
    return ReportResult(
        html=html,
        markdown=markdown,
        csv_files=csv_files,
        runs=tuple(run.name for run in results),
        split=split,
        size_bytes=html.stat().st_size,
        summary=tables[0],
        warnings=tuple(warnings),
        viewer_scans=tuple(scan.scan for scan in viewer.scans),
        viewer_left_out=viewer.left_out,
    )


def _predictions(config: Config, names: Sequence[str | Path] | None) -> OutputFolder | None:
    """Return the folder of predictions where one is named; UsageError beside other names."""
    # A name of a run goes before a folder of the same name.
    folders = [
        folder
        for name in names or ()
        if (Path(name).is_absolute() or not (config.runs.root / name).is_dir())
        and (folder := predictions_in(Path(name))) is not None
    ]
    if folders and len(names or ()) > 1:
        raise UsageError(
            f"{folders[0].path} is a folder of predictions: it has a page of its own",
            hint=f"hemseg report {folders[0].path}",
        )
    return folders[0] if folders else None


def _report_worklist(config: Config, folder: OutputFolder, out: Path | None) -> ReportResult:
    """Write the worklist of a folder of predictions: `report.html`, `report.md`, `report_csv/`."""
    html, markdown, csv_folder = _output_files([RunDirectory(folder.path)], out)
    text, table, viewer = worklist_page(config, folder)
    write_text(html, text)
    write_text(markdown, to_markdown(table))
    csv_file = csv_folder / f"{table.key}.csv"
    write_text(csv_file, to_csv(table))
    return ReportResult(
        html=html,
        markdown=markdown,
        csv_files=(csv_file,),
        runs=(folder.path.name,),
        split="",
        size_bytes=html.stat().st_size,
        summary=table,
        viewer_scans=tuple(scan.scan for scan in viewer.scans),
        viewer_left_out=viewer.left_out,
    )


def _write_files(
    page: Page,
    tables: Sequence[ReportTable],
    html: Path,
    markdown: Path,
    csv_folder: Path,
    *,
    latex: bool,
) -> tuple[Path, ...]:
    """Write the page and its tables in every form; return the CSV files."""
    # Rendered before anything is written: a fault leaves the last report as it was.
    text = render(page)
    remove_leftovers(html.parent)  # of reports that were killed
    write_text(html, text)
    write_text(markdown, _markdown(page))

    if latex:
        tex = "\n".join(to_latex(table) for table in tables if table.key != "history")
        write_text(html.with_suffix(".tex"), tex)

    csv_files = [csv_folder / f"{table.key}.csv" for table in tables]
    for file, table in zip(csv_files, tables, strict=True):
        write_text(file, to_csv(table))
    return tuple(csv_files)


def _tables(config: Config, results: Sequence[RunResults]) -> list[ReportTable | None]:
    return [
        content.summary_table(results),
        *comparison_tables(results),
        content.volumes_table(results),
        content.strata_table(results),
        classes_table(results),
        confusion_table(results),
        external_table(results),
        content.cases_table(results),
        content.history_table(results),
    ]


def _viewer(config: Config, results: Sequence[RunResults]) -> Viewer:
    """The scans for the viewer.

    Without a case table every chosen scan is left out, with the reason.
    """
    if config.report.viewer_cases == 0:
        return Viewer()
    data = data_of(config, config_of_run(config, results[0].run.config_file))
    try:
        cases = read_cases(data.cases_file)
    except HemsegError as error:
        chosen = choose_scans(results[0].cases, config.report.viewer_cases)
        return Viewer((), {case.scan: error.message for _, case in chosen})
    shown = min(config.report.viewer_cases, len(results[0].cases))
    return build_viewer(
        results, cases, data.folder, count=shown, matrix=_viewer_matrix(config, shown)
    )


def _viewer_matrix(config: Config, shown: int) -> int:
    """Return how wide the viewer's slices may be, pixels: less where there are many scans."""
    wanted = config.report.viewer_matrix
    return min(wanted, _MATRIX_OF_MANY) if shown > _MANY_SCANS else wanted


def _on_data(config: Config, run: RunDirectory) -> RunDirectory:
    """Return the run on the data set that the user states, where it was scored on that."""
    if not run.config_file.is_file():
        return run

    trained = config_of_run(config, run.config_file)
    elsewhere = run_on_data(run, data_of(config, trained), trained)
    return elsewhere if evaluated_splits(elsewhere) else run


def _refuse_twice(directories: Sequence[RunDirectory]) -> None:
    # Tables and charts tell runs apart by name.
    names = [run.name for run in directories]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"run {name} is named twice",
                hint="name each run once; runs of one name in two folders need other names",
            )


def _output_files(directories: Sequence[RunDirectory], out: Path | None) -> tuple[Path, Path, Path]:
    """The HTML file, the Markdown file and the folder of CSV files."""
    if out is None:
        first = directories[0]
        html = first.report_html if len(directories) == 1 else first.path / "comparison.html"
    elif out.is_dir() or out.suffix == "":
        html = out / "report.html"
    elif out.suffix.lower() in {".html", ".htm"}:
        html = out
    else:
        raise UsageError(
            f"--out {out}: neither a folder nor an HTML file",
            hint=f"--out {out.with_suffix('.html')}",
        )
    return html, html.with_suffix(".md"), html.with_name(f"{html.stem}_csv")


def _markdown(page: Page) -> str:
    names = ", ".join(run.name for run in page.runs)
    lines = [
        f"# {escape_markdown(page.title)}",
        "",
        f"Run: {escape_markdown(names)}. Split: {page.split}. "
        f"Made {page.made:%Y-%m-%d %H:%M} UTC. {page.notice}",
        "",
    ]
    if page.warnings:
        lines += ["## Warnings", ""]
        lines += [*(f"- {escape_markdown(warning)}" for warning in page.warnings), ""]
    lines += ["## Tables", ""]
    lines += [to_markdown(table) for table in page.tables if table.key != "history"]
    return "\n".join(lines)
