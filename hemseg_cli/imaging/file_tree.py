"""Every file of a folder tree, links followed, and why each other entry is left out."""

import stat
from dataclasses import dataclass
from pathlib import Path

_HIDDEN = "hidden (its name begins with a dot)"
_MOST_ENTRIES = 2_000_000


@dataclass(frozen=True)
class FolderFiles:
    """Hold the regular files of a tree in order of name, and the reason for each other entry.

    Two names of one content are two files; a folder that two names lead to is read once.
    """

    files: tuple[Path, ...]
    left_out: dict[Path, str]


def walk_files(root: Path) -> FolderFiles:
    """List a folder tree. Links to folders are followed, loops end, nothing is opened."""
    files: list[Path] = []
    left_out: dict[Path, str] = {}
    seen: set[tuple[int, int]] = set()
    linked: list[Path] = []

    # Folders that are really here come first, so that a link never takes the name of one.
    _walk(root, files, left_out, seen, linked)
    while linked:
        _walk(linked.pop(0), files, left_out, seen, linked)
    return FolderFiles(tuple(sorted(files)), dict(sorted(left_out.items())))


def _walk(
    folder: Path,
    files: list[Path],
    left_out: dict[Path, str],
    seen: set[tuple[int, int]],
    linked: list[Path],
) -> None:
    waiting = [folder]
    while waiting and len(files) < _MOST_ENTRIES:
        current = waiting.pop()
        try:
            status = current.stat()
            place = (status.st_dev, status.st_ino)
            entries = sorted(current.iterdir(), reverse=True) if place not in seen else []
        except OSError as error:
            left_out[current] = f"a folder that cannot be read ({error.strerror or error})"
            continue
        if place in seen:
            left_out[current] = "a link to a folder that is read already"
            continue

        seen.add(place)
        for entry in entries:
            if entry.name.startswith("."):
                left_out[entry] = _HIDDEN
            elif reason := _why_no_file(entry):
                left_out[entry] = reason
            elif not entry.is_dir():
                files.append(entry)
            elif entry.is_symlink():
                linked.append(entry)
            else:
                waiting.append(entry)


def _why_no_file(entry: Path) -> str:
    """Say why an entry is neither a folder nor a regular file; empty where it is one."""
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        if entry.is_symlink():
            return "a link that leads nowhere"
        return f"cannot be read ({error.strerror or error})"
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket, no regular file"
