"""`hemseg report`."""

from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core.result import Result


@options.common
def report(
    common: options.Common,
    *,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Run names or folders, or a folder of predict --out (default: the newest run).",
        ),
    ] = None,
    runs: options.Runs = None,
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
    dataset: options.DataSet = None,
) -> Result:
    """Write one self-contained HTML page, a Markdown file and CSV files.

    Of one run, of several side by side, or of a folder of masks without labels.
    """
    config = common.config({"report.split": split, "data.dataset": dataset})

    from hemseg_cli.reporting.report import report as make_report

    return make_report(config, runs=[*(names or ()), *(runs or ())] or None, out=out, latex=latex)
