"""Values as they stand in a config, before any key is known: bounds, and paths written out."""

import math
import os
import re
from pathlib import Path
from typing import Any

MOST_LEVELS = 16
"""Tables and lists within each other; the deepest of a real config are four."""
MOST_INTEGER = 2**63 - 1
"""The largest integer that TOML promises to keep."""
MOST_VALUES = 10_000
"""Values in one file or one assignment; a file with every key has about two hundred."""

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def problem_of(tree: Any) -> tuple[str, str] | None:
    """Return the dotted key of the first value that no setting can have, and what is wrong.

    Walks without recursion, so that no depth is too much for it.
    """
    waiting: list[tuple[str, Any, int]] = [("", tree, 0)]
    for count, (key, value, level) in enumerate(_walk(waiting)):
        if count > MOST_VALUES:
            return key, f"more than {MOST_VALUES} values"
        if level > MOST_LEVELS:
            return key, f"more than {MOST_LEVELS} tables or lists within each other"
        if isinstance(value, float) and not math.isfinite(value):
            return key, f"{value} is not a finite number"
        if isinstance(value, int) and abs(value) > MOST_INTEGER:
            return key, "an integer of more than 64 bits"
        if isinstance(value, dict | list | str | int | float):
            continue
        return key, f"a {type(value).__name__} is not a value of any setting"
    return None


def _walk(waiting: list[tuple[str, Any, int]]) -> Any:
    while waiting:
        key, value, level = waiting.pop()
        yield key, value, level
        if level > MOST_LEVELS:
            continue
        if isinstance(value, dict):
            waiting += [
                (f"{key}.{name}".strip("."), part, level + 1) for name, part in value.items()
            ]
        elif isinstance(value, list):
            waiting += [(key, part, level + 1) for part in value]


# A byte of a file name that is not UTF-8 is a surrogate in Python, and JSON has none.
_SURROGATES = {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
_OF_PRIVATE_USE = {private: surrogate for surrogate, private in _SURROGATES.items()}


def without_surrogates(tree: Any) -> Any:
    """Return the values with bytes that are not UTF-8 as characters of private use.

    `expanded` gives paths their bytes back.
    """
    if isinstance(tree, dict):
        return {key: without_surrogates(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [without_surrogates(value) for value in tree]
    return tree.translate(_SURROGATES) if isinstance(tree, str) else tree


def expanded(text: str) -> str:
    """Return a path with a leading `~` and variables (`$X`, `${X}`) written out; a URL as it is.

    ValueError naming a variable that is not set.
    """
    if "://" in text:
        return text
    text = text.translate(_OF_PRIVATE_USE)

    def value_of(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise ValueError(f"the variable {name} is not set")
        return os.environ[name]

    return os.path.expanduser(_VARIABLE.sub(value_of, text))


def expanded_path(path: Path) -> Path:
    """Return the same of a path. ValueError naming a variable that is not set."""
    return Path(expanded(str(path)))
