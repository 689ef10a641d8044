"""Read, merge, check and write `hemseg.toml`."""

import difflib
import functools
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from hemseg_cli.config.recipes import preset, preset_values
from hemseg_cli.config.schema import Config
from hemseg_cli.config.trust import check_trust
from hemseg_cli.config.values import MOST_LEVELS, problem_of
from hemseg_cli.core.errors import ConfigError
from hemseg_cli.core.names import printable
from hemseg_cli.core.urls import without_secrets

DEFAULT_FILE = Path("hemseg.toml")
_ENVIRONMENT_PREFIX = "HEMSEG_"
_MOST_CHARACTERS = 1_000_000
_MOST_PROBLEMS = 20
_NOT_BY_MODEL = frozenset({"model", "factory", "recipe", "models"})
Tree = dict[str, Any]


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
    path = _existing_file(file)
    layers = [_file_layer(path)] if path is not None else []
    given = [
        *_from_environment(os.environ if environ is None else environ),
        *(_from_assignment(text) for text in assignments),
        # A path is text as in a file: `~` and variables in it are expanded alike.
        *(
            ("command line", key, str(value) if isinstance(value, Path) else value)
            for key, value in (options or {}).items()
        ),
    ]
    layers += [_given_layer(*one) for one in given if one[2] is not None]

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


@dataclass(frozen=True)
class _Layer:
    """One source of settings: its values, and the place of each key for messages.

    `clears`: an empty table takes away what lower layers state (`--set train.network={}`).
    """

    tree: Tree
    place: Callable[[str], str]
    clears: bool = False


def _file_layer(path: Path) -> _Layer:
    tree = _read_toml(path)
    place = _line_finder(path)
    _refuse_impossible(tree, place)
    return _Layer(tree, place)


def _given_layer(source: str, key: str, value: Any) -> _Layer:
    return _Layer(_nested(key, value, source), lambda _key: source, clears=True)


def _merged(layers: Sequence[_Layer]) -> tuple[Tree, dict[str, str]]:
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
        _merge(tree, origin, values, layer.place, clears=layer.clears)

        table = _model_tables(values).get(chosen)
        if isinstance(table, dict):
            place = functools.partial(_place_in_table, layer.place, chosen)
            _merge(tree, origin, {"train": table}, place, clears=True)
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


def dump(config: Config) -> str:
    """Write the whole configuration as TOML, without secrets in URLs.

    Keys without a value are left out; tables of models are merged into `[train]` already.
    """
    return tomli_w.dumps(_public(config.model_dump(mode="json", exclude_none=True)))


def plain(config: Config) -> Tree:
    """Return the same as plain values, keys without a value as None."""
    return cast(Tree, _public(config.model_dump(mode="json")))


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _public(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_public(part) for part in value]
    return without_secrets(value) if isinstance(value, str) else value


def template() -> str:
    """A `hemseg.toml` with every key at its default, each under its description.

    Keys without a default are commented out, and so are those that a recipe sets: stated in the
    file they would overrule it.
    """
    lines = [
        "# hemseg.toml: every key with its default. Delete what you do not change; what the recipe",
        "# sets is commented out.",
    ]
    for section, field in Config.model_fields.items():
        lines += [
            "",
            f"# {field.description}",
            *_template_section(section, cast(type[BaseModel], field.annotation)),
        ]
    return "\n".join(lines) + "\n"


def _template_section(name: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"[{name}]"
    tables = []
    of_recipe = {
        f"train.{key}": value
        for key, value in preset_values(Config().train.recipe, Config().train.model).items()
    }
    for key, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            tables.append((key, type(default), field.description))
            continue
        yield f"# {field.description}"
        if f"{name}.{key}" in of_recipe:
            yield "# " + " ".join(
                tomli_w.dumps({key: of_recipe[f"{name}.{key}"]}, indent=0).split()
            )
        elif default is None or default is PydanticUndefined:
            yield f"# {key} ="
        elif isinstance(default, dict):
            yield f"{key} = {{}}"
        else:
            plain = model.model_construct(**{key: default}).model_dump(
                mode="json", include={key}, warnings=False
            )[key]
            yield tomli_w.dumps({key: plain}).strip()
    for key, table, description in tables:
        yield from ("", f"# {description}")
        yield from _template_section(f"{name}.{key}", table)


def _existing_file(file: Path | None) -> Path | None:
    if file is None:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    if not file.is_file():
        raise ConfigError(
            f"config file {file} does not exist", hint=f"hemseg config init {file}   writes one"
        )
    return file


def _read_toml(path: Path) -> Tree:
    try:
        return _parsed(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}", hint='strings need quotes, e.g. model = "unet"'
        ) from None


