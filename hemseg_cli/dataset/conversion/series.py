"""Series layout: any tree of DICOM files, one NIfTI per CT series."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hemseg_cli.config import Config
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.dataset.conversion.log import ConvertResult, Need
from hemseg_cli.dataset.conversion.run import Log, run_jobs, working_in, write_scan, written
from hemseg_cli.imaging.dicom.series import Sidecar, read_series
from hemseg_cli.imaging.dicom.tree import Series, Tree, find_series


@dataclass(frozen=True)
class SeriesJob:
    """One series to convert."""

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
    """See `convert.convert`; HemsegError where the tree holds no CT series."""
    if config.convert.dicom is None:
        raise UsageError(
            "no DICOM folder given", hint="--dicom FOLDER, or convert.dicom in the config file"
        )
    root = Path(config.convert.dicom)
    folder = config.convert.out or config.data.folder
    with Tree(root) as tree:
        listing = find_series(tree)
        jobs = [
            SeriesJob(root, series, folder / f"{series.name}.nii.gz") for series in listing.series
        ]
        sidecars = (
            {}
            if force
            else {
                job.scan: sidecar
                for job in jobs
                if (sidecar := written(job, config.convert.geometry)) is not None
            }
        )
        todo = [job for job in jobs if job.scan not in sidecars]
        if dry_run:
            names = [name for job in todo for name in job.slices]
            need = Need(len(todo), len(sidecars), len(names), 0, sum(map(tree.size, names)))
            return ConvertResult(folder, left_out=listing.left_out, need=need)
    if not jobs:
        why = ", ".join(sorted({reason for _name, reason in listing.left_out})[:6]) or "no files"
        raise HemsegError(
            f"{root} holds no CT series ({why})",
            hint="--dicom names a folder or zip of DICOM files",
        )
    log = Log(folder)
    for sidecar in sidecars.values():
        log.found(sidecar)
    with working_in(folder, [folder]):
        try:
            run_jobs(config, partial(_convert, config), todo, log, lambda _sidecar: None)
        finally:
            log.save()
    return ConvertResult(folder, tuple(log.rows), len(sidecars), listing.left_out)


def _convert(config: Config, job: SeriesJob) -> Sidecar:
    with Tree(job.root) as tree:
        volume, sidecar = read_series(
            tree, job.series, uneven=config.convert.uneven, geometry=config.convert.geometry
        )
    write_scan(job.image, volume, sidecar)
    return sidecar
