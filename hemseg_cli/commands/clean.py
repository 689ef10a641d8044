"""`hemseg clean`."""

from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core.result import Result


@options.common
def clean(
    common: options.Common,
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Free what is listed; without it, it is only listed.")
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="Only this data set (default: all)."),
    ] = None,
    older_than: Annotated[
        float,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Only what is older than this."),
    ] = 0.0,
) -> Result:
    """Show what the caches hold, by data set and age; --yes frees it.

    All of it is made anew when it is needed.
    """
    config = common.config()

    from hemseg_cli.dataset.health.caches import clean as clean_caches

    return clean_caches(config, remove=yes, dataset=dataset, older_than_days=older_than)
