"""`hemseg config`: init, show, validate."""

from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core import console
from hemseg_cli.core.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    group = typer.Typer(no_args_is_help=True, help="Write, show or check hemseg.toml.")
    group.command("init")(init)
    group.command("show")(show)
    group.command("validate")(validate)
    app.add_typer(group, name="config")


def init(
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("hemseg.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a config file with every key, its default and what it means."""
    console.configure(json=json, quiet=quiet)
    from hemseg_cli.config import template
    from hemseg_cli.core.files import write_text

    if file.exists() and not force:
        raise UsageError(f"{file} exists", hint="--force overwrites it")
    write_text(file, template())
    console.result({"file": str(file)}, console.Table("", ["written"], [[str(file)]]))


def show(
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Print the effective config: defaults, recipe, file, environment and --set merged."""
    config = options.start(config_file, assignments, json=json, quiet=quiet, verbose=verbose)
    from hemseg_cli.config import dump

    if json:
        console.result(config.model_dump(mode="json"))
    else:
        console.print_text(dump(config))


def validate(
    file: Annotated[Path, typer.Argument(help="File to check.")] = Path("hemseg.toml"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a config file; exit code 2 names each bad key and its line."""
    console.configure(json=json, quiet=quiet)
    from hemseg_cli.config import validate_file

    validate_file(file)
    console.result(
        {"file": str(file), "valid": True},
        console.Table("", ["file", "valid"], [[str(file), "yes"]]),
    )
