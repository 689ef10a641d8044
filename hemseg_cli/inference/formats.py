"""The formats in which a mask is written: one row each.

A new format is one module with a function `write(path, output)`, and one row in `FORMATS`.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass
from hemseg_cli.core.errors import CaseError, HemsegError, UsageError

if TYPE_CHECKING:
    from hemseg_cli.inference.inputs.reading import Scan
    from hemseg_cli.inference.measures import Measured
    from hemseg_cli.inference.subgrid import Probability


@dataclass(frozen=True)
class Algorithm:
    """What made a mask: models, version, and a hash of the checkpoint files and settings."""

    name: str
    version: str
    settings_hash: str


@dataclass(frozen=True)
class CaseOutput:
    """All that there is to write of one scan; arrays are on its canonical axes.

    `mask`: uint8 [i, j, k] with the values of `classes`.
    """

    name: str
    scan: "Scan"
    mask: NDArray[np.uint8]
    probability: "Probability"
    measured: "Measured"
    algorithm: Algorithm
    classes: tuple[LabelClass, ...] = HEMORRHAGE_ONLY


@dataclass(frozen=True)
class OutputFormat:
    """One format of output.

    `suffix`: what stands behind the mask's name. `needs_slices`: the file refers to the DICOM
    slices that the scan was read from. `package`, `extra`: what has to be installed. `writer`:
    "module:function", loaded when it is needed.
    """

    key: str
    title: str
    suffix: str
    writer: str
    needs_slices: bool = False
    package: str = ""
    extra: str = ""

    def write(self, path: Path, output: CaseOutput) -> None:
        """Write a scan's file atomically; HemsegError where it cannot be."""
        module, _, function = self.writer.partition(":")
        write: Callable[[Path, CaseOutput], None] = getattr(
            importlib.import_module(module), function
        )
        write(path, output)


NIFTI = OutputFormat(
    "nifti", "NIfTI", ".nii.gz", writer="hemseg_cli.inference.masks:write_nifti_mask"
)
"""Written always: `evaluate` and `report` read it."""

FORMATS = {
    row.key: row
    for row in (
        NIFTI,
        OutputFormat(
            "dicom-seg",
            "DICOM SEG",
            ".dcm",
            writer="hemseg_cli.inference.dicom_output:write_segmentation",
            needs_slices=True,
            package="highdicom",
            extra="dicom",
        ),
    )
}


def chosen_formats(text: str) -> tuple[OutputFormat, ...]:
    """Return the formats of `predict.format`, comma-separated, NIfTI first.

    UsageError names one that is unknown, HemsegError a package that is not installed.
    """
    keys = [key.strip() for key in text.split(",") if key.strip()]
    unknown = [key for key in keys if key not in FORMATS]
    if unknown or not keys:
        raise UsageError(
            f"--format {text}: {unknown[0] if unknown else 'nothing'} is no format of output",
            hint=f"one or more of {', '.join(FORMATS)}, separated by commas",
        )

    chosen = tuple(row for key, row in FORMATS.items() if key in {*keys, NIFTI.key})
    for row in chosen:
        if row.package and importlib.util.find_spec(row.package) is None:
            raise HemsegError(
                f"--format {row.key} needs {row.package}",
                hint=f"pip install 'hemseg[{row.extra}]'",
            )
    return chosen


def refuse_without_slices(formats: tuple[OutputFormat, ...], slices: int, what: str) -> None:
    """Raise CaseError where a format refers to DICOM slices that the scan does not have."""
    for row in formats:
        if row.needs_slices and not slices:
            raise CaseError(
                f"{what}, and a {row.title} refers to the slices themselves", hint="--format nifti"
            )
