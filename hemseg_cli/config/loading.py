"""Reading, merging, checking and writing `hemseg.toml`."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from hemseg_cli.config.recipes import preset, preset_values
from hemseg_cli.config.schema import Config
from hemseg_cli.core.errors import ConfigError

DEFAULT_FILE = Path("hemseg.toml")
_ENVIRONMENT_PREFIX = "HEMSEG_"
Tree = dict[str, Any]


def load(
    file: Path | None = None,
    *,
    assignments: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The effective configuration.

    `file`: the TOML file (None: `hemseg.toml` of the current folder, if there is one).
    `assignments`: `section.key=value`, as after `--set`. `options`: dotted key to value, from the
    command line; a None is left out. Raises ConfigError naming `section.key`, its place (file and
    line, variable, `--set` or option) and the nearest valid key.
    """
    path = _existing_file(file)
    tree: Tree = {}
    origin: dict[str, str] = {}
    if path is not None:
        _merge(tree, origin, _read_toml(path), _line_finder(path))
    for source, key, value in (
        *_from_environment(os.environ if environ is None else environ),
        *(_from_assignment(text) for text in assignments),
        *(
            ("command line", key, value)
            for key, value in (options or {}).items()
            if value is not None
        ),
    ):
        _merge(tree, origin, _nested(key, value), lambda _key, source=source: source)
    return _check(_with_recipe(tree), origin)


def validate_file(path: Path) -> Config:
    """Check one file alone, without environment or overrides."""
    return load(path, environ={})


def dump(config: Config) -> str:
    """The whole configuration as TOML; keys without a value are left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def template() -> str:
    """A `hemseg.toml` with every key at its default, each under its description.

    Keys without a default are commented out, and so are those that a recipe sets: stated in the
    file they would overrule it.
    """
    lines = [
        "# hemseg.toml: every key with its default. Delete what you do not change; what the recipe sets is commented out."
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
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}", hint='strings need quotes, e.g. model = "unet"'
        ) from None


def _line_finder(path: Path) -> Any:
    """A function from a dotted key to `file:line`, for messages; tomllib keeps no positions."""
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
    return f"--set {text}", key.strip(), _scalar(value.strip())


def _scalar(text: str) -> Any:
    """A TOML value where the text is one (`3`, `true`, `[1, 2]`), else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nested(key: str, value: Any) -> Tree:
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast(Tree, value)


def _merge(tree: Tree, origin: dict[str, str], layer: Tree, place: Any, prefix: str = "") -> None:
    for key, value in layer.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(tree.get(key, {}), dict):
            origin.setdefault(dotted, place(dotted))
            _merge(tree.setdefault(key, {}), origin, value, place, f"{dotted}.")
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
        problems = [_describe(detail, origin) for detail in details]
        raise ConfigError(
            "\n".join(problems), hint="hemseg config show   prints every key and its value"
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
        return f"{key}: unknown key{where}" + (f"; did you mean {nearest[0]}?" if nearest else "")
    value = detail["input"]
    shown = "" if isinstance(value, dict) else f", not {value!r}"
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    return f"{key}: {message}{shown}{where}"


def _every_key(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, field in model.model_fields.items():
        yield f"{prefix}{key}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _every_key(field.annotation, f"{prefix}{key}.")
