"""Record what was done for each scan, so that a second call does only what is missing.

Each scan has a record `.cases/<name>.json` in the output folder. A claim ("this process makes that
input's mask under this name") is written before the mask, the finished record after every output.
Killed in between, the claim of a process that is gone says that the files are ours to write again.
Records name inputs relative to the folder and by their content: a copied or moved project holds.
"""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.errors import CaseError, HemsegError
from hemseg_cli.core.files import file_lock, write_text
from hemseg_cli.core.printable import printable
from hemseg_cli.inference.formats import chosen_formats
from hemseg_cli.inference.inputs.scan_input import ScanInput
from hemseg_cli.inference.measures import LesionRow, ScanMeasures, write_lesions, write_volumes
from hemseg_cli.inference.outputs import OutputFolder

# Keys of `[predict]` that decide which files are written, not what is in the mask.
_OUTPUT_KEYS = {
    "format",
    "save_probabilities",
    "upright",
    "settle_s",
    "previews",
    "name_by",
    "split",
    "checkpoint",
}
_END_BYTES = 2**20
_START_TOLERANCE_S = 2.0
_LOCK_WAIT_S = 60.0


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Identity(_Plain):
    """An input as a record names it: relative path, bytes, time of change, hash of the content."""

    path: str
    bytes: int
    changed_ns: int
    content: str
    series: str = ""

    def is_same(self, other: "Identity") -> bool:
        """Whether both are the same scan, wherever it lies now, read in the same way."""
        ours, theirs = ((one.bytes, one.content, one.series) for one in (self, other))
        return ours == theirs


class Process(_Plain):
    """A process by machine, number and start: numbers alone are given again."""

    machine: str
    number: int
    started_s: float

    def is_living(self) -> bool:
        """Whether it still runs; one of another machine, which cannot be seen, counts as gone."""
        if self.machine != platform.node():
            return False
        try:
            started_s = float(psutil.Process(self.number).create_time())
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # it lives, but is somebody else's
            return True
        return abs(started_s - self.started_s) <= _START_TOLERANCE_S


class Record(_Plain):
    """What was done for one scan; `process` claims it, `done` says that all outputs stand."""

    done: bool
    settings: str
    source: Identity
    process: Process | None = None
    network_mask: bool = False
    volumes: ScanMeasures | None = None
    lesions: tuple[LesionRow, ...] = ()
    warnings: tuple[str, ...] = ()


class Claim(Enum):
    """Whose a scan is: ours to predict, another process's at this moment, done, or no scan."""

    OURS = "ours"
    ELSEWHERE = "elsewhere"
    DONE = "done"
    LABEL_MAP = "label map"


def settings_hash_of(checkpoints: Sequence[Path], config: PredictConfig) -> str:
    """Return a hash of what a mask depends on beside its scan: checkpoint files and settings."""
    digest = hashlib.sha256()
    for path in checkpoints:
        digest.update(_archive_hash(path).encode())
    digest.update(config.model_dump_json(exclude=_OUTPUT_KEYS).encode())
    return digest.hexdigest()[:16]


def identity(source: ScanInput, folder: OutputFolder) -> Identity:
    """Return the input as a record names it; HemsegError where it cannot be read.

    A series is named by its folder, and hashed over all of its files.
    """
    state = _state(source, folder)
    try:
        return state.model_copy(update={"content": _content_hash(source.files)})
    except OSError as error:
        raise _cannot_read(source, error) from None


def _state(source: ScanInput, folder: OutputFolder) -> Identity:
    """The identity without the hash of the content: what the file system says."""
    try:
        states = [file.stat() for file in source.files]
    except OSError as error:
        raise _cannot_read(source, error) from None

    return Identity(
        path=printable(_relative(source.path, folder.path)),
        bytes=sum(state.st_size for state in states),
        changed_ns=max((state.st_mtime_ns for state in states), default=0),
        content="",
        series=printable(source.series.name) if source.series is not None else "",
    )


def _cannot_read(source: ScanInput, error: OSError) -> HemsegError:
    if isinstance(error, FileNotFoundError):
        # What was typed is looked for on the disk; an image of a split is made by a command.
        hint = "" if source.named else "hemseg convert   makes the images of a data set"
        return CaseError(f"{source.path} does not exist", hint=hint)
    return HemsegError(f"cannot read {source.path}: {error.strerror or error}")


def is_done(
    folder: OutputFolder, source: ScanInput, config: PredictConfig, settings_hash: str
) -> bool:
    """Whether every output of the scan stands, made from this input with these settings."""
    record = read_record(folder, source.name)
    return record is not None and _is_done(record, folder, source, config, settings_hash)


def _is_done(
    record: Record,
    folder: OutputFolder,
    source: ScanInput,
    config: PredictConfig,
    settings_hash: str,
) -> bool:
    name = source.name
    wanted = [folder.output(name, row) for row in chosen_formats(config.format)]
    wanted += [folder.network_mask(name)] if record.network_mask else []
    wanted += [folder.probability(name)] if config.save_probabilities else []
    wanted += [folder.upright_image(name), folder.upright_mask(name)] if config.upright else []
    wanted += [folder.preview(name)] if config.previews else []

    if not record.done or record.settings != settings_hash:
        return False
    return all(file.exists() for file in wanted) and _is_input_of(record, folder, source)


