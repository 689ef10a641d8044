"""Calibrate a trained run: how its volumes lie from the truth on the val split, and how scans look.

The val scans are predicted as `predict` would, with the settings that were chosen for it. See
`inference.calibration` for what is made of the volumes, `inference.look` for the look of scans.
"""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.cases import Case
from hemseg_cli.core.classes import UNION, read_classes, union_classes
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.imaging.head_mask import HeadMask, find_head
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.imaging.orientation import match_axes
from hemseg_cli.inference.calibration import LEAST_SCANS, Calibration, VolumePair
from hemseg_cli.inference.inputs.checking import checked_scan
from hemseg_cli.inference.inputs.reading import Scan, read_scan
from hemseg_cli.inference.inputs.scan_input import ScanInput
from hemseg_cli.inference.look import LEAST_LOOKS, Look, look_of, range_of
from hemseg_cli.inference.masks import mask_of
from hemseg_cli.inference.predictor import Predictor
from hemseg_cli.models.checkpoint import read_checkpoint, write_checkpoint
from hemseg_cli.training.class_channels import channels_of
from hemseg_cli.training.data_sets import DataSetCases

# The range of a look is known well enough from so many scans; reading more would only take time.
_MOST_LOOKS = 200
_MARK_DIGITS = 16


@dataclass(frozen=True)
class CalibrationPlan:
    """The scans that a calibration reads: `val` with their truth, `seen` for their look alone."""

    val: tuple[tuple[Config, Case], ...]
    seen: tuple[tuple[Config, Case], ...]
    n_val: int

    @property
    def steps(self) -> int:
        """How many scans are read."""
        return len(self.val) + len(self.seen)


def plan_calibration(parts: Sequence[DataSetCases]) -> CalibrationPlan:
    """Choose the scans: the run's own val split, and scans of all data sets for their look.

    None where there are too few of them to tell anything.
    """
    home = parts[0]
    most = home.config.train.validation_cases
    val = [(home.config, case) for case in home.cases.val[:most]]
    others = [(part.config, case) for part in parts for case in part.cases.train]
    others += [(part.config, case) for part in parts[1:] for case in part.cases.val]

    n_val = len(val)
    if n_val < LEAST_SCANS:
        others, val = [*others, *val], []
    count = min(len(others), max(_MOST_LOOKS - len(val), 0))
    # Evenly along the table: scanners often stand in it one after the other.
    chosen = [others[int((n + 0.5) * len(others) / count)] for n in range(count)]
    if len(chosen) + len(val) < LEAST_LOOKS:
        chosen = []
    return CalibrationPlan(tuple(val), tuple(chosen), n_val)


def calibrate(
    checkpoint: Path, config: Config, plan: CalibrationPlan, device: torch.device
) -> Generator[Calibration | None, None, None]:
    """Calibrate a `checkpoint` on the scans of the plan.

    Yields None after each scan, so that the caller can stop in between, and the calibration at the
    end.
    """
    looks: list[Look] = []
    for part, case in plan.seen:
        scan = _read(part, case)
        if scan is not None:
            looks.append(look_of(scan.volume, find_head(scan.volume)))
        yield None

    volumes: dict[str, dict[str, VolumePair]] = {}
    if plan.val:
        predictor = Predictor.load(
            [checkpoint],
            config.predict,
            device=str(device),
            memory_mb=config.compute.memory_mb,
        )
        for part, case in plan.val:
            scan = _read(part, case)
            if scan is not None:
                head = find_head(scan.volume)
                looks.append(look_of(scan.volume, head))
                for key, pair in _predicted_and_true(predictor, part, case, scan, head).items():
                    volumes.setdefault(key, {})[_mark(scan)] = pair
            yield None

    yield Calibration(plan.n_val, volumes, range_of(looks))


def calibration_text(found: Calibration) -> str:
    """Say for the log what a calibration gives."""
    missing = found.reason()
    text = f"volumes calibrated on {found.scans} val scans"
    if missing:
        text = f"no intervals of volumes: {missing}"
    return text if found.look is not None else f"{text}; too few scans to know their look by"


def store_calibration(checkpoint: Path, found: Calibration) -> None:
    """Put a calibration into a checkpoint file."""
    write_checkpoint(checkpoint, {**read_checkpoint(checkpoint), "calibration": found.to_dict()})


def _read(part: Config, case: Case) -> Scan | None:
    """Read a scan of a data set as `predict` does; None, with a warning, where that refuses it."""
    data = part.data.directory
    source = ScanInput(
        case.scan, data.image_of(case), voxel_volume_mm3=case.voxel_volume_mm3, named=True
    )
    try:
        return checked_scan(read_scan(source))
    except HemsegError as error:  # the network is trained: one scan less is no reason to fail
        console.warn(f"scan {case.scan} is left out of the calibration: {error.message}")
        return None


def _predicted_and_true(
    predictor: Predictor, part: Config, case: Case, scan: Scan, head: HeadMask
) -> dict[str, VolumePair]:
    """Predicted and true mL of one scan: of the union, and of each class where there are several.

    Classes that the data set does not label are left out; so is the union where it labels a part.
    """
    data, classes = part.data.directory, predictor.classes
    voxel_ml = scan.voxel_volume_mm3 / 1000
    probability = predictor.infer(scan.volume, head).probability
    mask = mask_of(probability, predictor.settings, scan.voxel_volume_mm3, classes)

    label = match_axes(read_label(data.label_of(case)), scan.volume.array.shape, scan.volume.affine)
    masks = channels_of(classes, read_classes(data)).masks(label.array)
    truths = {
        each.key: truth for each, truth in zip(classes, masks, strict=True) if truth is not None
    }
    values = {each.key: each.value for each in classes}

    def pair(keys: Sequence[str]) -> VolumePair:
        predicted = np.isin(mask, [values[key] for key in keys])
        true = np.logical_or.reduce([truths[key] for key in keys])
        return float(np.count_nonzero(predicted)) * voxel_ml, float(true.sum()) * voxel_ml

    united = [each.key for each in union_classes(classes)]
    pairs = {}
    if set(united) <= truths.keys():
        pairs[UNION] = pair(united)
    if len(classes) > 1:
        pairs |= {key: pair([key]) for key in truths}
    return pairs


def _mark(scan: Scan) -> str:
    """A hash of the pixels: it tells scans apart and, unlike their names, nobody's number."""
    array = np.ascontiguousarray(scan.volume.array)
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).hexdigest()[:_MARK_DIGITS]
