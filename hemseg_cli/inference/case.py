"""Predict one scan in three stages, which the pipeline overlaps: read, compute, write."""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemseg_cli import __version__
from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.classes import HEMORRHAGE_ONLY, write_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import CaseError
from hemseg_cli.core.printable import printable
from hemseg_cli.imaging.dicom.origin import Algorithm
from hemseg_cli.imaging.head_mask import HeadMask, find_head
from hemseg_cli.imaging.nifti import Volume, write_volume
from hemseg_cli.inference.formats import (
    CaseOutput,
    OutputFormat,
    chosen_formats,
    refuse_without_slices,
)
from hemseg_cli.inference.inputs.checking import checked_scan
from hemseg_cli.inference.inputs.reading import LabelMapError, Scan, read_scan
from hemseg_cli.inference.inputs.scan_input import ScanInput
from hemseg_cli.inference.look import look_of, unlike_training
from hemseg_cli.inference.masks import mask_of, network_mask_of, write_probability
from hemseg_cli.inference.measures import Measured, ScanMeasures, lesion_rows, measure
from hemseg_cli.inference.outputs import OutputFolder
from hemseg_cli.inference.predictor import EnsembleOutput, Predictor
from hemseg_cli.inference.preview import write_preview
from hemseg_cli.inference.records import Claim, Record, claim, identity, release, write_record
from hemseg_cli.inference.upright_copy import write_upright

NO_HEAD = "no head was recognised in this scan: its mask means little"
NO_SKULL = "the skull was not recognised: what lies outside it was not taken out of the mask"
_ID_COLUMNS = {
    "patient_id": "PatientID",
    "accession_number": "AccessionNumber",
    "study_date": "StudyDate",
}


@dataclass(frozen=True)
class PredictionTask:
    """One scan to predict, with all that a worker process needs.

    `inputs`: the files of all scans of the call, which no output may overwrite.
    """

    source: ScanInput
    folder: OutputFolder
    checkpoints: tuple[Path, ...]
    config: PredictConfig
    device: str
    memory_mb: int | None
    settings_hash: str
    inputs: frozenset[Path]
    force: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class ReadCase:
    """A scan in memory, checked, as the networks take it, and where its head is.

    `even`: the scan at even steps, which is the scan itself for most.
    """

    scan: Scan
    even: Volume
    head: HeadMask


@dataclass(frozen=True)
class ComputedCase:
    """A scan with its masks: on its canonical grid, and on the network's where that is scored."""

    scan: Scan
    mask: NDArray[np.uint8]
    network_mask: Volume | None
    found: EnsembleOutput
    measured: Measured
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class PredictedCase:
    """A scan's row of `volumes.csv` and its warnings, after its files were written.

    `no_interval`: why the networks give no interval of volumes, "" where they do.
    """

    row: ScanMeasures
    warnings: tuple[str, ...]
    no_interval: str = ""


def read_case(task: PredictionTask) -> ReadCase | Claim:
    """Claim the scan's name in the output folder, read the scan, check it, find the head.

    A claim instead where another process predicts the scan into the folder, or has.
    """
    if task.source.problem:
        raise CaseError(
            task.source.problem, hint="give a head CT as an image file or a DICOM series"
        )
    formats = chosen_formats(task.config.format)
    if task.source.kind != "dicom":
        refuse_without_slices(formats, 0, f"{task.source.path} is no DICOM series")

    whose = claim(
        task.folder, task.source, task.config, task.settings_hash, task.inputs, force=task.force
    )
    if whose is not Claim.OURS:
        return whose

    try:
        scan = read_scan(task.source, keep_identity=task.config.keep_identity)
    except LabelMapError:
        release(task.folder, task.source.name)
        return Claim.LABEL_MAP
    _refuse_other_slices(task, scan, formats)

    scan = checked_scan(scan)
    even = scan.at_even_steps()
    head = find_head(even)
    if not head.is_head:
        scan = replace(scan, warnings=(*scan.warnings, NO_HEAD))
    return ReadCase(scan, even, head)


def _refuse_other_slices(
    task: PredictionTask, scan: Scan, formats: tuple[OutputFormat, ...]
) -> None:
    """CaseError where a format refers to slices, and these are no files of their own."""
    if task.source.series is not None and not set(scan.slices) <= set(task.source.series.files):
        what = f"{task.source.path}: all slices lie in one multi-frame file"
        refuse_without_slices(formats, 0, what)


