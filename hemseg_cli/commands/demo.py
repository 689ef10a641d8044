"""`hemseg demo`."""

from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core.result import Result


@options.output
def demo(
    common: options.Common,
    *,
    folder: Annotated[
        Path,
        typer.Option("--dir", metavar="DIR", help="Folder for everything that the demo writes."),
    ] = Path("hemseg-demo"),
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="MODEL", help="Network to train; hemseg train --list shows them."
        ),
    ] = "dynunet",
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", min=0, help="Seed of the phantom and of the training."),
    ] = 0,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="N", min=0.01, help="Minutes of training.")
    ] = 2.0,
    classes: Annotated[
        str,
        typer.Option(
            "--classes",
            metavar="KEYS",
            help="Kinds to draw and tell apart: IPH,IVH,SAH,SDH,EDH,edema. Default: one class.",
        ),
    ] = "",
) -> Result:
    """Run everything on drawn head CTs, in minutes on a laptop CPU.

    It ends with a trained model, masks, metrics and a report to look at.
    """
    del common
    from hemseg_cli.demo import run_demo

    keys = [key.strip() for key in classes.split(",")] if classes else []
    return run_demo(folder, model=model, seed=seed, minutes=minutes, classes=keys)
