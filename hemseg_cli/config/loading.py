"""Merge the layers of a configuration, and check the result."""

import difflib
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hemseg_cli.config.layers import (
    Layer,
    Tree,
    existing_file,
    file_layer,
    from_assignment,
    from_environment,
    given_layer,
    merge,
)
from hemseg_cli.config.recipes import preset
from hemseg_cli.config.schema import Config
from hemseg_cli.config.trust import check_trust
from hemseg_cli.config.values import without_surrogates
from hemseg_cli.core.errors import ConfigError
from hemseg_cli.core.printable import printable
from hemseg_cli.core.urls import without_secrets

_MOST_PROBLEMS = 20
_FINE_TUNING_RATE = 0.1  # of the recipe's learning rate
_NOT_BY_MODEL = frozenset({"model", "factory", "recipe", "models"})


def load(
    file: Path | None = None,
    *,
    assignments: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    trust: bool | None = False,
) -> Config:
    """Return the effective configuration.

    `file`: the TOML file (None: `hemseg.toml` of the current folder, if there is one).
    `assignments`: `section.key=value`, as after `--set`. `options`: dotted key to value, from the
    command line; a None is left out. `trust`: whether the file may name servers and folders outside
    the project from now on; None: not asked, for a config that is only looked at. Raises
    ConfigError naming `section.key`, its place (file and line, variable, `--set` or option) and the
    nearest valid key.

    Precedence, highest first: `options`, `assignments`, `environ`, the file's table of the chosen
    model (`[train.models.NAME]`), the file's other keys, the recipe's preset, the default.
    """
    path = existing_file(file)
    layers = [file_layer(path)] if path is not None else []
    given = [
        *from_environment(os.environ if environ is None else environ),
        *(from_assignment(text) for text in assignments),
        # A path is text as in a file: `~` and variables in it are expanded alike.
        *(
            ("command line", key, str(value) if isinstance(value, Path) else value)
            for key, value in (options or {}).items()
        ),
    ]
    layers += [given_layer(*one) for one in given if one[2] is not None]

    tree, origin = _merged(layers)
    config = _check(_with_recipe(tree), origin)
    _check_tables(tree, origin)
    if config.train.models:
        # Merged by now: a config is the same whichever way its values were stated.
        train = config.train.model_copy(update={"models": {}})
        config = config.model_copy(update={"train": train})

    if path is not None and trust is not None:
        place = layers[0].place
        stated = {key for key, where in origin.items() if where == place(key)}
        check_trust(config, stated, file=path, place=place, record=trust)
    return config


def _merged(layers: Sequence[Layer]) -> tuple[Tree, dict[str, str]]:
    """Merge the layers, lowest first, each with its table of the chosen model on top of itself.

    Returns the tree and the place of each dotted key.
    """
    chosen = _chosen_model([layer.tree for layer in layers])
    tree: Tree = {}
    origin: dict[str, str] = {}
    for layer in layers:
        values = layer.tree
        if not layer.clears and _chosen_model([values]) != chosen:
            values = _without_network(values)
        merge(tree, origin, values, layer.place, clears=layer.clears)

        table = _model_tables(values).get(chosen)
        if isinstance(table, dict):
            place = functools.partial(_place_in_table, layer.place, chosen)
            merge(tree, origin, {"train": table}, place, clears=True)
    return tree, origin


def _chosen_model(trees: Iterable[Tree]) -> str:
    """Return the model that the layers choose, the last one that names a model deciding."""
    chosen: Any = Config().train.model
    for tree in trees:
        train = tree.get("train")
        if isinstance(train, dict):
            chosen = train.get("factory") or train.get("model") or chosen
    return str(chosen)


def _without_network(tree: Tree) -> Tree:
    """Leave out `[train.network]` of a file whose model is not the chosen one.

    It holds the arguments of the network that the file names, which no other one takes.
    """
    train = tree.get("train")
    if not isinstance(train, dict):
        return tree
    return tree | {"train": {key: value for key, value in train.items() if key != "network"}}


def _model_tables(tree: Tree) -> Tree:
    train = tree.get("train")
    tables = train.get("models") if isinstance(train, dict) else None
    return tables if isinstance(tables, dict) else {}


def _place_in_table(place: Callable[[str], str], model: str, key: str) -> str:
    return place(key.replace("train", f"train.models.{model}", 1))


def _check_tables(tree: Tree, place_of: Mapping[str, str]) -> None:
    """Check the table of every model, the chosen one or not. ConfigError as `load`."""
    for name, table in _model_tables(tree).items():
        where = place_of.get(f"train.models.{name}", "")
        if not isinstance(table, dict):
            raise ConfigError(f"train.models.{name}: a table is wanted, not {table!r} ({where})")
        for key in _NOT_BY_MODEL & set(table):
            raise ConfigError(
                f"train.models.{name}.{key}: cannot differ by model ({where})",
                hint=f"write {key} into [train]",
            )
        head = f"train.models.{name}"
        origin = {
            f"train{key.removeprefix(head)}": where
            for key, where in place_of.items()
            if key == head or key.startswith(f"{head}.")
        }
        _check(_with_recipe({"train": table | {"model": name}}), origin)


def validate_file(path: Path) -> Config:
    """Check one file alone, without environment or overrides."""
    return load(path, environ={}, trust=None)


def _with_recipe(tree: Tree) -> Tree:
    """The user's layers on top of the preset of the recipe that they choose."""
    train = tree.get("train")
    chosen = train if isinstance(train, dict) else {}
    defaults = Config().train
    table = preset(
        str(chosen.get("recipe", defaults.recipe)), str(chosen.get("model", defaults.model))
    )
    # Trained weights are changed with care; a rate that the user states stands above this.
    if chosen.get("start_from") is not None:
        table["lr"] = float(table.get("lr", defaults.lr)) * _FINE_TUNING_RATE
    layers: Tree = {"train": table}
    merge(layers, {}, tree, str)
    return layers


def _check(tree: Tree, origin: Mapping[str, str]) -> Config:
    try:
        # By way of JSON: strict there still lets a string be a path and a list a tuple, as TOML has
        # neither.
        return Config.model_validate_json(
            json.dumps(without_surrogates(tree), default=str), strict=True
        )
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [_describe(detail, origin) for detail in details[:_MOST_PROBLEMS]]
        if len(details) > _MOST_PROBLEMS:
            problems.append(f"and {len(details) - _MOST_PROBLEMS} more")
        raise ConfigError(
            printable("\n".join(problems)),
            hint="hemseg config show   prints every key and its value",
        ) from None


def _describe(detail: ErrorDetails, origin: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    known = key
    while known and known not in origin:
        known = known.rpartition(".")[0]
    place = origin.get(known, "")
    where = f" ({place})" if place else ""
    if detail["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, _every_key(Config), n=1, cutoff=0.5)
        return f"{key[:80]}: unknown key{where}" + (
            f"; did you mean {nearest[0]}?" if nearest else ""
        )
    value = detail["input"]
    shown = "" if isinstance(value, dict) else f", not {without_secrets(repr(value))[:200]}"
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    return f"{key}: {message}{shown}{where}"


def _every_key(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, field in model.model_fields.items():
        yield f"{prefix}{key}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _every_key(field.annotation, f"{prefix}{key}.")