def compute_case(task: PredictionTask, ready: ReadCase | Claim) -> ComputedCase | Claim:
    """Compute the probability, the mask and its measures."""
    if isinstance(ready, Claim):
        return ready
    predictor, scan = predictor_of(task), ready.scan
    settings, calibration = predictor.settings, predictor.calibration

    # A scan unlike the training is predicted all the same, and flagged for a person to look at.
    if unlike := unlike_training(look_of(ready.even, ready.head), calibration.look):
        scan = replace(scan, warnings=(*scan.warnings, unlike))

    found = predictor.infer(ready.even, ready.head)
    if scan.uneven is not None:
        found = found.on_own_slices(scan.uneven)
    if ready.head.is_head and not found.skull_seen:
        scan = replace(scan, warnings=(*scan.warnings, NO_SKULL))
    classes = predictor.classes
    mask = mask_of(found.probability, settings, scan.voxel_volumes_mm3, classes)
    network_mask = None
    if found.own_grid is not None:
        network_mask = network_mask_of(found.own_grid, settings, classes)

    measured = measure(
        printable(task.source.name),
        mask,
        scan.volume,
        voxel_volume_mm3=scan.voxel_volumes_mm3,
        probability=found.probability,
        deviation=found.deviation,
        threshold=settings.threshold,
        warnings=scan.warnings,
        classes=classes,
        calibration=calibration,
    )
    measured = replace(measured, row=replace(measured.row, source_ids=_source_ids(scan)))
    found = replace(found, own_grid=None)  # its mask is all that is kept
    warnings = (*scan.warnings, *scan.notes, *predictor.notes(), *_refused_elements(scan))
    return ComputedCase(scan, mask, network_mask, found, measured, warnings)


def _source_ids(scan: Scan) -> dict[str, str]:
    """What tells a series from others: columns of `volumes.csv`, without those that are empty."""
    identity = scan.identity
    ids = {"series_uid": identity.series_uid}
    ids |= {column: identity.elements.get(key, "") for column, key in _ID_COLUMNS.items()}
    return {column: printable(value) for column, value in ids.items() if value}


def _refused_elements(scan: Scan) -> tuple[str, ...]:
    if not scan.identity.refused:
        return ()
    elements = ", ".join(scan.identity.refused)
    return (f"left empty, because the standard forbids what the source has there: {elements}",)


def write_case(task: PredictionTask, computed: ComputedCase | Claim) -> PredictedCase | Claim:
    """Write every output of the scan, its record last."""
    if isinstance(computed, Claim):
        return computed
    name, folder, measured = task.source.name, task.folder, computed.measured
    formats = chosen_formats(task.config.format)
    output = CaseOutput(
        name,
        computed.scan,
        computed.mask,
        computed.found.probability,
        measured,
        Algorithm(_model_names(task), __version__, task.settings_hash),
        predictor_of(task).classes,
        {row.key: folder.output(name, row) for row in formats},
    )

    if task.config.previews:
        write_preview(
            folder.preview(name),
            computed.scan.volume,
            computed.mask,
            measured.row,
            classes=output.classes,
        )

    if task.config.save_probabilities:
        _write_probabilities(folder, output)

    if task.config.upright:
        write_upright(folder.upright_image(name), folder.upright_mask(name), output)

    keeps_network_mask = computed.network_mask is not None and folder.keeps_network_masks
    if computed.network_mask is not None and folder.keeps_network_masks:
        write_volume(folder.network_mask(name), computed.network_mask)

    # Whoever reads a label map finds what its values mean beside it.
    if output.classes != HEMORRHAGE_ONLY:
        write_classes(DataDirectory(folder.path), output.classes)

    # NIfTI is written last: where it stands, all the rest does.
    nifti, *others = formats
    for row in (*others, nifti):
        row.write(output.files[row.key], output)

    write_record(
        folder,
        name,
        Record(
            done=True,
            settings=task.settings_hash,
            source=identity(task.source, folder),
            network_mask=keeps_network_mask,
            volumes=measured.row,
            lesions=tuple(lesion_rows(measured)),
            warnings=tuple(printable(warning) for warning in computed.warnings),
        ),
    )
    no_interval = predictor_of(task).calibration.reason()
    return PredictedCase(measured.row, computed.warnings, no_interval)


def _write_probabilities(folder: OutputFolder, output: CaseOutput) -> None:
    """Write the highest probability of any class, and where there are several that of each."""
    write_probability(folder.probability(output.name), output)
    if len(output.classes) > 1:
        for channel, each in enumerate(output.classes):
            write_probability(folder.probability(output.name, each.key), output, channel)


def predict_case(task: PredictionTask) -> PredictedCase | Claim:
    """Do all three stages, for a worker process."""
    return write_case(task, compute_case(task, read_case(task)))


def predictor_of(task: PredictionTask) -> Predictor:
    """Return the networks of a task, loaded once per process.

    Loaded anew where the files changed: a cluster's workers outlive a command.
    """
    return _loaded(
        task.checkpoints,
        task.settings_hash,
        task.config.model_dump_json(),
        task.device,
        task.memory_mb,
        task.threads,
    )


@functools.lru_cache(maxsize=1)
def _loaded(
    checkpoints: tuple[Path, ...],
    settings_hash: str,
    config: str,
    device: str,
    memory_mb: int | None,
    threads: int | None,
) -> Predictor:
    del settings_hash  # distinguishes files of one name in the cache
    if threads is not None:
        import torch

        torch.set_num_threads(threads)

    return Predictor.load(
        checkpoints,
        PredictConfig.model_validate(json.loads(config)),
        device=device,
        memory_mb=memory_mb,
    )


def _model_names(task: PredictionTask) -> str:
    return "+".join(network.name for network in predictor_of(task).networks)
