"""A data set to try everything on.

RSNA-shaped DICOM slices, a label archive, a manifest, and the truth.

It stands in for the Kaggle slices and the published HemSeg-200 archive, so that it goes through
`fetch-labels` and `convert` as they do. The same seed gives the same bytes; heads, splits and
geometry do not depend on the matrix size.
"""

import functools
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.executor import map_cases
from hemseg_cli.core.files import write_bytes, write_text
from hemseg_cli.dataset.phantom.anatomy import draw_anatomy
from hemseg_cli.dataset.phantom.dicom import PIXEL_FORMATS, Identifiers, write_series
from hemseg_cli.dataset.phantom.head import Head
from hemseg_cli.dataset.phantom.hemorrhages import later, with_hemorrhages
from hemseg_cli.dataset.phantom.scanner import DrawnScan, Gantry, Pose, draw_head, scan_head
from hemseg_cli.dataset.phantom.shapes import Blob
from hemseg_cli.imaging.geometry import Affine

__all__ = ["DrawnScan", "Gantry", "PhantomScan", "draw_head", "make_phantom"]

DATASET = "phantom"
SLICE_FOLDER = "stage_2_train"
ARCHIVE_NAME, MANIFEST_NAME, SOURCE_NAME, TRUTH_NAME = (
    "labels.zip",
    "manifest.jsonl",
    "source.json",
    "truth.json",
)
_TILTS_DEG = (0.0, -18.0, 0.0, 12.5, -24.0, 22.0, -8.0, 30.0)
_SMALLEST_MAIN_ML, _LARGEST_MAIN_ML = 3.0, 60.0


@dataclass(frozen=True)
class PhantomScan:
    """What is known of one scan.

    `truth_ml` is the volume of the continuous shapes, not a voxel count; `pixels` names the pixel
    format.
    """

    scan: str
    patient: str
    split: str
    slices: tuple[str, ...]  # ids bottom to top
    hemorrhages_ml: tuple[float, ...]
    truth_ml: float
    ventricular: bool
    matrix: int
    fov_mm: float
    slice_distance_mm: float
    tilt_deg: float
    voxel_volume_mm3: float
    pixels: str


@dataclass(frozen=True)
class _Plan:
    """One scan to draw; `number` counts the data set's scans, `visit` the patient's."""

    seed: int
    patient: int
    visit: int
    number: int
    split: str
    main_ml: float
    matrix: int
    slices: tuple[int, int]
    folder: str


def make_phantom(
    folder: Path,
    *,
    seed: int = 0,
    patients: int = 12,
    matrix: int = 512,
    slices: tuple[int, int] = (28, 36),
    workers: int | None = 0,
) -> list[PhantomScan]:
    """Write the phantom data set into `folder` and return its scans, in the order of the manifest.

    `stage_2_train/ID_<9 hex>.dcm`; `labels.zip` with `phantom/{train,val,test}/label/<10
    hex>.nii.gz`; `manifest.jsonl` in HemSeg-200's schema; `source.json` with size and SHA-256 of
    both; `truth.json`. Every third patient has two scans. `slices`: fewest and most per scan.
    `workers`: processes (0: this one; None: one per core). Raises HemsegError where the folder
    cannot be written.
    """
    if patients < 3 or matrix < 16 or not 4 <= slices[0] <= slices[1]:
        raise HemsegError(
            "a phantom needs 3 patients, a matrix of 16 and 4 slices at least, "
            f"not {patients}, {matrix} and {slices}"
        )
    (folder / SLICE_FOLDER).mkdir(parents=True, exist_ok=True)
    plans = _plans(folder, seed, patients, matrix, slices)
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
    drawn = [outcome.value for outcome in outcomes if outcome.value is not None]
    scans = [scan for scan, _label in drawn]
    _write_archive(
        folder / ARCHIVE_NAME,
        [(f"{DATASET}/{scan.split}/label/{scan.scan}.nii.gz", label) for scan, label in drawn],
    )
    rng = np.random.default_rng([seed, 4])
    write_text(
        folder / MANIFEST_NAME,
        "".join(_manifest_row(scan, number, rng) for number, scan in enumerate(scans)),
    )
    source = {
        "dataset": DATASET,
        "archive": _file_facts(folder / ARCHIVE_NAME),
        "manifest": _file_facts(folder / MANIFEST_NAME),
    }
    write_text(folder / SOURCE_NAME, json.dumps(source, indent=2) + "\n")
    truth = {"seed": seed, "scans": [asdict(scan) for scan in scans]}
    write_text(folder / TRUTH_NAME, json.dumps(truth, indent=2) + "\n")
    return scans