def _parsed(text: str) -> Tree:
    """Parse TOML; ValueError for whatever is none, nested without end included."""
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"more than {_MOST_CHARACTERS} characters")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("tables or lists within each other without end") from None


def _refuse_impossible(tree: Tree, place: Callable[[str], str]) -> None:
    problem = problem_of(tree)
    if problem is not None:
        key, what = problem
        raise ConfigError(f"{printable(key)[:80]}: {what} ({place(key)})")


def _line_finder(path: Path) -> Callable[[str], str]:
    """Return a function from a dotted key to `file:line`; tomllib keeps no positions."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
            table = header[1].replace('"', "").replace(" ", "")
            lines.setdefault(table, number)
        elif key := re.match(r"\s*([A-Za-z0-9_.\"-]+)\s*=", line):
            lines[f"{table}.{key[1]}".strip(".").replace('"', "")] = number

    def place(key: str) -> str:
        while key and key not in lines:
            key = key.rpartition(".")[0]
        return f"{path}:{lines[key]}" if key else str(path)

    return place


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    for name, text in sorted(environ.items()):
        if name.startswith(_ENVIRONMENT_PREFIX) and "__" in name:
            key = name.removeprefix(_ENVIRONMENT_PREFIX).lower().replace("__", ".")
            yield f"variable {name}", key, _scalar(text)


def _from_assignment(text: str) -> tuple[str, str, Any]:
    key, separator, value = text.partition("=")
    if not separator or "." not in key:
        raise ConfigError(
            f"--set {text}: not of the form SECTION.KEY=VALUE",
            hint="for example --set train.epochs=50",
        )
    return f"--set {text[:80]}", key.strip(), _scalar(value.strip())


def _scalar(text: str) -> Any:
    """Return a TOML value where the text is one (`3`, `true`, `[1, 2]`), else the text itself."""
    try:
        return _parsed(f"value = {text}")["value"]
    except ValueError:
        return text


def _nested(key: str, value: Any, source: str) -> Tree:
    parts = key.split(".")
    if len(parts) > MOST_LEVELS:
        raise ConfigError(f"{source}: more than {MOST_LEVELS} tables within each other")
    for part in reversed(parts):
        value = {part: value}
    _refuse_impossible(value, lambda _key: source)
    return cast(Tree, value)


def _merge(
    tree: Tree,
    origin: dict[str, str],
    layer: Tree,
    place: Callable[[str], str],
    prefix: str = "",
    *,
    clears: bool = False,
) -> None:
    """Lay the values of `layer` over `tree`; with `clears` an empty table empties what is there."""
    for key, value in layer.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(tree.get(key, {}), dict):
            origin.setdefault(dotted, place(dotted))
            if clears and not value:
                tree[key] = {}
            _merge(tree.setdefault(key, {}), origin, value, place, f"{dotted}.", clears=clears)
        else:
            tree[key] = value
            origin[dotted] = place(dotted)


def _with_recipe(tree: Tree) -> Tree:
    """The user's layers on top of the preset of the recipe that they choose."""
    train = tree.get("train")
    chosen = train if isinstance(train, dict) else {}
    defaults = Config().train
    layers: Tree = {
        "train": preset(
            str(chosen.get("recipe", defaults.recipe)), str(chosen.get("model", defaults.model))
        )
    }
    _merge(layers, {}, tree, str)
    return layers


def _check(tree: Tree, origin: Mapping[str, str]) -> Config:
    try:
        # By way of JSON: strict there still lets a string be a path and a list a tuple, as TOML has
        # neither.
        return Config.model_validate_json(json.dumps(tree, default=str), strict=True)
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
