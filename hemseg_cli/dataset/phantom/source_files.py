"""Write the phantom's labels as a published source: archive, manifest, `source.json`, the truth."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass, classes_to_plain
from hemseg_cli.core.files import write_bytes, write_text
from hemseg_cli.dataset.labels.published import SOURCE_JSON
from hemseg_cli.imaging.geometry import Affine

DATASET = "phantom"
ARCHIVE_NAME, MANIFEST_NAME, TRUTH_NAME = ("labels.zip", "manifest.jsonl", "truth.json")


@dataclass(frozen=True)
class PhantomScan:
    """What is known of one scan.

    `truth_ml` is the volume of all labelled blood, of the continuous shapes, not a voxel count;
    `hemorrhages_ml` that of each, `class_ml` by class key. `pixels` names the pixel format.
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
    class_ml: dict[str, float]


def write_source(
    folder: Path,
    drawn: Sequence[tuple[PhantomScan, bytes]],
    classes: Sequence[LabelClass],
    *,
    seed: int,
) -> None:
    """Write what `fetch-labels` reads, from the scans and their label files, and the truth."""
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
    source: dict[str, Any] = {
        "dataset": DATASET,
        "archive": _file_facts(folder / ARCHIVE_NAME),
        "manifest": _file_facts(folder / MANIFEST_NAME),
    }
    # One class, hemorrhage = 1, needs no words: the published sources have none.
    if tuple(classes) != HEMORRHAGE_ONLY:
        source["classes"] = classes_to_plain(classes)
    write_text(folder / SOURCE_JSON, json.dumps(source, indent=2) + "\n")
    truth = {"seed": seed, "scans": [asdict(scan) for scan in scans]}
    write_text(folder / TRUTH_NAME, json.dumps(truth, indent=2) + "\n")


def label_file(label: NDArray[np.int16], affine: Affine, *, with_sform: bool) -> bytes:
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
