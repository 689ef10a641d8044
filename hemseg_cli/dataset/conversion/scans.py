"""What both layouts share: work through the scans, write one, tell whether one is written."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.executor import map_cases
from hemseg_cli.core.files import remove_leftovers, write_text
from hemseg_cli.dataset.conversion.log import ConversionRow, read_log, write_log
from hemseg_cli.imaging.nifti import Volume, read_header, write_volume
from hemseg_cli.imaging.sidecar import GeometryKind, Sidecar, read_sidecar, sidecar_path

# Imported once by the process that workers are forked from.
_PRELOAD = (
    "hemseg_cli.dataset.conversion.rsna",
    "hemseg_cli.dataset.conversion.series",
    "nibabel",
    "isal",
)


class ScanTask(Protocol):
    """One scan to convert."""

    @property
    def scan(self) -> str:
        """Its id."""

    @property
    def slices(self) -> tuple[str, ...]:
        """The ids or files that it is made of."""

    @property
    def image(self) -> Path:
        """The file to write."""


@dataclass(frozen=True)
class ConvertedScan:
    """A scan that was written. `label_voxels`: of its resampled label, None where it has none."""

    sidecar: Sidecar
    label_voxels: int | None = None


T = TypeVar("T", bound=ScanTask)


class ConversionLog:
    """`conversion.csv` of a folder while scans come in, on top of the rows of earlier calls."""

    def __init__(self, path: Path, refused: Sequence[ConversionRow] = ()) -> None:
        self._path = path
        self._earlier = read_log(path)
        self._found: dict[str, ConversionRow] = {}
        self.rows: list[ConversionRow] = list(refused)

    def add_found(self, sidecar: Sidecar) -> None:
        """Note a scan that is converted already, where the log does not say so."""
        earlier = self._earlier.get(sidecar.scan)
        if earlier is None or not earlier.ok:
            self._found[sidecar.scan] = _row_of(sidecar)

    def save(self) -> None:
        """Write the rows, on top of those that another call may have written meanwhile."""
        rows = read_log(self._path) | self._found | {row.scan: row for row in self.rows}
        if rows:
            write_log(self._path, rows.values())


def convert_scans(
    config: Config,
    work: Callable[[T], ConvertedScan],
    tasks: Sequence[T],
    log: ConversionLog,
) -> Iterator[ConvertedScan]:
    """Convert each scan and yield it; one that fails is logged and named, the others go on."""
    outcomes = map_cases(
        work,
        tasks,
        workers=config.compute.workers,
        scheduler=config.compute.scheduler,
        preload=_PRELOAD,
    )
    with console.live("convert", total=len(tasks)) as track:
        for outcome in outcomes:
            scan, seconds = outcome.item.scan, outcome.seconds
            if outcome.value is not None:
                row = _row_of(outcome.value.sidecar)
                log.rows.append(dataclasses.replace(row, seconds=seconds))
                yield outcome.value
            else:
                reason = (outcome.error or "").removeprefix(f"{scan}: ")
                log.rows.append(ConversionRow(scan, "refused", reason, (), seconds, outcome.hint))
                hint = f"\n  {outcome.hint}" if outcome.hint else ""
                console.warn(f"{scan} refused: {reason}{hint}")
            track.update(advance=1)


@contextlib.contextmanager
def writing_into(folder: Path, written_to: Iterable[Path]) -> Iterator[None]:
    """Make `folder` and clear `written_to` of what a killed call left half-written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HemsegError(
            f"cannot write into {folder}: {error.strerror}",
            hint="name another folder with --out or data.root",
        ) from None
    remove_leftovers(folder, below=False)
    for place in sorted(set(written_to)):
        remove_leftovers(place)
    yield


def write_scan(image: Path, volume: Volume, sidecar: Sidecar) -> Sidecar:
    """Write the image, then its sidecar, which is bound to the image by its hash."""
    # Without a sidecar an image counts as unfinished: first away with the old one.
    bound = sidecar.bound_to(volume.array)
    sidecar_path(image).unlink(missing_ok=True)
    write_volume(image, volume)
    write_text(sidecar_path(image), json.dumps(bound.to_dict(), indent=1) + "\n")
    return bound


def find_written(task: ScanTask, geometry: GeometryKind) -> Sidecar | None:
    """Return the sidecar of a scan that is converted: of these slices, in this geometry, whole."""
    if not task.image.is_file():
        return None
    try:
        sidecar = read_sidecar(task.image)
        if sidecar is None or sidecar.mismatch(*read_header(task.image)):
            return None
    except FileFormatError:
        return None  # converted anew

    of_these = set(sidecar.source_slices) <= set(task.slices)
    whole = sidecar.slices_given == len(task.slices)
    return sidecar if of_these and whole and sidecar.geometry == geometry else None


def _row_of(sidecar: Sidecar) -> ConversionRow:
    return ConversionRow(sidecar.scan, "converted", "", sidecar.warnings)