def _plans(
    folder: Path, seed: int, patients: int, matrix: int, slices: tuple[int, int]
) -> list[_Plan]:
    rng = np.random.default_rng([seed, 0])
    # Volumes are spread evenly over the logarithmic range, so that each split has small and large
    # ones.
    share = (rng.permutation(patients) + 0.5) / patients
    main_ml = _SMALLEST_MAIN_ML * (_LARGEST_MAIN_ML / _SMALLEST_MAIN_ML) ** share
    splits = ["test"] * max(1, round(0.25 * patients)) + ["val"] * max(1, round(0.15 * patients))
    splits += ["train"] * (patients - len(splits))
    splits = [splits[n] for n in rng.permutation(patients)]
    visits = [
        (patient, visit)
        for patient in range(patients)
        for visit in range(2 if patient % 3 == 0 else 1)
    ]
    return [
        _Plan(
            seed,
            patient,
            visit,
            number,
            splits[patient],
            float(main_ml[patient]),
            matrix,
            slices,
            str(folder / SLICE_FOLDER),
        )
        for number, (patient, visit) in enumerate(visits)
    ]


def _draw_scan(plan: _Plan) -> tuple[PhantomScan, bytes]:
    """Write the slices of one scan; returns its facts and its label file."""
    head, ventricular = _patient(plan.seed, plan.patient, plan.main_ml)
    rng = np.random.default_rng([plan.seed, 2, plan.patient, plan.visit])
    if plan.visit:
        head = later(head, float(rng.uniform(0.5, 0.85)))
    gantry, pose = _scan_setting(head, plan, rng)
    pixels = PIXEL_FORMATS[(plan.number + plan.seed) % len(PIXEL_FORMATS)]
    patient_id = _hex_ids(np.random.default_rng([plan.seed, 3, plan.patient]), 1, 8)[0]
    study, series = _hex_ids(rng, 2, 10)
    ids = Identifiers(patient_id, study, series, tuple(_hex_ids(rng, gantry.slices, 9)))
    hu, label = scan_head(head, gantry, rng, pose=pose)
    write_series(Path(plan.folder), hu, gantry, pixels, ids)
    volumes = tuple(head.truth_ml())
    scan = PhantomScan(
        scan=series,
        patient=f"ID_{patient_id}",
        split=plan.split,
        slices=ids.slices,
        hemorrhages_ml=tuple(round(volume, 4) for volume in volumes),
        truth_ml=round(sum(volumes), 4),
        ventricular=ventricular,
        matrix=plan.matrix,
        fov_mm=gantry.fov_mm,
        slice_distance_mm=gantry.slice_distance_mm,
        tilt_deg=gantry.tilt_deg,
        voxel_volume_mm3=gantry.voxel_volume_mm3,
        pixels=pixels.name,
    )
    return scan, _label_file(label, gantry.label_affine, with_sform=plan.number % 10 != 5)


