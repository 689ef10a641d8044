"""Small labels, archives and manifests drawn for a test."""

import gzip
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from hemseg_cli.config import Config
from hemseg_cli.config.schema import ComputeConfig, DataConfig, FetchConfig


def label_bytes(
    *,
    shape: tuple[int, int, int] = (8, 8, 4),
    voxels: int = 10,
    tilt_deg: float = 0.0,
    dtype: str = "int16",
) -> bytes:
    """A label whose first `voxels` voxels are 1.

    0.5 x 0.5 mm in the slice, 5 mm along the normal, z spacing as ITK writes it.
    """
    array = np.zeros(math.prod(shape), dtype=dtype)
    array[:voxels] = 1
    angle = math.radians(tilt_deg)
    rotation = np.array(
        [[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.5, 0.5, 5.0 / math.cos(angle)])
    image = nib.Nifti1Image(array.reshape(shape, order="F"), affine)
    return gzip.compress(image.to_bytes(), mtime=0)


def zip_bytes(members: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def scan_id(number: int) -> str:
    return f"{number:010x}"


def slice_id(number: int) -> str:
    return f"{number:09x}"


def manifest_line(scan: str, patient: str, slices: Sequence[str]) -> str:
    return json.dumps({"patient": patient, "scan_": scan, "slice_list": list(slices)})


def write_source(
    folder: Path,
    labels: Mapping[str, tuple[str, str, bytes]],
    *,
    root: str = "tiny",
) -> dict[str, bytes]:
    """A data set of one's own in `folder`: archive, manifest and source.json.

    `labels`: scan -> (split, patient, bytes).
    """
    archive = zip_bytes(
        {f"{root}/{split}/label/{scan}.nii.gz": data for scan, (split, _, data) in labels.items()}
    )
    lines = [
        manifest_line(scan, patient, [slice_id(16 * number + n) for n in range(4)])
        for number, (scan, (_, patient, _)) in enumerate(labels.items())
    ]
    manifest = ("\n".join(lines) + "\n").encode()
    entries = {
        key: {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for key, name, data in (
            ("archive", "labels.zip", archive),
            ("manifest", "manifest.jsonl", manifest),
        )
    }
    files = {
        "labels.zip": archive,
        "manifest.jsonl": manifest,
        "source.json": json.dumps({"dataset": "tiny", **entries}).encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def tiny_labels(count: int = 6) -> dict[str, tuple[str, str, bytes]]:
    """`count` scans of as many patients, spread over the splits; scan n has 10 + n voxels."""
    splits = ("train", "train", "val", "test")
    return {
        scan_id(n): (splits[n % 4], f"ID_{n:08x}", label_bytes(voxels=10 + n)) for n in range(count)
    }


def config_for(
    root: Path,
    *,
    source: object = None,
    dataset: str = "tiny",
    splits: str = "official",
    **fetch: object,
) -> Config:
    fetching = {"timeout_s": 0.4, "retries": 2, "backoff_s": 0.01, **fetch}
    return Config(
        data=DataConfig(root=root, dataset=dataset),
        fetch=FetchConfig(
            source=None if source is None else str(source), splits=splits, **fetching
        ),  # type: ignore[arg-type]
        compute=ComputeConfig(workers=0),
    )
