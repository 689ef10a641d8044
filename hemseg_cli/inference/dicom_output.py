"""Write what was found in a scan as DICOM objects that refer to its slices."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread

from hemseg_cli.core.classes import LabelClass
from hemseg_cli.imaging.dicom.derived import seed_of
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.pdf import write_pdf
from hemseg_cli.imaging.dicom.seg import write_seg
from hemseg_cli.imaging.dicom.sr import ClassMeasures, Measures, write_sr
from hemseg_cli.inference.calibration import Interval
from hemseg_cli.inference.formats import CaseOutput
from hemseg_cli.inference.lesions import Lesion, mean_hu
from hemseg_cli.inference.measures import interval_ml
from hemseg_cli.inference.summary_page import TITLE, draw_page

_PDF_DPI = 150


def write_segmentation(path: Path, output: CaseOutput) -> None:
    """Write the mask as DICOM SEG."""
    mask = output.scan.on_file_axes(output.mask).array
    write_seg(path, mask, output.slice_headers, algorithm=output.algorithm, classes=output.classes)


def write_report(path: Path, output: CaseOutput) -> None:
    """Write the measures as DICOM SR that refers to the SEG of the same call."""
    with quiet_pydicom():
        segmentation = dcmread(output.files["dicom-seg"], stop_before_pixels=True)
    # One class is its own union, and needs no group beside its segment's.
    several = len(output.classes) > 1
    write_sr(
        path,
        segmentation,
        output.slice_headers,
        [_class_measures(output, each) for each in output.classes],
        algorithm=output.algorithm,
        union=_whole(output.measured.lesions, interval_ml(output.measured.row))
        if several
        else None,
    )


def write_document(path: Path, output: CaseOutput) -> None:
    """Write the page of pictures and measures as a DICOM encapsulated PDF."""
    document = io.BytesIO()
    draw_page(output).save(document, format="PDF", resolution=_PDF_DPI, title=TITLE, quality=90)
    # On the axes of the slices, as the SEG has it: both are then objects of one content.
    mask = output.scan.on_file_axes(output.mask).array
    headers = output.slice_headers
    write_pdf(
        path,
        document.getvalue(),
        headers,
        title=TITLE,
        seed=seed_of(headers, np.asarray(mask), output.algorithm),
    )


def _class_measures(output: CaseOutput, label_class: LabelClass) -> ClassMeasures:
    """The measures of a class as a whole, and of each lesion with the slices that it lies in."""
    lesions: Sequence[Lesion] = output.measured.lesions
    if len(output.classes) > 1:
        lesions = output.measured.by_class[label_class.key]
    return ClassMeasures(
        label_class,
        _whole(lesions, interval_ml(output.measured.row, label_class.key)),
        tuple(
            Measures(
                lesion.volume_ml,
                lesion.abc2_ml,
                lesion.mean_hu,
                output.scan.file_slices(lesion.box),
            )
            for lesion in lesions
        ),
    )


def _whole(lesions: Sequence[Lesion], interval: Interval | None) -> Measures:
    """The lesions' volumes and ABC/2 summed up, and the mean HU of all their voxels."""
    return Measures(
        sum(lesion.volume_ml for lesion in lesions),
        sum(lesion.abc2_ml for lesion in lesions),
        mean_hu(lesions),
        lesions=len(lesions),
        interval_ml=interval,
    )
