"""`hemseg report`."""

from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core import console


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("report")(report)


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Run names or folders (default: the newest run)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="HTML file or folder (default: report.html in the run's folder).",
        ),
    ] = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="The tables for a paper too (report.tex).")
    ] = False,
    split: options.Split = None,
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write one self-contained HTML page, Markdown and CSV files of one run, or of several."""
    config = options.start(
        config_file,
        assignments,
        json=json,
        quiet=quiet,
        verbose=verbose,
        options={"report.split": split},
    )
    from hemseg_cli.reporting.report import report as make_report

    result = make_report(config, runs=runs, out=out, latex=latex)
    console.result(result.payload(), *result.tables())
