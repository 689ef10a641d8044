"""Load, orient, resample and normalise each scan once, into a cache that patches are cut from.

`<cache>/<settings>/<scan>-<files>/` holds `image.npy`, `label.npy`, `foreground.npy`
and `grid.json`. The two fingerprints are of the preprocessing settings and of the input files
(path, size, time of change): what changes in either makes a new entry. An entry is written under a
temporary name and renamed. The folder is safe to delete.

The cache lies in the data set, or where `data.cache` says, or, for a data set that nobody can write
to, in the user's cache folder. A memory map lives as long as the array that was asked for: the
number of open files does not grow with the number of scans.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core import console
from hemseg_cli.core.cases import Case
from hemseg_cli.core.classes import LabelClass, read_classes
from hemseg_cli.core.errors import CaseError, HemsegError
from hemseg_cli.core.executor import map_cases
from hemseg_cli.core.files import cannot_write, remove_leftovers, temporary_path
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.imaging.nifti import Volume, read_volume
from hemseg_cli.imaging.orientation import Reorientation, match_axes
from hemseg_cli.imaging.preprocess import (
    HuWindow,
    NetworkGrid,
    Preprocess,
    prepare_image,
    prepare_label,
)
from hemseg_cli.training.class_channels import ONE_CLASS, ClassChannels, channels_of

if TYPE_CHECKING:
    from hemseg_cli.config import Config
    from hemseg_cli.config.schema import TrainConfig

StoredType = Literal["float16", "float32"]
_FINGERPRINT_DIGITS = 12  # hexadecimal
_LAYOUT = 3  # counted up when what is stored changes its meaning


@dataclass(frozen=True)
class PreparedCase:
    """One scan in the cache.

    Each array is a memory map that is opened when it is asked for and closed with its last view.
    `value_voxels`: each value of the label with its number of voxels, ascending. `data_folder`: the
    data set's. `channels`: what the values mean to the run.
    """

    scan: str
    folder: Path
    grid: NetworkGrid
    case: Case
    foreground_voxels: int
    value_voxels: tuple[tuple[int, int], ...]
    data_folder: Path
    channels: ClassChannels = ONE_CLASS

    @property
    def image(self) -> NDArray[Any]:
        """Memory map, float16 or float32 [c, i, j, k], normalised."""
        return _map(self.folder / "image.npy")

    @property
    def label(self) -> NDArray[np.uint8]:
        """Memory map, uint8 [i, j, k], with the values of the data set's classes."""
        return _map(self.folder / "label.npy")

    @property
    def foreground(self) -> NDArray[np.int32]:
        """Flat indices into [i, j, k] of the labelled voxels, by value and place."""
        return _map(self.folder / "foreground.npy")

    def class_voxels(self, channel: int) -> int:
        """Count the voxels of a class of the run; 0 where the data set does not label it."""
        values = self.channels.values[channel] or ()
        return sum(count for value, count in self.value_voxels if value in values)

    def class_voxel(self, channel: int, number: int) -> int:
        """Return the flat index of voxel `number`, from 0, of a class of the run."""
        values, start = self.channels.values[channel] or (), 0
        for value, count in self.value_voxels:
            if value in values:
                if number < count:
                    return int(self.foreground[start + number])
                number -= count
            start += count
        raise IndexError(number)

    @property
    def truth_ml(self) -> float:
        """The true volume by the case table, or by the network's grid where the table has none."""
        if self.case.truth_ml is not None:
            return self.case.truth_ml
        return self.foreground_voxels * math.prod(self.grid.spacing_mm) / 1000

    @property
    def shape(self) -> tuple[int, int, int]:
        """[i, j, k] on the network's grid."""
        return self.grid.shape


@dataclass(frozen=True)
class _Task:
    case: Case
    data_folder: Path
    entry: Path
    preprocess: Preprocess
    stored_type: StoredType
    values: tuple[int, ...]


def preprocess_of(train: "TrainConfig") -> Preprocess:
    """The preprocessing that the keys of `[train]` describe."""
    x, y, z = (step or None for step in train.spacing_mm)
    windows = tuple(
        HuWindow.unit(*window) if len(window) == 2 else HuWindow(*window)
        for window in train.windows
    )
    return Preprocess(
        (x, y, z), windows, train.keep_spacing_within, train.grid_alignment, train.thin_slices
    )


