"""`hemseg export`."""

from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core.errors import UsageError
from hemseg_cli.core.result import Result


@options.common
def export(
    common: options.Common,
    *,
    name: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Run name or folder (default: the newest)."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="RUN", help="The same, as other commands take it."),
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
) -> Result:
    """Write a trained model as one archive: weights, settings, metrics, hashes.

    What it writes is for `hemseg predict --run FILE.zip`.
    """
    if name is not None and run is not None and name != run:
        raise UsageError(
            f"export {name} --run {run}: two runs", hint="export writes one run; name it once"
        )
    config = common.config({"predict.checkpoint": checkpoint})

    from hemseg_cli.inference.export import export as export_run

    return export_run(config, run=name or run, out=out, onnx=onnx)
