"""What the caches of the data sets hold, by data set, kind and age; and how to free them.

A cache holds what can be made anew: preprocessed arrays (one folder per preprocessing), downloaded
label files, the slices of a remote archive and its index.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hemseg_cli.config import Config
from hemseg_cli.core.console import Table
from hemseg_cli.core.data_directory import DataDirectory

CacheKind = Literal["preprocessed", "older preprocessing", "label files", "slices", "slice index"]

_FOLDERS: dict[str, CacheKind] = {
    "source": "label files",
    "slices": "slices",
    "zip-index": "slice index",
}
_SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class CacheEntry:
    """One folder of a data set's cache. `age_days`: since a file in it was last written."""

    dataset: str
    kind: CacheKind
    path: Path
    files: int
    bytes: int
    age_days: float


@dataclass(frozen=True)
class CleanResult:
    """What the caches hold, and what was freed of it.

    `failures`: folder -> why it could not be removed.
    """

    entries: tuple[CacheEntry, ...]
    removed: bool
    failures: dict[str, str]

    @property
    def failed(self) -> bool:
        """Whether a folder could not be removed."""
        return bool(self.failures)

    @property
    def bytes(self) -> int:
        """The size of all entries."""
        return sum(entry.bytes for entry in self.entries)

    @property
    def bytes_freed(self) -> int:
        """The size of what was removed."""
        if not self.removed:
            return 0
        gone = (entry for entry in self.entries if str(entry.path) not in self.failures)
        return sum(entry.bytes for entry in gone)

    def payload(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "bytes": self.bytes,
            "bytes_freed": self.bytes_freed,
            "entries": [
                {
                    "dataset": entry.dataset,
                    "kind": entry.kind,
                    "path": str(entry.path),
                    "files": entry.files,
                    "bytes": entry.bytes,
                    "age_days": round(entry.age_days, 2),
                }
                for entry in self.entries
            ],
            "failures": self.failures,
        }

    def tables(self) -> list[Table]:
        """Return the result for a person."""
        rows = [
            [
                entry.dataset,
                entry.kind,
                f"{entry.files:,}",
                gigabytes(entry.bytes),
                f"{entry.age_days:.0f} days",
                str(entry.path),
            ]
            for entry in self.entries
        ]
        columns = ["data set", "what", "files", "size", "age", "folder"]
        caption = f"{gigabytes(self.bytes)} in all, safe to delete"
        if self.removed:
            caption = f"{gigabytes(self.bytes_freed)} freed"
        tables = [
            Table("Caches", columns, rows, caption, right=frozenset({"files", "size", "age"}))
        ]
        if self.failures:
            reasons = [list(pair) for pair in self.failures.items()]
            tables.append(Table("Not removed", ["folder", "reason"], reasons))
        return tables


def clean(
    config: Config,
    *,
    remove: bool,
    dataset: str | None = None,
    older_than_days: float = 0.0,
) -> CleanResult:
    """List the caches below `data.root`, or of one data set; `remove` frees them.

    Only folders that were last written before `older_than_days` count.
    """
    entries = [
        entry
        for entry in list_caches(config.data.root)
        if dataset in (None, entry.dataset) and entry.age_days >= older_than_days
    ]
    failures = remove_caches(entries) if remove else {}
    return CleanResult(tuple(entries), remove, failures)


def list_caches(root: Path) -> list[CacheEntry]:
    """List the cache folders of every data set below `root`, the largest first."""
    entries: list[CacheEntry] = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.is_dir():
            entries += list_data_set_caches(DataDirectory(folder))
    return sorted(entries, key=lambda entry: (-entry.bytes, str(entry.path)))


def list_data_set_caches(data: DataDirectory) -> list[CacheEntry]:
    """List the cache folders of one data set.

    Of several preprocessings the one written last counts as in use, the others as older.
    """
    if not data.cache.is_dir():
        return []

    # A link may lead out of the cache: what is behind it is neither counted nor removed.
    measured = [
        (path, *_measure(path))
        for path in sorted(data.cache.iterdir())
        if path.is_dir() and not path.is_symlink()
    ]

    # The preprocessing that was written last is the one that a training uses.
    preprocessed = [(age, path) for path, _, _, age in measured if path.name not in _FOLDERS]
    newest = min(preprocessed)[1] if preprocessed else None

    entries = []
    for path, files, size, age in measured:
        own: CacheKind = "preprocessed" if path == newest else "older preprocessing"
        kind = _FOLDERS.get(path.name, own)
        entries.append(CacheEntry(data.path.name, kind, path, files, size, age))
    return entries


def remove_caches(entries: Sequence[CacheEntry]) -> dict[str, str]:
    """Remove these folders; return those that could not be removed, with the reason."""
    failures = {}
    for entry in entries:
        try:
            shutil.rmtree(entry.path)
        except OSError as error:
            failures[str(entry.path)] = error.strerror or str(error)
    return failures


def folder_bytes(folder: Path) -> int:
    """Sum the sizes of the files below a folder; links are not followed."""
    return _measure(folder)[1]


def gigabytes(count: int) -> str:
    """Write a number of bytes as GB, or as MB below half a GB."""
    return f"{count / 1e9:.1f} GB" if count >= 5e8 else f"{count / 1e6:.1f} MB"


def _measure(folder: Path) -> tuple[int, int, float]:
    """Count files, bytes and days since the last writing; a file that goes meanwhile is none."""
    files = size = 0
    newest_s = 0.0
    for file in _files(folder):
        try:
            state = file.lstat()
        except OSError:
            continue
        files, size = files + 1, size + state.st_size
        newest_s = max(newest_s, state.st_mtime)
    if not files:
        return 0, 0, 0.0
    return files, size, max(0.0, time.time() - newest_s) / _SECONDS_PER_DAY


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
