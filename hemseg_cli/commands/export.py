"""`hemseg export`."""

from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core import console


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("export")(export)


def export(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Run name or folder (default: the newest)."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.zip", help="Archive to write.")
    ] = Path("model.zip"),
    onnx: Annotated[
        Path | None,
        typer.Option(
            "--onnx", metavar="FILE.onnx", help="Also write the network as ONNX (extra onnx)."
        ),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="best|last", help="Checkpoint of the run.")
    ] = None,
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a trained model as one archive: weights, settings, metrics, hashes.

    Hemseg predict --run FILE.zip uses it.
    """
    config = options.start(
        config_file,
        assignments,
        json=json,
        quiet=quiet,
        verbose=verbose,
        options={"predict.checkpoint": checkpoint},
    )
    from hemseg_cli.inference.export import export as export_run

    result = export_run(config, run=run, out=out, onnx=onnx)
    console.result(result.payload(), *result.tables())
