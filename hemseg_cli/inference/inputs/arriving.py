"""Tell which studies have arrived whole in watched folders (`hemseg predict --watch`).

A study is an entry of a watched folder: a folder, a zip, an image file, or all DICOM slices that
lie loose in it together. It counts as whole when no file of it was added, grew or changed its time
for a while; one that changes later is given again.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hemseg_cli.imaging.file_kind import Kind, file_kind
from hemseg_cli.imaging.file_names import IMAGE_SUFFIXES
from hemseg_cli.inference.inputs.finding import WRITTEN_BY_US


@dataclass(frozen=True)
class Study:
    """An entry of a watched folder; `is_loose`: the DICOM slices that lie in `path` itself."""

    path: Path
    is_loose: bool = False


@dataclass(frozen=True)
class _State:
    """What the file system says of a study: files, bytes, the newest time of change."""

    files: int = 0
    bytes: int = 0
    changed_ns: int = 0

    def __add__(self, other: "_State") -> "_State":
        return _State(
            self.files + other.files,
            self.bytes + other.bytes,
            max(self.changed_ns, other.changed_ns),
        )


@dataclass
class Arrivals:
    """Watches folders; every `look` gives the studies that have become whole since the last one.

    `settle_s`: for how long a study has to be unchanged. What matters is what this process has
    seen: times of files on another machine's disk are compared with each other alone. `but_not`:
    the folder of outputs, which may lie in a watched one.
    """

    folders: Sequence[Path]
    settle_s: float
    but_not: Path
    _seen: dict[Study, tuple[_State, float]] = field(default_factory=dict)
    _given: dict[Study, _State] = field(default_factory=dict)
    _kinds: dict[Path, tuple[_State, Kind | None]] = field(default_factory=dict)

    def look(self, now_s: float) -> list[Study]:
        """Return the studies that are whole now and were not given before as they are.

        `now_s`: the time of a clock that only goes forward.
        """
        states = self._states()
        whole = []
        for study, state in states.items():
            before, since_s = self._seen.get(study, (None, now_s))
            if state != before:
                since_s = now_s
            self._seen[study] = (state, since_s)

            if now_s - since_s >= self.settle_s and self._given.get(study) != state:
                self._given[study] = state
                whole.append(study)

        # What was taken away is forgotten, so that memory does not grow with the days.
        for gone in self._seen.keys() - states.keys():
            del self._seen[gone]
            self._given.pop(gone, None)
        self._kinds = {path: kind for path, kind in self._kinds.items() if path.exists()}
        return sorted(whole, key=lambda study: study.path)

    def _states(self) -> dict[Study, _State]:
        states: dict[Study, _State] = {}
        for folder in self.folders:
            for entry in _entries(folder):
                if entry.is_dir():
                    if entry.resolve() != self.but_not.resolve():
                        states[Study(entry)] = _state_of_tree(entry)
                    continue
                state = _state_of_file(entry)
                kind = self._kind_of(entry, state)
                if kind is None:
                    continue
                study = Study(folder, is_loose=True) if kind is Kind.DICOM else Study(entry)
                states[study] = states.get(study, _State()) + state
        return {study: state for study, state in states.items() if state.files}

    def _kind_of(self, file: Path, state: _State) -> Kind | None:
        """What a file is, None where it is no scan; it is opened once for each of its states."""
        known = self._kinds.get(file)
        if known is None or known[0] != state:
            found = file_kind(file)
            is_scan = found.is_volume or found.kind in (Kind.ZIP, Kind.DICOM)
            # A broken file of such a name was meant to be a scan, and fails when it is read.
            is_scan |= file.name.lower().endswith(IMAGE_SUFFIXES)
            is_scan &= not file.name.endswith(WRITTEN_BY_US)
            known = self._kinds[file] = (state, found.kind if is_scan else None)
        return known[1]


def _entries(folder: Path) -> list[Path]:
    """The entries of a folder without hidden ones; none while the folder cannot be read."""
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:  # a network drive that is away for a moment
        return []


def _state_of_file(file: Path) -> _State:
    try:
        status = file.stat()
    except OSError:  # renamed or taken away meanwhile
        return _State()
    return _State(1, status.st_size, status.st_mtime_ns)


def _state_of_tree(folder: Path) -> _State:
    total = _State()
    for place, _, names in os.walk(folder):
        for name in names:
            total += _state_of_file(Path(place) / name)
    return total
