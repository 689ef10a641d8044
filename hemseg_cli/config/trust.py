"""What a config file may not decide unasked: servers, folders outside, own code, identities.

`hemseg.toml` of the current folder may be somebody else's, come with a data set or a repository.
Most of its keys do no harm. Those here are followed only after the user has said so once with
`--trust-config`; given as an option, with `--set` or in the environment they are the user's will.
"""

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import typer

from hemseg_cli.config.schema import Config
from hemseg_cli.core import console
from hemseg_cli.core.errors import ConfigError, HemsegError
from hemseg_cli.core.files import write_text
from hemseg_cli.core.urls import without_secrets

_PATH_KEYS = (
    "data.root",
    "data.cache",
    "runs.root",
    "runs.models",
    "convert.dicom",
    "convert.out",
    "fetch.source",
)


def check_trust(
    config: Config,
    stated: Collection[str],
    *,
    file: Path,
    place: Callable[[str], str],
    record: bool,
) -> None:
    """ConfigError where `file` states a key that needs trust, and it is not trusted.

    `stated`: the dotted keys whose value comes from the file. `place`: `file:line` of a key.
    `record`: trust the file from now on, with the values that it has today.
    """
    wanted = _wanted(config, stated, file)
    if not wanted:
        return

    mark = _mark(file, {key: _value(config, key) for key in wanted})
    if record:
        _remember(mark, file)
        return
    if mark in _trusted():
        return

    lines = [
        f"{key} = {without_secrets(str(_value(config, key)))} ({place(key)}): {does}"
        for key, does in wanted.items()
    ]
    raise ConfigError(
        f"{file} asks for what no file may have unasked:\n" + "\n".join(lines),
        hint="if you know the file: the same command with --trust-config, once",
    )


def _wanted(config: Config, stated: Collection[str], file: Path) -> dict[str, str]:
    """Return the keys of the file that need trust, each with what it would do."""
    wanted = {}
    if "compute.scheduler" in stated and config.compute.scheduler is not None:
        wanted["compute.scheduler"] = (
            "scans would go to this server, and its answers are run as code"
        )
    default = type(config.convert).model_fields["kaggle_url"].default
    if "convert.kaggle_url" in stated and config.convert.kaggle_url != default:
        wanted["convert.kaggle_url"] = "your Kaggle token would go to this server"
    if "train.factory" in stated and config.train.factory is not None:
        wanted["train.factory"] = "this code would be run"

    if "train.trackers" in stated and {"wandb", "mlflow"} & set(config.train.trackers):
        wanted["train.trackers"] = "figures and pictures of the training would go to a server"
    if "predict.keep_identity" in stated and config.predict.keep_identity:
        wanted["predict.keep_identity"] = "patients' names and ids would stand in the results"

    inside = [Path.cwd().resolve(), file.resolve().parent]
    for key in _PATH_KEYS:
        value = _value(config, key) if key in stated else None
        if value is None or "://" in str(value) or str(value) == "kaggle":
            continue
        path = Path(str(value)).resolve()
        if not any(path.is_relative_to(folder) for folder in inside):
            wanted[key] = "this lies outside the project's folder"
    return wanted


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name, None)


def _mark(file: Path, values: dict[str, Any]) -> str:
    # Only these values count, so that another number of epochs asks nothing anew.
    text = json.dumps([str(file.resolve()), values], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _trust_file() -> Path:
    return Path(typer.get_app_dir("hemseg")) / "trusted"


def _trusted() -> set[str]:
    try:
        return {line.partition(" ")[0] for line in _trust_file().read_text("utf-8").splitlines()}
    except (OSError, UnicodeDecodeError):
        return set()


def _remember(mark: str, file: Path) -> None:
    path = _trust_file()
    if mark in _trusted():
        return
    try:
        kept = path.read_text("utf-8") if path.is_file() else ""
        write_text(path, f"{kept}{mark} {json.dumps(str(file.resolve()))}\n")
    except (OSError, UnicodeDecodeError, HemsegError) as error:
        console.warn(f"the trust in {file} holds for this call only: {error}")
