"""The formats in which a mask is written: one row each.

A new format is one module with a function `write(path, output)`, and one row in `FORMATS`.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass
from hemseg_cli.core.errors import CaseError, HemsegError, UsageError
from hemseg_cli.imaging.dicom.origin import Algorithm

if TYPE_CHECKING:
    from pydicom import Dataset

    from hemseg_cli.inference.inputs.reading import Scan
    from hemseg_cli.inference.measures import Measured
    from hemseg_cli.inference.subgrid import Probability


@dataclass(frozen=True)
class CaseOutput:
    """All that there is to write of one scan; arrays are on its canonical axes.

    `mask`: uint8 [i, j, k] with the values of `classes`. `files`: where each chosen format is
    written, by its key, for those that refer to another one.
    """

    name: str
    scan: "Scan"
    mask: NDArray[np.uint8]
    probability: "Probability"
    measured: "Measured"
    algorithm: Algorithm
    classes: tuple[LabelClass, ...] = HEMORRHAGE_ONLY
    files: Mapping[str, Path] = field(default_factory=dict)

    @functools.cached_property
    def slice_headers(self) -> Sequence["Dataset"]:
        """What DICOM objects take from the slices, read once for all of them."""
        from hemseg_cli.imaging.dicom.derived import source_headers  # pydicom is slow to import

        with self.scan.slice_files() as files:
            return source_headers(files, self.scan.identity)


@dataclass(frozen=True)
class OutputFormat:
    """One format of output.

    `suffix`: what stands behind the mask's name, or behind the scan's where it is no mask.
    `needs_slices`: the file refers to the DICOM slices that the scan was read from. `implies`: the
    key of the format that it refers to, which is written before it. `package`, `extra`: what has to
    be installed. `writer`: "module:function", loaded when it is needed.
    """

    key: str
    title: str
    suffix: str
    writer: str
    is_mask: bool = True
    needs_slices: bool = False
    implies: str = ""
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
            "nifti-per-class",
            "folder of one NIfTI mask for each class",
            "_classes",
            writer="hemseg_cli.inference.masks:write_class_masks",
            is_mask=False,
        ),
        OutputFormat(
            "dicom-seg",
            "DICOM SEG",
            ".dcm",
            writer="hemseg_cli.inference.dicom_output:write_segmentation",
            needs_slices=True,
            package="highdicom",
            extra="dicom",
        ),
        OutputFormat(
            "dicom-sr",
            "DICOM SR",
            "_sr.dcm",
            writer="hemseg_cli.inference.dicom_output:write_report",
            is_mask=False,
            needs_slices=True,
            implies="dicom-seg",
            package="highdicom",
            extra="dicom",
        ),
        OutputFormat(
            "dicom-pdf",
            "DICOM PDF",
            "_pdf.dcm",
            writer="hemseg_cli.inference.dicom_output:write_document",
            is_mask=False,
            needs_slices=True,
        ),
    )
}
"""By key, each behind the one that it refers to."""


def chosen_formats(text: str) -> tuple[OutputFormat, ...]:
    """Return the formats of `predict.format`, comma-separated, and those that they imply.

    NIfTI is the first, and each stands behind the one that it refers to. UsageError names one that
    is unknown, HemsegError a package that is not installed.
    """
    keys = [key.strip() for key in text.split(",") if key.strip()]
    unknown = [key for key in keys if key not in FORMATS]
    if unknown or not keys:
        raise UsageError(
            f"--format {text}: {unknown[0] if unknown else 'nothing'} is no format of output",
            hint=f"one or more of {', '.join(FORMATS)}, separated by commas",
        )

    # A format that refers to another is of no use without it.
    implied = {FORMATS[key].implies for key in keys}
    chosen = tuple(row for key, row in FORMATS.items() if key in {*keys, *implied, NIFTI.key})
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
