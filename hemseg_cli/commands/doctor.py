"""`hemseg doctor`."""

from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core.result import Result


@options.common
def doctor(
    common: options.Common,
    *,
    data: Annotated[
        bool, typer.Option("--data", help="Look at the data set instead of the machine.")
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="Data set to look at (with --data)."),
    ] = None,
    workers: options.Workers = None,
) -> Result:
    """Show what this machine has, or, with --data, what is wrong with the data set.

    Exit code 1 where numbers would be wrong.
    """
    config = common.config({"data.dataset": dataset, "compute.workers": workers})

    if data:
        # numpy and nibabel are slow to import: --help does without them.
        from hemseg_cli.dataset.health.dataset import check_data

        return check_data(config)

    from hemseg_cli.dataset.health.machine import check_machine

    return check_machine(config)
