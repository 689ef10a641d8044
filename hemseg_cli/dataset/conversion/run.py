"""What both layouts share: working through the scans, writing one, and telling whether one is written already."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.executor import map_cases
from hemseg_cli.core.files import cannot_write, remove_leftovers, write_text
from hemseg_cli.dataset.conversion.log import LOG_NAME, ConversionRow, read_log, write_log
from hemseg_cli.imaging.dicom.series import Sidecar
from hemseg_cli.imaging.nifti import Volume, read_sidecar, sidecar_path, write_volume


class Job(Protocol):
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


J = TypeVar("J", bound=Job)


class Log:
    """`conversion.csv` of a folder while scans come in, on top of the rows of earlier calls."""

    def __init__(self, folder: Path, refused: Sequence[ConversionRow] = ()) -> None:
        self._path = folder / LOG_NAME
        self._before = read_log(self._path)
        self.rows: list[ConversionRow] = list(refused)

    def found(self, sidecar: Sidecar) -> None:
        """A scan that is converted already.

        Where the log does not say so (a killed call wrote none), it does now.
        """
        row = _row_of(sidecar)
        before = self._before.get(row.scan)
        if before is None or not before.ok:
            self._before[row.scan] = row

    def save(self) -> None:
        """Write what there is, where there is anything."""
        rows = self._before | {row.scan: row for row in self.rows}
        if rows:
            write_log(self._path, rows)


def run_jobs(
    config: Config,
    work: Callable[[J], Sidecar],
    jobs: Sequence[J],
    log: Log,
    done: Callable[[Sidecar], None],
) -> None:
    """Convert each scan; one that fails is logged as refused and named, the others go on.

    `done` takes each new sidecar.
    """
    with console.live("convert", total=len(jobs)) as track:
        preload = (
            work.__module__,
            "hemseg_cli.dataset.conversion.rsna",
            "hemseg_cli.dataset.conversion.series",
            "nibabel",
            "isal",
        )
        for outcome in map_cases(
            work,
            jobs,
            workers=config.compute.workers,
            scheduler=config.compute.scheduler,
            preload=preload,
        ):
            scan = outcome.item.scan
            if outcome.value is not None:
                log.rows.append(
                    dataclasses.replace(_row_of(outcome.value), seconds=outcome.seconds)
                )
                done(outcome.value)
            else:
                reason = (outcome.error or "").removeprefix(f"{scan}: ")
                log.rows.append(
                    ConversionRow(scan, "refused", reason, (), outcome.seconds, outcome.hint)
                )
                console.warn(
                    f"{scan} refused: {reason}" + (f"\n  {outcome.hint}" if outcome.hint else "")
                )
            track.update(advance=1)


@contextlib.contextmanager
def working_in(folder: Path, written_to: Iterable[Path]) -> Iterator[None]:
    """Converting into `folder`.

    What a killed call left half-written in `written_to` is removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    for place in set(written_to):
        remove_leftovers(place)
    yield


def write_scan(image: Path, volume: Volume, sidecar: Sidecar) -> None:
    """The image, then its sidecar: where there is a sidecar, the image beside it is whole."""
    sidecar_path(image).unlink(missing_ok=True)
    write_volume(image, volume)
    write_text(sidecar_path(image), json.dumps(sidecar, indent=1) + "\n")


def written(job: Job, geometry: str) -> Sidecar | None:
    """The sidecar of a scan that is converted.

    Made of these slices, all of them, in this geometry. Else None.
    """
    if not job.image.is_file():
        return None
    try:
        sidecar = read_sidecar(job.image)
    except FileFormatError:
        return None
    if (
        sidecar is None
        or sidecar.get("geometry") != geometry
        or sidecar.get("slices_given") != len(job.slices)
    ):
        return None
    return sidecar if set(sidecar.get("source_slices", ())) <= set(job.slices) else None


def _row_of(sidecar: Sidecar) -> ConversionRow:
    return ConversionRow(str(sidecar["scan"]), "converted", "", tuple(sidecar.get("warnings", ())))
