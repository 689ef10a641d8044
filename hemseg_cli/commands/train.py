"""`hemseg train`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hemseg_cli import options
from hemseg_cli.core import console
from hemseg_cli.core.result import Result

if TYPE_CHECKING:
    from hemseg_cli.config import Config


_ListModels = Annotated[
    bool,
    typer.Option("--list", help="Show the models with their size, source and published Dice."),
]
_Model = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Network to train (--list shows them)."),
]
_Recipe = Annotated[
    str | None,
    typer.Option("--recipe", metavar="strong|paper", help="Preset of every other number."),
]
_Epochs = Annotated[
    int | None, typer.Option("--epochs", metavar="N", min=1, help="Passes over the train split.")
]
_MaxMinutes = Annotated[
    float | None,
    typer.Option("--max-minutes", help="Stop after this many minutes, the schedule fitted."),
]
_Fold = Annotated[
    str | None,
    typer.Option(
        "--fold", metavar="K|all", help="Fold kept for validation (0 to N-1), or all in turn."
    ),
]
_Folds = Annotated[
    int | None,
    typer.Option("--folds", min=2, metavar="N", help="Number of folds, grouped by patient."),
]
_Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on exactly where the run stopped (default: the newest run)."),
]
_Run = Annotated[
    str | None,
    typer.Option("--run", metavar="NAME", help="Name of the run (default: <model>-<UTC time>)."),
]
_From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN|model.zip",
        help="Start from its weights (learning rate a tenth, if not set).",
    ),
]
_Freeze = Annotated[
    str | None,
    typer.Option("--freeze", metavar="encoder", help="Leave the encoder's weights as they are."),
]
_AllowContamination = Annotated[
    bool | None,
    typer.Option(
        "--allow-contamination",
        help="Train on several data sets also where one has test scans of another.",
    ),
]
_Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", min=0, help="Seed of everything random.")
]


@options.common
def train(
    common: options.Common,
    *,
    list_models: _ListModels = False,
    model: _Model = None,
    recipe: _Recipe = None,
    epochs: _Epochs = None,
    max_minutes: _MaxMinutes = None,
    fold: _Fold = None,
    folds: _Folds = None,
    resume: _Resume = False,
    run: _Run = None,
    start_from: _From = None,
    freeze: _Freeze = None,
    allow_contamination: _AllowContamination = None,
    seed: _Seed = None,
    device: options.Device = None,
    workers: options.Workers = None,
) -> Result | None:
    """Train one system into a run directory; --resume goes on.

    Several GPUs: torchrun --nproc-per-node N -m -- hemseg_cli train ...
    """
    keys: dict[str, Any] = {
        "train.model": model,
        "train.recipe": recipe,
        "train.start_from": start_from,
        "train.freeze": freeze,
        "data.allow_contamination": allow_contamination,
        "train.epochs": epochs,
        "train.max_minutes": max_minutes,
        "train.fold": int(fold) if fold is not None and fold.isdigit() else fold,
        "train.folds": folds,
        "train.seed": seed,
        "compute.device": device,
        "compute.workers": workers,
    }
    config = common.config(keys)
    if list_models:
        from hemseg_cli.models.listing import ModelList

        return ModelList()

    # Known models and their settings are checked before torch is loaded, which takes seconds.
    from hemseg_cli.models.registry import model_to_train

    model_to_train(config.train)
    if resume and common.config_file is None and config.train.fold != "all":
        config = _config_of_run(common, config, run, keys)

    return _train(common, config, run, resume=resume)


def _train(
    common: options.Common, config: "Config", run: str | None, *, resume: bool
) -> Result | None:
    from hemseg_cli.training.distributed import announced_rank
    from hemseg_cli.training.folds import train_folds
    from hemseg_cli.training.train import train as train_run

    # Of several processes the first one alone talks and prints the result.
    if announced_rank():
        console.configure(quiet=True, verbose=common.verbose)

    result: Result
    if config.train.fold == "all":
        result = train_folds(config, run=run, resume=resume)
    else:
        result = train_run(config, run=run, resume=resume)
    return None if announced_rank() else result


def _config_of_run(
    common: options.Common, config: "Config", run: str | None, keys: dict[str, Any]
) -> "Config":
    """Return the run's own config with what was typed on top.

    So `--resume` needs no repetition, and a typed change is noticed.
    """
    from hemseg_cli.core.run_directory import open_run

    own = open_run(config.runs.root, run).config_file
    return common.config(keys, file=own) if own.is_file() else config
