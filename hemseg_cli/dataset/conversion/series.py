"""Convert any tree of DICOM files: one NIfTI per CT series (layout series)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hemseg_cli.config import Config
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.names_key import KEY_FILE, keyed_name, names_key
from hemseg_cli.dataset.conversion.log import LOG_NAME
from hemseg_cli.dataset.conversion.result import ConvertResult, Need
from hemseg_cli.dataset.conversion.scans import (
    ConversionLog,
    ConvertedScan,
    convert_scans,
    find_written,
    write_scan,
    writing_into,
)
from hemseg_cli.imaging.dicom.series import read_series
from hemseg_cli.imaging.dicom.tree import Series, Tree, find_series
from hemseg_cli.imaging.sidecar import Sidecar


@dataclass(frozen=True)
class SeriesTask:
    """One series to convert; its file names are relative to `root`, a folder or a zip."""

    root: Path
    series: Series
    image: Path

    @property
    def scan(self) -> str:
        """The name of the series."""
        return self.series.name

    @property
    def slices(self) -> tuple[str, ...]:
        """Its files."""
        return self.series.files


def convert_series(config: Config, *, dry_run: bool, force: bool) -> ConvertResult:
    """Convert each series of `convert.dicom`; HemsegError where the tree holds no CT series."""
    settings = config.convert
    if settings.dicom is None:
        raise UsageError(
            "no DICOM folder given", hint="--dicom FOLDER, or convert.dicom in the config file"
        )
    root, folder = Path(settings.dicom), settings.out or config.data.folder

    with Tree(root) as tree:
        listing = find_series(tree)
        tasks = [
            SeriesTask(root, series, folder / f"{series.name}.nii.gz")
            for series in _with_keyed_names(listing.series, folder, dry_run=dry_run)
        ]
        done = {} if force else _find_done(config, tasks)
        todo = [task for task in tasks if task.scan not in done]
        if dry_run:
            names = [name for task in todo for name in task.slices]
            need = Need(len(todo), len(done), len(names), 0, sum(map(tree.size, names)))
            return ConvertResult(folder, left_out=listing.left_out, need=need)

    if not tasks:
        why = ", ".join(sorted({reason for _name, reason in listing.left_out})[:6]) or "no files"
        raise HemsegError(
            f"{root} holds no CT series ({why})",
            hint="--dicom names a folder or zip of DICOM files",
        )

    with writing_into(folder, [folder]):
        log = ConversionLog(folder / LOG_NAME)
        for sidecar in done.values():
            log.add_found(sidecar)
        try:
            for _ in convert_scans(config, partial(_convert, config), todo, log):
                pass
        finally:
            log.save()  # also when interrupted: the same command then does the rest
    return ConvertResult(folder, tuple(log.rows), len(done), listing.left_out)


def _with_keyed_names(found: Sequence[Series], folder: Path, *, dry_run: bool) -> list[Series]:
    """Name the series with the output folder's own key, which a dry run does not make."""
    if not found or (dry_run and not (folder / KEY_FILE).is_file()):
        return list(found)
    key = names_key(folder)
    return [dataclasses.replace(series, name=keyed_name(series.name, key)) for series in found]


def _find_done(config: Config, tasks: list[SeriesTask]) -> dict[str, Sidecar]:
    found = ((task.scan, find_written(task, config.convert.geometry)) for task in tasks)
    return {scan: sidecar for scan, sidecar in found if sidecar is not None}


def _convert(config: Config, task: SeriesTask) -> ConvertedScan:
    settings = config.convert
    with Tree(task.root) as tree:
        volume, sidecar = read_series(
            tree,
            task.series,
            uneven=settings.uneven,
            geometry=settings.geometry,
            repair=settings.repair,
        )
    return ConvertedScan(write_scan(task.image, volume, sidecar))
