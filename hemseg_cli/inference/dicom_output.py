"""Write what was found in a scan as DICOM objects that refer to its slices."""

from pathlib import Path

from hemseg_cli.imaging.dicom.seg import write_seg
from hemseg_cli.inference.formats import CaseOutput


def write_segmentation(path: Path, output: CaseOutput) -> None:
    """Write the mask as DICOM SEG."""
    mask = output.scan.on_file_axes(output.mask).array
    with output.scan.slice_files() as slices:
        write_seg(path, mask, slices, model=output.algorithm.name, classes=output.classes)