def prepared_cases(
    config: "Config",
    cases: Sequence[Case],
    preprocess: Preprocess,
    classes: Sequence[LabelClass] | None = None,
) -> list[PreparedCase]:
    """The cases in the cache, in the order given.

    Those that are not there yet are made, in parallel. `classes`: those of the run (None: the data
    set's own).

    HemsegError names every scan that could not be preprocessed; with `train.skip_bad_scans` they
    are left out with a warning, as long as some are left.
    """
    cache = cache_folder(config) / _settings_fingerprint(preprocess, config.train.stored_type)

    remove_leftovers(cache, below=False)  # of trainings that were killed here
    tasks, failures = _tasks(config, cases, preprocess, cache)
    missing = [task for task in tasks if not _is_whole(task.entry)]
    outcomes = map_cases(
        _prepare, missing, workers=config.compute.workers, scheduler=config.compute.scheduler
    )
    for outcome in console.progress(outcomes, label="preprocessing", total=len(missing)):
        if outcome.is_unwritable:
            # No scan is at fault, and to leave some out would not help.
            raise HemsegError(f"{outcome.error}", hint=outcome.hint)
        if not outcome.ok:
            failures[outcome.item.case.scan] = f"{outcome.error}"

    _report_failures(
        failures, skip=config.train.skip_bad_scans, some_left=len(failures) < len(cases)
    )
    own = read_classes(config.data.directory)
    channels = channels_of(classes or own, own)
    prepared = [
        PreparedCase(
            task.case.scan,
            task.entry,
            **_read_grid(task.entry),
            case=task.case,
            data_folder=config.data.folder,
            channels=channels,
        )
        for task in tasks
        if task.case.scan not in failures
    ]
    _warn_of_empty(prepared)
    return prepared


def cache_folder(config: "Config") -> Path:
    """Choose the folder of the data set's cache, and make it.

    `data.cache`, if it is set, else `.cache` in the data set; where that cannot be written to, the
    user's cache folder, which is said.
    """
    data = config.data.folder.resolve()
    # Two data sets of one name do not share entries: their place is part of the folder's name.
    own_name = f"{data.name}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:8]}"
    if config.data.cache is not None:
        return config.data.cache.expanduser().resolve() / own_name
    if _can_write(data / ".cache"):
        return data / ".cache"
    fallback = _user_cache_folder() / own_name
    console.say(f"{data} cannot be written to: preprocessed scans go to {fallback} (data.cache)")
    return fallback


def _can_write(folder: Path) -> bool:
    """Whether files can be made in the folder. Any other fault is told by the one who writes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS)


def _user_cache_folder() -> Path:
    """Find `$XDG_CACHE_HOME/hemseg` or `~/.cache/hemseg`, for a user without home in /tmp."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(named) if named else Path.home() / ".cache"
    except RuntimeError:  # a user id without a passwd entry, as in `docker --user`
        base = Path(tempfile.gettempdir())
    if not _can_write(base / "hemseg"):
        base = Path(tempfile.gettempdir())
    return base / "hemseg"


def _tasks(
    config: "Config", cases: Sequence[Case], preprocess: Preprocess, cache: Path
) -> tuple[list[_Task], dict[str, str]]:
    tasks, failures = [], {}
    folder = config.data.folder.resolve()  # a worker may stand in another folder
    values = tuple(each.value for each in read_classes(config.data.directory))
    for case in cases:
        try:
            entry = cache / f"{case.scan}-{_input_fingerprint(folder, case)}"
        except CaseError as error:
            failures[case.scan] = error.message
            continue
        tasks.append(_Task(case, folder, entry, preprocess, config.train.stored_type, values))
    return tasks, failures


def _settings_fingerprint(preprocess: Preprocess, stored_type: StoredType) -> str:
    text = json.dumps(
        {"layout": _LAYOUT, "type": stored_type, **preprocess.to_dict()}, sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_DIGITS]


def _input_fingerprint(folder: Path, case: Case) -> str:
    parts = []
    for what, name in (("image", case.image), ("label", case.label)):
        if not name:
            raise CaseError(f"no {what} in the case table")
        try:
            status = (folder / name).stat()
        except OSError as error:
            raise CaseError(f"{what} {folder / name}: {error.strerror}") from None
        parts += [name, status.st_size, status.st_mtime_ns]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_FINGERPRINT_DIGITS]


