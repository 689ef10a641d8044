"""Train on several data sets at once (`data.train_on`): their classes, scans and contamination."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.cases import Case, read_cases
from hemseg_cli.core.classes import LabelClass, read_classes
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.names import first_few
from hemseg_cli.imaging.nifti import read_volume
from hemseg_cli.imaging.orientation import to_canonical
from hemseg_cli.training.scans import TrainingCases, training_cases

_RSNA_PATIENT = re.compile(r"ID_[0-9a-f]{8,9}")
"""The patients of RSNA's challenge, whose scans several public sets label."""


@dataclass(frozen=True)
class DataSetCases:
    """One of the data sets that are trained on: the config that names it alone, and its scans."""

    config: Config
    cases: TrainingCases


def data_set_configs(config: Config) -> list[Config]:
    """Return a config for each data set that is trained on; the first is the run's own."""
    return [
        config.model_copy(
            update={"data": config.data.model_copy(update={"dataset": name, "train_on": ()})}
        )
        for name in config.data.train_on or (config.data.dataset,)
    ]


def data_set_cases(config: Config) -> list[DataSetCases]:
    """Read the scans to train on and to validate on of each data set."""
    return [DataSetCases(part, training_cases(part)) for part in data_set_configs(config)]


def run_classes(config: Config) -> tuple[LabelClass, ...]:
    """Return the classes that a run tells apart: those of its data sets, by key.

    The first data set that has a class gives it its value; another's whose value is taken gets the
    lowest free one.
    """
    merged: dict[str, LabelClass] = {}
    for part in data_set_configs(config):
        for each in read_classes(part.data.directory):
            taken = {known.value for known in merged.values()}
            if each.key in merged:
                continue
            value = each.value
            if value in taken:
                value = next(number for number in range(1, 256) if number not in taken)
            merged[each.key] = replace(each, value=value)
    return tuple(sorted(merged.values(), key=lambda each: each.value))


def check_contamination(config: Config, parts: Sequence[DataSetCases]) -> None:
    """Refuse to train on a test scan of one of several data sets, or on its patient.

    Found by scan id, by RSNA's patient id and by pixels (other sets count their patients from 1,
    each for itself). Inside one data set a patient who stands in several splits is the split's own
    affair (`shares_patient_with`). HemsegError names the scans; with `data.allow_contamination` it
    is a warning.
    """
    if len(parts) < 2:
        return
    trained = [(part, case) for part in parts for case in (*part.cases.train, *part.cases.val)]
    tested = [(part, case) for part in parts for case in _test_cases(part)]
    ids = {case.scan for _, case in trained}
    patients = {
        (part.config.data.dataset, case.patient)
        for part, case in trained
        if _RSNA_PATIENT.fullmatch(case.patient)
    }
    pixels = {_pixel_hash(part, case) for part, case in trained} if tested else set()

    seen = [
        f"{case.scan} of {part.config.data.dataset}"
        for part, case in tested
        if case.scan in ids
        or _patient_elsewhere(part, case, patients)
        or _pixel_hash(part, case) in pixels
    ]
    if not seen:
        return
    message = f"{len(seen)} test scans would be trained on: {first_few(seen)}"
    if not config.data.allow_contamination:
        raise HemsegError(
            message,
            hint="give them the same split in both data sets; --allow-contamination   trains on "
            "them, and their scores say nothing",
        )
    console.warn(f"{message}: their scores say nothing")


def _patient_elsewhere(part: DataSetCases, case: Case, patients: set[tuple[str, str]]) -> bool:
    """Tell whether the patient of a test scan is trained on in another data set."""
    own = part.config.data.dataset
    return any(name != own and patient == case.patient for name, patient in patients)


def _test_cases(part: DataSetCases) -> list[Case]:
    cases = read_cases(part.config.data.cases_file)
    return [case for case in cases if case.split == "test" and case.image]


def _pixel_hash(part: DataSetCases, case: Case) -> str:
    """Hash the voxels on canonical axes, whatever the file's name, axes and packing.

    A scan without an image has a hash of its own: nothing equals it.
    """
    file = part.config.data.folder / case.image
    if not case.image or not file.is_file():
        return f"{part.config.data.dataset}/{case.scan}"
    array = np.ascontiguousarray(to_canonical(read_volume(file))[0].array)
    values = np.rint(np.nan_to_num(array)).astype(np.int32)
    return hashlib.sha256(str(values.shape).encode() + values.tobytes()).hexdigest()


def split_sizes(parts: Sequence[DataSetCases]) -> str:
    """Say how many scans of each data set are trained on and validated on."""
    return "; ".join(
        f"{part.config.data.dataset}: {len(part.cases.train)} train, {len(part.cases.val)} val"
        for part in parts
    )
