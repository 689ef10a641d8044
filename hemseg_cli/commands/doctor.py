"""`hemseg doctor`."""

from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core import console


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("doctor")(doctor)


def doctor(
    data: Annotated[
        bool, typer.Option("--data", help="Look at the data set instead of the machine.")
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="Data set to look at (with --data)."),
    ] = None,
    workers: options.Workers = None,
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what this machine has, or, with --data, what is wrong with the data set (exit 1 where numbers would be wrong)."""
    config = options.start(
        config_file,
        assignments,
        json=json,
        quiet=quiet,
        verbose=verbose,
        options={"data.dataset": dataset, "compute.workers": workers},
    )
    if data:
        # numpy and nibabel are slow to import: --help does without them.
        from hemseg_cli.dataset.health.dataset import check_data

        health = check_data(config)
        console.result(health.payload(), *health.tables())
        healthy = health.ok
    else:
        from hemseg_cli.dataset.health.machine import check_machine

        machine = check_machine(config)
        console.result(machine.payload(), *machine.tables())
        healthy = machine.ok
    if not healthy:
        raise typer.Exit(1)
