"""Names from tables, archives and file systems: which may name files, and how many are shown."""

from collections.abc import Sequence

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.printable import printable

MOST_CHARACTERS = 120
"""The longest scan id, in characters: names built from it stay below the 255 bytes of a file."""


def check_scan_id(text: str, *, place: str) -> str:
    """Return `text` if it may name files: letters, digits, `.`, `_` and `-`, no leading dot.

    `place` says where it stands (file, line, column). FileFormatError names both.
    """
    return check_name(text, what="scan id", place=place)


def check_split(text: str, *, place: str) -> str:
    """Return `text` if it may name the folder of a split ("" for a case without one).

    FileFormatError otherwise, as `check_scan_id`.
    """
    return check_name(text, what="split", place=place) if text else text


def check_name(text: str, *, what: str, place: str) -> str:
    """Return `text` if it may name a file or folder; FileFormatError calls it `what`."""
    # A name becomes part of a path, so that "..", "/" and "\" would lead out of the folder.
    good = bool(text) and not text.startswith(".")
    if good and all(character.isalnum() or character in "._-" for character in text):
        if len(text) <= MOST_CHARACTERS:
            return text
        raise FileFormatError(
            f"{place}: a {what} of {len(text)} characters ({printable(text[:20])}...)",
            hint=f"at most {MOST_CHARACTERS} characters",
        )
    raise FileFormatError(
        f"{place}: {printable(text)!r} is not a {what}",
        hint="letters, digits, '.', '_' and '-', not beginning with '.'",
    )


def first_few(items: Sequence[object], most: int = 5) -> str:
    """Name the first items and count the others: "a, b, c and 4 more"."""
    named = ", ".join(str(item) for item in items[:most])
    return f"{named} and {len(items) - most} more" if len(items) > most else named


def counted(number: int, word: str) -> str:
    """Return "1 scan" or "2 scans"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def duration_text(seconds: float) -> str:
    """Show a time as `12 s`, `3 min` or `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
