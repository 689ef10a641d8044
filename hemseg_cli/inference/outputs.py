"""Where the outputs of a scan go, what was done already, and the record of it that makes a second call do only what is missing.

Each scan has a record `.cases/<name>.json` in the output folder: a claim ("this name is that
input's") is written before the mask, the finished record after every output. Killed in between, the
claim says that the files under the name are ours to write again.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.errors import CaseError, HemsegError
from hemseg_cli.core.files import write_text
from hemseg_cli.inference.inputs.finding import ScanInput
from hemseg_cli.inference.measures import write_lesions, write_volumes

_RECORDS = ".cases"
_OUTPUT_KEYS = {"format", "save_probabilities", "previews", "split", "checkpoint"}


@dataclass(frozen=True)
class OutputFolder:
    """The names in one folder of predictions.

    `suffix`: what stands behind a scan's name in the mask's (none inside a run).
    """

    path: Path
    suffix: str = ""

    def mask(self, name: str) -> Path:
        """The mask of a scan."""
        return self.path / f"{name}{self.suffix}.nii.gz"

    def segmentation(self, name: str) -> Path:
        """The mask of a scan as DICOM SEG."""
        return self.path / f"{name}{self.suffix}.dcm"

    def probability(self, name: str) -> Path:
        """The probabilities of a scan."""
        return self.path / "probability" / f"{name}_probability.nii.gz"

    def preview(self, name: str) -> Path:
        """The picture of a scan."""
        return self.path / "preview" / f"{name}.png"

    def record(self, name: str) -> Path:
        """What was done for a scan."""
        return self.path / _RECORDS / f"{name}.json"

    def expected(self, name: str, config: PredictConfig) -> list[Path]:
        """Every file that a scan gets."""
        files = [self.mask(name)]
        files += [self.segmentation(name)] if config.format == "dicom-seg" else []
        files += [self.probability(name)] if config.save_probabilities else []
        return files + ([self.preview(name)] if config.previews else [])


def settings_hash_of(checkpoints: Sequence[Path], config: PredictConfig) -> str:
    """What a mask depends on besides its scan: the checkpoint files and the settings."""
    files = [
        (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in checkpoints
    ]
    text = json.dumps([files, config.model_dump(mode="json", exclude=_OUTPUT_KEYS)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_done(
    folder: OutputFolder, source: ScanInput, config: PredictConfig, settings_hash: str
) -> bool:
    """Whether all outputs of the scan are there, made from this very input with these networks and settings."""
    record = read_record(folder, source.name)
    return (
        record.get("done") is True
        and record.get("settings") == settings_hash
        and record.get("source") == identity(source)
        and all(file.is_file() for file in folder.expected(source.name, config))
    )


def claim(
    folder: OutputFolder,
    source: ScanInput,
    settings_hash: str,
    *,
    inputs: frozenset[Path],
    force: bool,
) -> None:
    """Say that the name is this input's.

    CaseError if the output would overwrite an input, another input's mask, or somebody's file.
    """
    mask, record = folder.mask(source.name), read_record(folder, source.name)
    if mask.resolve() in inputs:
        raise CaseError(
            f"{mask} is an input: its mask is not written over it",
            hint="--out FOLDER names another folder",
        )
    other = record.get("source", {}).get("path")
    if other is not None and other != identity(source)["path"] and not force:
        raise CaseError(
            f"{mask} is the mask of {other}, not of {source.path}",
            hint="--out FOLDER names another folder; --force replaces it",
        )
    if other is None and folder.suffix and mask.exists() and not force:
        raise CaseError(
            f"{mask} exists and was not made by hemseg predict",
            hint="--out FOLDER names another folder; --force replaces it",
        )
    _clear(folder, source.name)
    write_record(
        folder, source.name, {"done": False, "settings": settings_hash, "source": identity(source)}
    )


def _clear(folder: OutputFolder, name: str) -> None:
    """Remove what a killed call left half-written for this scan."""
    for file in (
        folder.mask(name),
        folder.segmentation(name),
        folder.probability(name),
        folder.preview(name),
        folder.record(name),
    ):
        _remove_partial(file)


def _remove_partial(file: Path) -> None:
    for partial in file.parent.glob(f".*.part.{glob.escape(file.name)}"):
        partial.unlink(missing_ok=True)


def identity(source: ScanInput) -> dict[str, Any]:
    """The input as a record names it: path, size in bytes and time of change (of a series.

    Of its files together).
    """
    try:
        states = [file.stat() for file in source.files]
    except OSError as error:
        raise HemsegError(f"cannot read {source.path}: {error.strerror}") from None
    size, changed = (
        sum(state.st_size for state in states),
        max((state.st_mtime_ns for state in states), default=0),
    )
    series = (
        {"series": source.series.name, "uneven": source.uneven} if source.series is not None else {}
    )
    return {"path": str(source.path.resolve()), "bytes": size, "changed_ns": changed, **series}


def read_record(folder: OutputFolder, name: str) -> dict[str, Any]:
    """The record of a scan; empty where there is none that can be read."""
    try:
        record = json.loads(folder.record(name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: OutputFolder, name: str, record: Mapping[str, Any]) -> None:
    """Write the record of a scan."""
    write_text(folder.record(name), json.dumps(record, indent=1) + "\n")


def finished_records(folder: OutputFolder) -> list[dict[str, Any]]:
    """The records of every scan in the folder whose mask is there, by name."""
    records = [
        read_record(folder, path.stem) for path in sorted((folder.path / _RECORDS).glob("*.json"))
    ]
    return [
        record
        for record in records
        if record.get("done") is True and folder.mask(record["volumes"]["scan"]).is_file()
    ]


def rebuild_volumes(folder: OutputFolder) -> Path:
    """Write `volumes.csv` (its path is returned) and `lesions.csv` anew from the records of all scans, also those of other calls."""
    with _alone(folder.path / _RECORDS):
        path = folder.path / "volumes.csv"
        for table in (path, folder.path / "lesions.csv"):
            _remove_partial(table)
        records = finished_records(folder)
        write_volumes(path, [record["volumes"] for record in records])
        write_lesions(
            folder.path / "lesions.csv", [row for record in records for row in record["lesions"]]
        )
    return path


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Parts that end at the same time write the table one after the other, the last with all rows."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
