"""Options that commands share, declared once; `common` gives a command those that all have.

A command is a function of a `Common` and of its own options that returns a `Result`, or None where
it has printed already. `common` adds the common options to its signature, which Typer reads, prints
the result and sets the exit code.
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from hemseg_cli.core import console
from hemseg_cli.core.errors import EXIT_NOT_DONE
from hemseg_cli.core.result import Result

if TYPE_CHECKING:
    from hemseg_cli.config import Config

P = ParamSpec("P")

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
TrustConfig = Annotated[
    bool,
    typer.Option(
        "--trust-config",
        help="Let the config file name servers and folders outside this one; remembered.",
        rich_help_panel=_COMMON,
    ),
]

Device = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=0,
        help="Worker processes (default: one per core; 0: none).",
    ),
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
DataSet = Annotated[
    str | None,
    typer.Option(
        "--dataset", metavar="NAME", help="Another data set than the run's own, below data.root."
    ),
]
Runs = Annotated[
    list[str] | None,
    typer.Option(
        "--run", metavar="RUN", help="Run, folder or model.zip; repeatable (default: the newest)."
    ),
]


@dataclass(frozen=True)
class Common:
    """The values of the common options of one call."""

    config_file: Path | None = None
    assignments: tuple[str, ...] = ()
    trust_config: bool = False
    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def config(
        self, options: Mapping[str, Any] | None = None, *, file: Path | None = None
    ) -> "Config":
        """Return the effective config.

        `options` maps `section.key` to the value given on the command line, or None. `file` takes
        the place of `--config`.
        """
        # pydantic takes a tenth of a second to import: --help does without it.
        from hemseg_cli.config import load

        return load(
            file or self.config_file,
            assignments=self.assignments,
            options=options,
            trust=self.trust_config,
        )


_OUTPUT_OPTIONS: dict[str, Any] = {"json": Json, "quiet": Quiet, "verbose": Verbose}
_CONFIG_OPTIONS: dict[str, Any] = {
    "config_file": ConfigFile,
    "assignments": Assignments,
    "trust_config": TrustConfig,
}


def common(command: Callable[Concatenate[Common, P], Any]) -> Callable[..., None]:
    """Give a command the common options, print its `Result`, exit 1 where cases failed."""
    return _with_options(command, _CONFIG_OPTIONS | _OUTPUT_OPTIONS)


def output(command: Callable[Concatenate[Common, P], Any]) -> Callable[..., None]:
    """Do the same for a command that reads no config: `--json`, `--quiet` and `--verbose`."""
    return _with_options(command, _OUTPUT_OPTIONS)


def _with_options(
    command: Callable[Concatenate[Common, P], Any], added: Mapping[str, Any]
) -> Callable[..., None]:
    work: Callable[..., Any] = command

    @functools.wraps(command)
    def run(**values: Any) -> None:
        values = {name: _expanded(value) for name, value in values.items()}
        given = {name: values.pop(name) for name in added}
        console.configure(json=given["json"], quiet=given["quiet"], verbose=given["verbose"])
        given["assignments"] = tuple(given.get("assignments") or ())
        print_result(work(Common(**given), **values))

    # Typer reads names, types and defaults from the signature: the command's own, without its
    # `Common`, and the added ones.
    own = list(inspect.signature(command).parameters.values())[1:]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    for name, annotation in added.items():
        default = None if name in ("config_file", "assignments") else False
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
        )
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _expanded(value: Any) -> Any:
    """Write out `~` and variables in paths: the shell leaves them alone in `--out=~/masks`."""
    if isinstance(value, list):
        return [_expanded(one) for one in value]
    if isinstance(value, Path):
        return Path(os.path.expanduser(os.path.expandvars(value)))
    if isinstance(value, str) and value.startswith("~"):
        return os.path.expanduser(value)
    return value


def print_result(result: Result | None) -> None:
    """Print the result of a command, and exit 1 where it says that some case failed."""
    if result is None:
        return
    console.result(result.payload(), *result.tables())
    if result.failed:
        raise typer.Exit(EXIT_NOT_DONE)
