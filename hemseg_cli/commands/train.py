"""`hemseg train`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hemseg_cli import options
from hemseg_cli.core import console
from hemseg_cli.core.errors import UsageError

if TYPE_CHECKING:
    from hemseg_cli.config import Config


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("train")(train)


def train(
    list_models: Annotated[
        bool,
        typer.Option("--list", help="Show the models with their size, source and published Dice."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="Network to train (--list shows them)."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="strong|paper", help="Preset of every other number."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Passes over the train split.")
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", help="Stop after this many minutes, the schedule fitted."),
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(
            "--fold", metavar="K|all", help="Fold kept for validation (0 to N-1), or all in turn."
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option("--folds", min=2, metavar="N", help="Number of folds, grouped by patient."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on exactly where the run stopped (default: the newest run)."
        ),
    ] = False,
    run: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="NAME", help="Name of the run (default: <model>-<UTC time>)."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of everything random.")
    ] = None,
    device: options.Device = None,
    workers: options.Workers = None,
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train one system into a run directory; --resume goes on.

    Several GPUs: torchrun --nproc-per-node N -m -- hemseg_cli train ...
    """
    keys: dict[str, Any] = {
        "train.model": model,
        "train.recipe": recipe,
        "train.epochs": epochs,
        "train.max_minutes": max_minutes,
        "train.fold": int(fold) if fold is not None and fold.isdigit() else fold,
        "train.folds": folds,
        "train.seed": seed,
        "compute.device": device,
        "compute.workers": workers,
    }
    config = options.start(
        config_file, assignments, json=json, quiet=quiet, verbose=verbose, options=keys
    )
    if list_models:
        console.result(*_models())
        return
    from hemseg_cli.models.registry import model_to_train

    model_to_train(config.train)
    if resume and config_file is None and config.train.fold != "all":
        config = _config_of_run(
            config, run, assignments, keys, json=json, quiet=quiet, verbose=verbose
        )
    from hemseg_cli.training.distributed import announced_rank  # torch takes seconds to import

    if announced_rank():
        console.configure(quiet=True, verbose=verbose)
    results = [
        _train_one(part, name, resume=resume) for part, name in _parts(config, run, resume=resume)
    ]
    if not announced_rank():
        console.result(*_answer(results))


def _train_one(config: "Config", run: str | None, *, resume: bool) -> Any:
    from hemseg_cli.training.train import train as train_run

    if run is not None and resume and _of_all_folds(config, run):
        # Folds that are done are left as they are, those that have not begun begin.
        return train_run(config, run=run, keep_finished=True)
    return train_run(config, run=run, resume=resume)


def _of_all_folds(config: "Config", run: str) -> bool:
    return run.endswith(f"-fold{config.train.fold}")


def _config_of_run(
    config: "Config",
    run: str | None,
    assignments: list[str] | None,
    keys: dict[str, Any],
    *,
    json: bool,
    quiet: bool,
    verbose: bool,
) -> "Config":
    """The run's own config, with what was typed on top.

    So `--resume` needs no repetition, and a typed change is noticed.
    """
    from hemseg_cli.core.run_directory import open_run

    own = open_run(config.runs.root, run).config_file
    if not own.is_file():
        return config
    return options.start(own, assignments, json=json, quiet=quiet, verbose=verbose, options=keys)


def _parts(config: "Config", run: str | None, *, resume: bool) -> list[tuple["Config", str | None]]:
    """One training, or one for each fold with the folds' numbers in the names of the runs."""
    if config.train.fold != "all":
        return [(config, run)]
    if resume and run is None:
        raise UsageError(
            "--fold all --resume: which run?", hint="--run NAME, without the -fold0 of its folds"
        )
    from datetime import UTC, datetime

    name = run or f"{config.train.model.rpartition(':')[2]}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    parts: list[tuple[Config, str | None]] = []
    for fold in range(config.train.folds):
        part = config.model_copy(update={"train": config.train.model_copy(update={"fold": fold})})
        parts.append((part, f"{name}-fold{fold}"))
    return parts


def _answer(results: list[Any]) -> tuple[Any, ...]:
    if len(results) == 1:
        return (results[0].payload(), *results[0].tables())
    command = f"hemseg predict --run {results[0].run.name.rpartition('-fold')[0]}"  # the ensemble of all folds
    mean = sum(result.best_dice for result in results) / len(results)
    payload = {
        "folds": [result.payload() for result in results],
        "mean_best_dice": mean,
        "next": command,
    }
    tables = [table for result in results for table in result.tables()]
    summary = console.Table(
        "Folds",
        ["folds", "mean val Dice"],
        [[str(len(results)), f"{mean:.4f}"]],
        caption=f"next: {command}",
    )
    return (payload, *tables, summary)


def _models() -> tuple[Any, ...]:
    from hemseg_cli.models.registry import listed_models

    payload = {
        "models": [
            {
                "name": model.name,
                "title": model.title,
                "parameters": model.parameters,
                "source": model.source,
                "reference_dice": model.reference_dice,
            }
            for model in listed_models()
        ]
    }
    rows = [
        [
            model.name,
            model.title,
            f"{model.parameters / 1e6:.1f} M" if model.parameters else "by plan",
            model.source,
            f"{model.reference_dice:.2f}" if model.reference_dice else "-",
        ]
        for model in listed_models()
    ]
    columns = ["name", "model", "parameters", "source", "published Dice %"]
    caption = (
        "parameters: default configuration, one input channel; published: HemSeg-200 test split"
    )
    return payload, console.Table(
        "Models",
        columns,
        rows,
        caption=caption,
        right=frozenset({"parameters", "published Dice %"}),
    )
