"""The layers of a configuration: what file, environment and `--set` state, and where."""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hemseg_cli.config.values import MOST_LEVELS, problem_of
from hemseg_cli.core.errors import ConfigError
from hemseg_cli.core.printable import printable

DEFAULT_FILE = Path("hemseg.toml")
_ENVIRONMENT_PREFIX = "HEMSEG_"
_MOST_CHARACTERS = 1_000_000
Tree = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One source of settings: its values, and the place of each key for messages.

    `clears`: an empty table takes away what lower layers state (`--set train.network={}`).
    """

    tree: Tree
    place: Callable[[str], str]
    clears: bool = False


def file_layer(path: Path) -> Layer:
    """Read the layer of a file. ConfigError naming the line where it holds what it cannot."""
    tree = _read_toml(path)
    place = _line_finder(path)
    _refuse_impossible(tree, place)
    return Layer(tree, place)


def given_layer(source: str, key: str, value: Any) -> Layer:
    """Return the layer of one dotted key that `source` (an option, a variable) states."""
    return Layer(_nested(key, value, source), lambda _key: source, clears=True)


def existing_file(file: Path | None) -> Path | None:
    """Return the file that is read: the one named, else that of the current folder, or None."""
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
        # A table's header, else a key of the last one; strings of several lines are not looked at.
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
            table = header[1].replace('"', "").replace(" ", "")
            lines.setdefault(table, number)
        elif key := re.match(r"\s*([A-Za-z0-9_.\"-]+)\s*=", line):
            lines[f"{table}.{key[1]}".strip(".").replace('"', "")] = number

    def place(key: str) -> str:
        # A key that an inline table holds stands on the line of that table.
        while key and key not in lines:
            key = key.rpartition(".")[0]
        return f"{path}:{lines[key]}" if key else str(path)

    return place


def from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    """Yield source, dotted key and value of each `HEMSEG_SECTION__KEY`."""
    for name, text in sorted(environ.items()):
        if name.startswith(_ENVIRONMENT_PREFIX) and "__" in name:
            key = name.removeprefix(_ENVIRONMENT_PREFIX).lower().replace("__", ".")
            yield f"variable {name}", key, _scalar(text)


def from_assignment(text: str) -> tuple[str, str, Any]:
    """Return source, dotted key and value of a `section.key=value`."""
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


def merge(
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
            # The place of a table is that of its first mention, of a value that of its last.
            origin.setdefault(dotted, place(dotted))
            if clears and not value:
                tree[key] = {}
            merge(tree.setdefault(key, {}), origin, value, place, f"{dotted}.", clears=clears)
        else:
            tree[key] = value
            origin[dotted] = place(dotted)
