"""Convert DICOM slices to one NIfTI per scan: `hemseg convert`.

Two layouts: RSNA (slices by id, per manifest) and any tree of series.
"""

from collections.abc import Sequence
from pathlib import Path

from hemseg_cli.config import Config
from hemseg_cli.core.errors import UsageError
from hemseg_cli.dataset.conversion.result import ConvertResult, Need
from hemseg_cli.dataset.conversion.rsna import convert_rsna

__all__ = ["ConvertResult", "Need", "convert"]


def convert(
    config: Config,
    *,
    scans: Sequence[str] | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> ConvertResult:
    """Convert what is not converted yet.

    `scans`: only these; `force`: also those that are done; `dry_run`: only say what is needed.

    A scan that cannot be converted is refused and named in the result and in `conversion.csv`; the
    others are converted. HemsegError where nothing can be: no source, no case table.
    """
    if config.compute.scheduler is not None:
        config = _absolute(config)
    if config.convert.layout == "series":
        if scans:
            raise UsageError(
                "--scan picks scans of a manifest; layout series has none",
                hint="--dicom FOLDER of the one series",
            )
        from hemseg_cli.dataset.conversion.series import convert_series

        return convert_series(config, dry_run=dry_run, force=force)
    return convert_rsna(config, scans=scans, dry_run=dry_run, force=force)


def _absolute(config: Config) -> Config:
    """Return the config with absolute paths: a cluster's workers may stand in other folders."""
    data, settings = config.data, config.convert
    dicom = (
        settings.dicom
        if settings.dicom is None or not Path(settings.dicom).exists()
        else str(Path(settings.dicom).absolute())
    )
    out = settings.out.absolute() if settings.out is not None else None
    return config.model_copy(
        update={
            "data": data.model_copy(update={"root": data.root.absolute()}),
            "convert": settings.model_copy(update={"dicom": dicom, "out": out}),
        }
    )
