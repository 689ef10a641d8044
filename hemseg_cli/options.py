"""Options that commands share, declared once, and `start`, which every command calls first."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hemseg_cli.core import console

if TYPE_CHECKING:
    from hemseg_cli.config import Config

_COMMON = "Common options"

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Config file (default: hemseg.toml here, if there is one).",
        rich_help_panel=_COMMON,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override one config key; repeatable.",
        rich_help_panel=_COMMON,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel=_COMMON),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="No progress, only warnings and the result.", rich_help_panel=_COMMON
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="More detail in the log.", rich_help_panel=_COMMON)
]

Device = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Worker processes (default: one per core; 0: none)."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler", metavar="tcp://HOST:PORT", help="Send the cases to a Dask cluster."
    ),
]
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="train|val|test", help="Split to work on (default: test)."),
]
Runs = Annotated[
    list[str] | None,
    typer.Option(
        "--run", metavar="RUN", help="Run name or folder; repeatable (default: the newest)."
    ),
]


def start(
    config_file: Path | None,
    assignments: list[str] | None,
    *,
    json: bool,
    quiet: bool,
    verbose: bool,
    options: Mapping[str, Any] | None = None,
) -> "Config":
    """Set up the console and return the effective config.

    `options` maps `section.key` to the value given on the command line, or None.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    # pydantic takes a tenth of a second to import: --help does without it.
    from hemseg_cli.config import load

    return load(config_file, assignments=assignments or (), options=options)
