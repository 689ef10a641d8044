"""A data set to try everything on: RSNA-shaped DICOM slices, labels, a manifest, and the truth.

It stands in for the Kaggle slices and the published HemSeg-200 archive, so that it goes through
`fetch-labels` and `convert` as they do. The same seed gives the same bytes; heads, splits and
geometry do not depend on the matrix size.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.executor import map_cases
from hemseg_cli.dataset.phantom.anatomy import draw_anatomy
from hemseg_cli.dataset.phantom.dicom import PIXEL_FORMATS, Identifiers, write_series
from hemseg_cli.dataset.phantom.head import Head
from hemseg_cli.dataset.phantom.hemorrhages import (
    SMALLEST_LESION_ML,
    later,
    with_hemorrhages,
    with_kinds,
)
from hemseg_cli.dataset.phantom.plans import (
    HEMORRHAGE,
    HEMSEG_KINDS,
    PatientPlan,
    drawn_kinds,
    label_values,
    phantom_classes,
    plan_patients,
)
from hemseg_cli.dataset.phantom.scanner import scan_head
from hemseg_cli.dataset.phantom.setting import draw_setting
from hemseg_cli.dataset.phantom.source_files import PhantomScan, label_file, write_source

SLICE_FOLDER = "stage_2_train"
_LARGEST_OTHER_ML = 20.0
_OTHER_KIND_SHARE = 0.35


@dataclass(frozen=True)
class _ScanPlan:
    """One scan to draw; `number` counts the data set's scans, `visit` the patient's."""

    seed: int
    patient: PatientPlan
    visit: int
    number: int
    kinds: tuple[str, ...]
    values: Mapping[str, int]
    class_keys: Mapping[int, str]
    matrix: int
    slices: tuple[int, int]
    folder: Path


def make_phantom(
    folder: Path,
    *,
    seed: int = 0,
    patients: int = 12,
    matrix: int = 512,
    slices: tuple[int, int] = (28, 36),
    classes: Sequence[str] = (HEMORRHAGE,),
    kinds: Sequence[str] | None = None,
    healthy: int = 0,
    smallest_ml: float = SMALLEST_LESION_ML,
    workers: int | None = 0,
) -> list[PhantomScan]:
    """Write the phantom data set into `folder` and return its scans, in the order of the manifest.

    `stage_2_train/ID_<9 hex>.dcm`; `labels.zip` with `phantom/{train,val,test}/label/<10
    hex>.nii.gz`; `manifest.jsonl` in HemSeg-200's schema; `source.json` with size and SHA-256 of
    both, and the classes; `truth.json`. Every third patient has two scans.

    `slices`: fewest and most per scan. `classes`: keys of the label's classes, with the values 1,
    2, ... (`hemorrhage`, the kinds of `BLEEDING_KINDS`, `edema`). `kinds`: the kinds of hemorrhage
    drawn (None: those of the classes, IPH and IVH for `hemorrhage`); what is drawn and has no class
    is not labelled. `healthy`: so many of the patients have no hemorrhage. `smallest_ml`: the
    smallest volume of a scan's largest hemorrhage; 0.05 mL needs pixels below 3 mm to be seen.
    `workers`: processes (0: this one; None: one per core). Raises HemsegError where the folder
    cannot be written, UsageError for classes that are not drawn.
    """
    if patients < 3 or matrix < 16 or not 4 <= slices[0] <= slices[1]:
        raise HemsegError(
            "a phantom needs 3 patients, a matrix of 16 and 4 slices at least, "
            f"not {patients}, {matrix} and {slices}"
        )
    label_classes = phantom_classes(classes)
    values = label_values(label_classes)
    drawn = drawn_kinds(classes, kinds)
    planned = plan_patients(
        patients, seed=seed, kinds=drawn, healthy=healthy, smallest_ml=smallest_ml
    )
    visits = [(patient, visit) for patient in planned for visit in range(_visits(patient))]
    class_keys = {each.value: each.key for each in label_classes}
    (folder / SLICE_FOLDER).mkdir(parents=True, exist_ok=True)
    plans = [
        _ScanPlan(
            seed,
            patient,
            visit,
            number,
            drawn,
            values,
            class_keys,
            matrix,
            slices,
            folder / SLICE_FOLDER,
        )
        for number, (patient, visit) in enumerate(visits)
    ]
    scans = _draw_all(plans, workers)
    write_source(folder, scans, label_classes, seed=seed)
    return [scan for scan, _label in scans]


def _visits(patient: PatientPlan) -> int:
    return 2 if patient.number % 3 == 0 else 1


def _draw_all(plans: Sequence[_ScanPlan], workers: int | None) -> list[tuple[PhantomScan, bytes]]:
    """Draw the scans in processes, in their order; HemsegError names one that fails."""
    drawing = map_cases(_draw_scan, plans, workers=workers, preload=("nibabel",))
    outcomes = sorted(
        console.library_progress(drawing, label="phantom", total=len(plans)),
        key=lambda outcome: outcome.item.number,
    )
    for outcome in outcomes:
        if outcome.value is None:
            raise HemsegError(
                f"phantom scan {outcome.item.number}: {outcome.error}", hint=outcome.hint
            )
    return [outcome.value for outcome in outcomes if outcome.value is not None]


def _draw_scan(plan: _ScanPlan) -> tuple[PhantomScan, bytes]:
    """Write the slices of one scan; return its facts and its label file."""
    patient = plan.patient
    head = _patient(plan.seed, patient, plan.kinds)
    rng = np.random.default_rng([plan.seed, 2, patient.number, plan.visit])
    if plan.visit:
        head = later(head, float(rng.uniform(0.5, 0.85)))
    gantry, pose = draw_setting(head, plan.slices, plan.matrix, 3 * plan.number + plan.seed, rng)

    pixels = PIXEL_FORMATS[(plan.number + plan.seed) % len(PIXEL_FORMATS)]
    patient_id = _hex_ids(np.random.default_rng([plan.seed, 3, patient.number]), 1, 8)[0]
    study, series = _hex_ids(rng, 2, 10)
    ids = Identifiers(patient_id, study, series, tuple(_hex_ids(rng, gantry.slices, 9)))
    hu, label = scan_head(head, gantry, rng, pose=pose, values=plan.values)
    write_series(plan.folder, hu, gantry, pixels, ids)
    scan = PhantomScan(
        scan=series,
        patient=f"ID_{patient_id}",
        split=patient.split,
        slices=ids.slices,
        ventricular=any(shape.kind == "IVH" for shape in head.hemorrhages),
        matrix=plan.matrix,
        fov_mm=gantry.fov_mm,
        slice_distance_mm=gantry.slice_distance_mm,
        tilt_deg=gantry.tilt_deg,
        voxel_volume_mm3=gantry.voxel_volume_mm3,
        pixels=pixels.name,
        **_truth(head, plan),
    )
    return scan, label_file(label, gantry.label_affine, with_sform=plan.number % 10 != 5)


def _truth(head: Head, plan: _ScanPlan) -> dict[str, Any]:
    """Return the volumes of what is labelled: of each hemorrhage, of all, and by class, mL."""
    volumes = [
        (plan.class_keys[plan.values[shape.kind]], volume_ml)
        for shape, volume_ml in zip(head.hemorrhages, head.truth_ml(), strict=True)
        if shape.kind in plan.values
    ]
    blood = tuple(round(volume_ml, 4) for _key, volume_ml in volumes)
    truth_ml = sum(volume_ml for _key, volume_ml in volumes)
    if "edema" in plan.values:
        volumes.append((plan.class_keys[plan.values["edema"]], head.edema_ml()))
    class_ml = {
        key: round(sum(volume_ml for other, volume_ml in volumes if other == key), 4)
        for key in plan.class_keys.values()
    }
    return {"hemorrhages_ml": blood, "truth_ml": round(truth_ml, 4), "class_ml": class_ml}


@functools.lru_cache(maxsize=2)  # the two visits of a patient follow each other
def _patient(seed: int, patient: PatientPlan, kinds: tuple[str, ...]) -> Head:
    """Draw the patient's head with hemorrhages as planned, and smaller ones beside the largest."""
    rng = np.random.default_rng([seed, 1, patient.number])
    more = int(rng.choice([0, 0, 1, 1, 2, 3]))
    head = draw_anatomy(rng)
    if not patient.main_ml:
        return head
    most = min(6.0, patient.main_ml)
    smaller = np.exp(rng.uniform(math.log(min(0.3, most / 2)), math.log(most), more))
    if kinds == HEMSEG_KINDS:
        volumes = [patient.main_ml, *smaller.tolist()]
        ventricular = bool(rng.random() < 0.35) and len(volumes) < 4
        return with_hemorrhages(head, volumes, rng, ventricular=ventricular)

    # One kind has the planned volume; the other kinds are there by chance.
    volumes_ml = {patient.main: [patient.main_ml]}
    for kind in kinds:
        if kind != patient.main and rng.random() < _OTHER_KIND_SHARE:
            most = min(_LARGEST_OTHER_ML, 2.0 * patient.main_ml)
            log_ml = rng.uniform(math.log(min(0.3, most)), math.log(most))
            volumes_ml[kind] = [math.exp(log_ml)]
    return with_kinds(head, volumes_ml, rng)


def _hex_ids(rng: np.random.Generator, count: int, digits: int) -> list[str]:
    return [rng.bytes((digits + 1) // 2).hex()[:digits] for _ in range(count)]
