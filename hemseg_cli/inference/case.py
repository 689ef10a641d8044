"""One scan from input to outputs, in three stages that the pipeline overlaps.

Read, compute, write.
"""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.head_mask import HeadMask, find_head
from hemseg_cli.imaging.orientation import to_canonical
from hemseg_cli.inference.inputs.checking import checked_scan
from hemseg_cli.inference.inputs.finding import ScanInput
from hemseg_cli.inference.inputs.reading import Scan, read_scan
from hemseg_cli.inference.masks import mask_of, write_mask, write_probability
from hemseg_cli.inference.measures import Measured, lesion_rows, measure, row_of
from hemseg_cli.inference.outputs import OutputFolder, claim, identity, write_record
from hemseg_cli.inference.predictor import EnsembleOutput, Predictor
from hemseg_cli.inference.preview import write_preview


@dataclass(frozen=True)
class PredictionTask:
    """One scan to predict, with all that a worker process needs."""

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
class Ready:
    """A scan in memory, checked, and where its head is."""

    scan: Scan
    head: HeadMask


@dataclass(frozen=True)
class Computed:
    """What the networks made of a scan."""

    scan: Scan
    mask: NDArray[np.uint8]
    answer: EnsembleOutput
    measured: Measured
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Predicted:
    """What is left of a scan when its files are written.

    Its row of `volumes.csv` and what there was to say.
    """

    volumes: dict[str, Any]
    warnings: tuple[str, ...]


def read_case(job: PredictionTask) -> Ready:
    """Claim the scan's name in the output folder, read the scan, check it, find the head."""
    if job.config.format == "dicom-seg" and job.source.kind != "dicom":
        raise CaseError(
            f"{job.source.path} is no DICOM series, and a DICOM SEG refers to one",
            hint="--format nifti",
        )
    scan = read_scan(job.source)
    if job.config.format == "dicom-seg" and not scan.slices:
        raise CaseError(
            f"{job.source.path}: the slices are interpolated to even steps, and a DICOM SEG refers to the slices themselves",
            hint="--format nifti   writes the mask on the interpolated grid",
        )
    claim(job.folder, job.source, job.settings_hash, inputs=job.inputs, force=job.force)
    scan = checked_scan(scan)
    head = find_head(to_canonical(scan.volume)[0])
    if not head.is_head:
        scan = replace(
            scan,
            warnings=(*scan.warnings, "no head was recognised in this scan: its mask means little"),
        )
    return Ready(scan, head)


def compute_case(job: PredictionTask, ready: Ready) -> Computed:
    """The probability, the mask and its volumes."""
    predictor, scan = predictor_of(job), ready.scan
    answer = predictor.infer(scan.volume, ready.head)
    mask = mask_of(answer.probability, predictor.settings, scan.voxel_volume_mm3)
    measured = measure(
        job.source.name,
        mask,
        scan.volume,
        voxel_volume_mm3=scan.voxel_volume_mm3,
        probability=answer.probability,
        deviation=answer.deviation,
        threshold=predictor.settings.threshold,
        warnings=scan.warnings,
    )
    return Computed(scan, mask, answer, measured, (*scan.warnings, *predictor.notes()))


def write_case(job: PredictionTask, computed: Computed) -> Predicted:
    """Write every output of the scan, its record last."""
    name, folder = job.source.name, job.folder
    if job.config.previews:
        write_preview(
            folder.preview(name), computed.scan.volume, computed.mask, computed.measured.volumes
        )
    if job.config.save_probabilities:
        write_probability(folder.probability(name), computed.answer.probability, computed.scan)
    if job.config.format == "dicom-seg":
        _write_segmentation(job, computed)
    write_mask(folder.mask(name), computed.mask, computed.scan)
    row = row_of(computed.measured.volumes)
    write_record(
        folder,
        name,
        {
            "done": True,
            "settings": job.settings_hash,
            "source": identity(job.source),
            "volumes": row,
            "lesions": lesion_rows(computed.measured),
            "warnings": computed.warnings,
        },
    )
    return Predicted(row, computed.warnings)


def _write_segmentation(job: PredictionTask, computed: Computed) -> None:
    from hemseg_cli.imaging.dicom.seg import write_seg  # pydicom and highdicom are slow to import

    model = "+".join(network.name for network in predictor_of(job).networks)
    write_seg(
        job.folder.segmentation(job.source.name), computed.mask, computed.scan.slices, model=model
    )


def predict_case(job: PredictionTask) -> Predicted:
    """All three stages, for a worker process."""
    return write_case(job, compute_case(job, read_case(job)))


def predictor_of(job: PredictionTask) -> Predictor:
    """The networks of a job; loaded once per process, and anew where the files changed (a cluster's workers outlive a command)."""
    return _loaded(
        job.checkpoints,
        job.settings_hash,
        job.config.model_dump_json(),
        job.device,
        job.memory_mb,
        job.threads,
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