@functools.lru_cache(maxsize=2)  # the two visits of a patient follow each other
def _patient(seed: int, patient: int, main_ml: float) -> tuple[Head, bool]:
    rng = np.random.default_rng([seed, 1, patient])
    more = int(rng.choice([0, 0, 1, 1, 2, 3]))
    volumes = [
        main_ml,
        *np.exp(rng.uniform(math.log(0.3), math.log(min(6.0, main_ml)), more)).tolist(),
    ]
    ventricular = bool(rng.random() < 0.35) and len(volumes) < 4
    return with_hemorrhages(draw_anatomy(rng), volumes, rng, ventricular=ventricular), ventricular


def _scan_setting(head: Head, plan: _Plan, rng: np.random.Generator) -> tuple[Gantry, Pose]:
    """Draw gantry and pose.

    The table is set so that a slice passes close to the middle of the largest hemorrhage: none may
    be missed.
    """
    count = int(rng.integers(plan.slices[0], plan.slices[1] + 1))
    tilt_deg = _TILTS_DEG[(3 * plan.number + plan.seed) % len(_TILTS_DEG)]
    distance_mm = max(2.5, round(2.0 * float(rng.uniform(138.0, 165.0)) / count) / 2.0)
    pose = Pose(
        (float(rng.uniform(-6, 6)), float(rng.uniform(-60, 10)), float(rng.uniform(-300, 300))),
        yaw_deg=float(rng.uniform(-7, 7)),
        roll_deg=float(rng.uniform(-4, 4)),
    )
    fov_mm = float(rng.choice([222.0, 230.0, 240.0, 250.0]))
    # Isocentre near the middle of brain and skull base.
    centre = np.array(pose.centre_mm) + rng.uniform(-4.0, 4.0, 3) + np.array([0.0, 0.0, 2.0])
    gantry = Gantry(
        plan.matrix,
        count,
        fov_mm,
        distance_mm,
        tilt_deg,
        tuple(centre.tolist()),
        noise_hu=float(rng.uniform(2.5, 4.0)),
    )
    main = next(shape for shape in head.hemorrhages if isinstance(shape, Blob))
    target = np.array(pose.centre_mm) + pose.rotation.T @ np.array(main.centre)
    slice_index = (
        float((target - gantry.true_affine[:3, 3]) @ gantry.normal) / gantry.slice_distance_mm
    )
    miss = slice_index - round(slice_index) + float(rng.uniform(-0.15, 0.15))
    centre[2] += miss * gantry.table_step_mm
    return Gantry(
        plan.matrix, count, fov_mm, distance_mm, tilt_deg, tuple(centre.tolist()), gantry.noise_hu
    ), pose


def _hex_ids(rng: np.random.Generator, count: int, digits: int) -> list[str]:
    return [rng.bytes((digits + 1) // 2).hex()[:digits] for _ in range(count)]


def _label_file(label: NDArray[np.int16], affine: Affine, *, with_sform: bool) -> bytes:
    """A label as the published archives hold it: int16 `.nii.gz`, a tenth of them without sform."""
    import nibabel as nib
    from isal import igzip

    image = nib.Nifti1Image(label, affine, dtype=np.int16)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1 if with_sform else 0)
    return igzip.compress(image.to_bytes(), compresslevel=2, mtime=0)


def _write_archive(path: Path, members: list[tuple[str, bytes]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in _folders(members):
            archive.writestr(zipfile.ZipInfo(name), b"")
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)
    write_bytes(path, buffer.getvalue())


def _folders(members: list[tuple[str, bytes]]) -> Iterator[str]:
    parents = {
        f"{parent}/"
        for name, _data in members
        for parent in Path(name).parents
        if str(parent) != "."
    }
    yield from sorted(parents)


def _manifest_row(scan: PhantomScan, number: int, rng: np.random.Generator) -> str:
    """One line of the manifest.

    Slices in no order, and in every fifth scan some ids again, as published.
    """
    slices = [scan.slices[n] for n in rng.permutation(len(scan.slices))]
    if number % 5 == 2:
        slices += slices[: max(1, len(slices) // 3)]
    return json.dumps({"patient": scan.patient, "scan_": scan.scan, "slice_list": slices}) + "\n"


def _file_facts(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
