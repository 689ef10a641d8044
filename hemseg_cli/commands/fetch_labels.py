"""`hemseg fetch-labels`."""

from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core import console
from hemseg_cli.core.result import Result


@options.common
def fetch_labels(
    common: options.Common,
    *,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            help="hemseg-200 (default), hemseg-500, or the name of one of your own.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="FOLDER|FILE|URL",
            help="Take the files from here instead of the published address.",
        ),
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option(
            "--splits",
            metavar="official|patient",
            help="Published splits, or repaired so that no patient stands in two.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Restore labels that differ from the archive's.")
    ] = False,
    workers: options.Workers = None,
) -> Result:
    """Download, verify and lay out the labels, the manifest and the splits."""
    config = common.config(
        {
            "data.dataset": dataset,
            "fetch.source": source,
            "fetch.splits": splits,
            "compute.workers": workers,
        }
    )

    # numpy and requests are slow to import: --help does without them.
    from hemseg_cli.dataset.labels.fetch import fetch_labels as fetch

    result = fetch(config, force=force)
    for warning in result.warnings:
        console.warn(warning)
    if result.differing:
        console.warn(
            f"{len(result.differing)} labels differ from the archive's and were kept; "
            "--force restores them"
        )
    return result