def _is_input_of(record: Record, folder: OutputFolder, source: ScanInput) -> bool:
    """Whether the record was made from this input; its content is read where it may differ."""
    known, now = record.source, _state(source, folder)
    unchanged = now == known.model_copy(update={"content": ""})
    return unchanged or known.is_same(identity(source, folder))


def claim(
    folder: OutputFolder,
    source: ScanInput,
    config: PredictConfig,
    settings_hash: str,
    inputs: frozenset[Path],
    *,
    force: bool,
) -> Claim:
    """Say that this process makes this input's mask, unless another one does or did.

    CaseError if the output would overwrite an input, another input's mask, or somebody's file.
    """
    mask, own = folder.mask(source.name), identity(source, folder)
    if mask.resolve() in inputs:
        raise CaseError(
            f"{mask} is an input: its mask is not written over it",
            hint="--out FOLDER names another folder",
        )

    with _alone(folder):
        record = read_record(folder, source.name)
        if record is not None and not record.source.is_same(own) and not force:
            _refuse_other_input(record, folder, source, own)
        if record is not None and record.process is not None and _is_others(record.process):
            return Claim.ELSEWHERE
        done = record is not None and _is_done(record, folder, source, config, settings_hash)
        if done and not force:
            return Claim.DONE
        if record is None and folder.suffix and mask.exists() and not force:
            raise CaseError(
                f"{mask} exists and was not made by hemseg predict",
                hint="--out FOLDER names another folder; --force replaces it",
            )

        claimed = Record(done=False, settings=settings_hash, source=own, process=_this_process())
        write_record(folder, source.name, claimed)
    return Claim.OURS


def release(folder: OutputFolder, name: str) -> None:
    """Give a claim of this process up: the scan failed."""
    record = read_record(folder, name)
    if record is None or record.process is None or _is_others(record.process):
        return
    with contextlib.suppress(HemsegError):  # a full disk: the claim ends with the process
        write_record(folder, name, record.model_copy(update={"process": None}))


def read_record(folder: OutputFolder, name: str) -> Record | None:
    """Return the record of a scan; None where there is none, or one of another form."""
    return _read(folder.record(name))


def write_record(folder: OutputFolder, name: str, record: Record) -> None:
    """Write the record of a scan."""
    write_text(folder.record(name), record.model_dump_json(indent=1) + "\n")


def finished_records(folder: OutputFolder) -> list[Record]:
    """Return the records of every scan in the folder whose mask is there, by name."""
    records = []
    for path in sorted(folder.records.glob("*.json")):
        record = _read(path)
        if record is not None and record.done and folder.mask(path.stem).is_file():
            records.append(record)
    return records


def rebuild_tables(folder: OutputFolder) -> None:
    """Write `volumes.csv` and `lesions.csv` from the records of all scans, also other calls'."""
    with _alone(folder):
        records = finished_records(folder)
        write_volumes(folder.volumes_file, [one.volumes for one in records if one.volumes])
        write_lesions(folder.lesions_file, [row for one in records for row in one.lesions])


def _refuse_other_input(
    record: Record, folder: OutputFolder, source: ScanInput, own: Identity
) -> None:
    """CaseError where the name belongs to another input: another file, not a changed one."""
    if record.source.path != own.path and (record.done or record.process is not None):
        other = (folder.path / record.source.path).resolve()
        raise CaseError(
            f"{folder.mask(source.name)} is the mask of {other}, not of {source.path}",
            hint="--out FOLDER names another folder; --force replaces it",
        )


def _read(path: Path) -> Record | None:
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _this_process() -> Process:
    number = os.getpid()
    return Process(
        machine=platform.node(),
        number=number,
        started_s=psutil.Process(number).create_time(),
    )


def _is_others(process: Process) -> bool:
    mine = process.machine == platform.node() and process.number == os.getpid()
    return not mine and process.is_living()


@contextlib.contextmanager
def _alone(folder: OutputFolder) -> Iterator[None]:
    """Let one process at a time claim a scan or write the tables."""
    with file_lock(folder.records / ".lock", wait_s=_LOCK_WAIT_S):
        yield


def _relative(path: Path, folder: Path) -> str:
    """The path as seen from the folder, which a moved project keeps."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return path.resolve().as_posix()


def _archive_hash(path: Path) -> str:
    """A hash of a zip file (`.pt`, `.zip`): its directory at the end has each member's checksum."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END_BYTES))
        return hashlib.sha256(str(size).encode() + file.read()).hexdigest()


def _content_hash(files: Sequence[Path]) -> str:
    """A hash of the files' content; of a gzip file its ends: the last bytes are a checksum."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            if path.name.lower().endswith(".gz"):
                digest.update(file.read(_END_BYTES))
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _END_BYTES))
                digest.update(str(size).encode() + file.read())
            else:
                while chunk := file.read(_END_BYTES):
                    digest.update(chunk)
    return digest.hexdigest()
