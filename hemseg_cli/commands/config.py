"""`hemseg config`: init, show, validate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from hemseg_cli import options
from hemseg_cli.core import console
from hemseg_cli.core.errors import UsageError

group = typer.Typer(no_args_is_help=True, help="Write, show or check hemseg.toml.")


@dataclass(frozen=True)
class _FileResult:
    """A config file, and what was done with it."""

    file: Path
    word: str
    value: bool | None = None
    failed: ClassVar[bool] = False

    def payload(self) -> dict[str, Any]:
        """Return the file, and the verdict where there is one."""
        verdict = {} if self.value is None else {self.word: self.value}
        return {"file": str(self.file)} | verdict

    def tables(self) -> list[console.Table]:
        """Return the same as one row."""
        if self.value is None:
            return [console.Table("", [self.word], [[str(self.file)]])]
        return [
            console.Table(
                "", ["file", self.word], [[str(self.file), "yes" if self.value else "no"]]
            )
        ]


@group.command("init")
@options.output
def init(
    common: options.Common,
    *,
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("hemseg.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> Any:
    """Write a config file with every key, its default and what it means."""
    del common
    from hemseg_cli.config import template
    from hemseg_cli.core.files import write_text

    if file.exists() and not force:
        raise UsageError(f"{file} exists", hint="--force overwrites it")

    write_text(file, template())
    return _FileResult(file, "written")


@group.command("show")
@options.common
def show(common: options.Common) -> None:
    """Print the effective config: defaults, recipe, file, environment and --set merged."""
    from hemseg_cli.config import dump, load, plain

    # Looked at, and nothing done: no trust in the file is needed.
    config = load(common.config_file, assignments=common.assignments, trust=None)

    if common.json:
        console.result(plain(config))
    else:
        console.print_text(dump(config))


@group.command("validate")
@options.output
def validate(
    common: options.Common,
    *,
    file: Annotated[Path, typer.Argument(help="File to check.")] = Path("hemseg.toml"),
) -> Any:
    """Check a config file; exit code 2 names each bad key and its line."""
    del common
    from hemseg_cli.config import validate_file

    validate_file(file)
    return _FileResult(file, "valid", True)
