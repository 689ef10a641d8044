"""`hemseg convert`: DICOM slices to one NIfTI per scan. Two layouts: RSNA (slices by id, per manifest) and any tree of series."""

from collections.abc import Sequence

from hemseg_cli.config import Config
from hemseg_cli.dataset.conversion_log import ConversionRow, ConvertResult, Need
from hemseg_cli.dataset.convert_rsna import convert_rsna
from hemseg_cli.errors import UsageError

__all__ = ["ConversionRow", "ConvertResult", "Need", "convert"]


def convert(config: Config, *, scans: Sequence[str] | None = None, dry_run: bool = False, force: bool = False) -> ConvertResult:
    """Convert what is not converted yet. `scans`: only these; `force`: also those that are done; `dry_run`: only say what is needed.

    A scan that cannot be converted is refused and named in the result and in `conversion.csv`; the others are converted. HemsegError
    where nothing can be: no source, no case table.
    """
    if config.convert.layout == "series":
        if scans:
            raise UsageError("--scan picks scans of a manifest; layout series has none", hint="--dicom FOLDER of the one series")
        from hemseg_cli.dataset.convert_series import convert_series

        return convert_series(config, dry_run=dry_run, force=force)
    return convert_rsna(config, scans=scans, dry_run=dry_run, force=force)