def _prepare(task: _Task) -> None:
    """Preprocess one scan and put it into the cache.

    CaseError or FileFormatError: the scan cannot be trained on.
    """
    image = read_volume(task.data_folder / task.case.image)
    label = read_label(task.data_folder / task.case.label)
    label = match_axes(label, image.array.shape, image.affine)
    _check_pair(task, image, label)
    array, grid = prepare_image(image, task.preprocess)
    mask = prepare_label(label, task.preprocess)
    temporary = temporary_path(task.entry)
    try:
        temporary.mkdir(parents=True)
        np.save(temporary / "image.npy", array.astype(task.stored_type, copy=False))
        np.save(temporary / "label.npy", mask)
        foreground, voxels = _by_value(mask)
        np.save(temporary / "foreground.npy", foreground)
        values = {
            **asdict(grid),
            "foreground_voxels": len(foreground),
            "value_voxels": voxels,
        }
        (temporary / "grid.json").write_text(json.dumps(values), encoding="utf-8")
        _replace(temporary, task.entry)
    except OSError as error:
        raise cannot_write(task.entry, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _by_value(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int32], list[tuple[int, int]]]:
    """The flat indices of the labelled voxels, sorted by value, and the number for each value."""
    flat = np.flatnonzero(mask).astype(np.int32)
    values = mask.reshape(-1)[flat]
    counts = np.bincount(values, minlength=1)
    # A stable sort keeps the voxels of one value in order of place.
    order = np.argsort(values, kind="stable")
    return flat[order], [(int(value), int(counts[value])) for value in np.flatnonzero(counts)]


def _replace(temporary: Path, entry: Path) -> None:
    """Rename a folder into place.

    Older entries of the scan go; a damaged one of the same name too.
    """
    scan = entry.name.rpartition("-")[0]
    # `a-1` is a scan too: the fingerprint behind the id is matched, not anything.
    entry_of_scan = re.compile(rf"{re.escape(scan)}-[0-9a-f]{{{_FINGERPRINT_DIGITS}}}")
    for old in entry.parent.iterdir():
        if not entry_of_scan.fullmatch(old.name):
            continue
        if old.name != entry.name or not _is_whole(old):
            shutil.rmtree(old, ignore_errors=True)
    if not entry.exists():  # else another process has just made the same
        temporary.rename(entry)


def _check_pair(task: _Task, image: Volume, label: Volume) -> None:
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        bad = int(np.count_nonzero(~np.isfinite(image.array)))
        raise CaseError(
            f"image {task.case.image} has {bad} voxels that are not numbers (NaN or infinite)"
        )
    values = np.unique(label.array)
    if not np.isin(values, (0, *task.values)).all():
        shown = ", ".join(f"{value:g}" for value in values[:6])
        wanted = ", ".join(str(value) for value in task.values[:-1])
        wanted = f"0{', ' if wanted else ''}{wanted} and {task.values[-1]} alone"
        raise CaseError(
            f"label {task.case.label} has the values {shown}{' ...' if len(values) > 6 else ''}, "
            f"not {wanted}"
        )


def _report_failures(failures: dict[str, str], *, skip: bool, some_left: bool) -> None:
    if not failures:
        return
    named = "\n".join(f"  {scan}: {reason}" for scan, reason in sorted(failures.items()))
    if skip and some_left:
        console.warn(f"training goes on without {len(failures)} scans:\n{named}")
        return
    raise HemsegError(
        f"{len(failures)} scans cannot be preprocessed:\n{named}",
        hint="hemseg doctor --data   says what is wrong with the whole data set\n  "
        "--set train.skip_bad_scans=true   trains without them",
    )


def _warn_of_empty(prepared: Sequence[PreparedCase]) -> None:
    empty = [case.scan for case in prepared if not case.foreground_voxels]
    if empty:
        console.warn(
            f"{len(empty)} labels have no hemorrhage: {', '.join(empty[:10])}"
            f"{' ...' if len(empty) > 10 else ''}"
        )


def _is_whole(entry: Path) -> bool:
    """Whether an entry can be used: opening a map fails on a file that is cut off."""
    try:
        for name in ("image.npy", "label.npy", "foreground.npy"):
            _map(entry / name)
        _read_grid(entry)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _map(file: Path) -> NDArray[Any]:
    # numpy cannot map an empty file: no foreground is an ordinary array.
    array = (
        np.load(file, mmap_mode="r", allow_pickle=False)
        if file.stat().st_size > 128
        else np.load(file, allow_pickle=False)
    )
    return np.asarray(array) if array.size == 0 else array


def _read_grid(entry: Path) -> dict[str, Any]:
    """The fields of a `PreparedCase` that `grid.json` holds."""
    values = json.loads((entry / "grid.json").read_text(encoding="utf-8"))
    change, voxels = values.pop("reorientation"), int(values.pop("foreground_voxels"))
    by_value = tuple((int(value), int(count)) for value, count in values.pop("value_voxels"))
    tuples = {key: tuple(value) for key, value in values.items()}
    reorientation = Reorientation(tuple(change["axes"]), tuple(change["flipped"]))
    return {
        "grid": NetworkGrid(**tuples, reorientation=reorientation),
        "foreground_voxels": voxels,
        "value_voxels": by_value,
    }
