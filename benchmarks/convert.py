"""`hemseg convert` against the published procedure and dcm2niix, on RSNA-shaped phantom scans.

Seconds per scan, sizes, memory.

All read the same files in one run, and the voxels are compared first. Steady state: start-up
(imports, worker processes) is left out by timing from the second finished scan on. Small try:
python benchmarks/convert.py --scans 4 --matrix 64 --slices 8 10
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from isal import igzip

from hemseg_cli.config import Config, load
from hemseg_cli.dataset.conversion.convert import convert
from hemseg_cli.dataset.labels.fetch import fetch_labels
from hemseg_cli.dataset.labels.manifest import read_manifest
from hemseg_cli.dataset.phantom.dataset import SLICE_FOLDER, make_phantom
from hemseg_cli.imaging.nifti import read_volume
from hemseg_cli.imaging.sidecar import read_sidecar

WARM_UP = 2
PADDING_BELOW_HU = -1200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=16)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--slices", type=int, nargs=2, default=[32, 40])
    parser.add_argument(
        "--folder", type=Path, help="keep the scans here, and use those that are here"
    )
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="hemseg-benchmark-"))
        )
        print(
            json.dumps(
                benchmark(folder, options.scans, options.matrix, tuple(options.slices)), indent=2
            )
        )


def benchmark(folder: Path, scans: int, matrix: int, slices: tuple[int, int]) -> dict[str, Any]:
    """Every figure as plain values; AssertionError where voxels differ that should not."""
    source = folder / "source"
    if not (source / "truth.json").is_file():
        # Every third patient has two scans.
        make_phantom(
            source,
            seed=0,
            patients=max(3, -(-scans * 3 // 4)),
            matrix=matrix,
            slices=slices,
            workers=os.cpu_count() or 1,
        )
    config = settings(folder, "folder", dicom=source)
    rows = {row.scan: row.slices for row in read_manifest(config.data.folder / "manifest.jsonl")}
    with on_cores(1):
        published, published_images = published_procedure(folder, source, rows)
        one = ours(config, workers=1)
    same = compare(config, published_images)
    two = ours(config, workers=2)
    archive = folder / "slices.zip"
    pack(source / SLICE_FOLDER, archive)
    with on_cores(1):
        zipped = ours(settings(folder, "zip", dicom=archive), workers=1)
    figures: dict[str, Any] = {
        "scans": len(rows),
        "matrix": matrix,
        "slices_per_scan": round(sum(map(len, rows.values())) / len(rows), 1),
        "voxels_compared": same,
        "seconds_per_scan": {
            "published": published,
            "ours_1_worker": one,
            "ours_2_workers": two,
            "ours_from_zip": zipped,
        },
        "ratio": {
            "published_to_ours_1_worker": published / one,
            "published_to_ours_2_workers": published / two,
            "zip_to_folder": zipped / one,
        },
        "size_to_zlib_6": size_ratio(config),
        "worker_peak_mb": peak_mb(config),
    }
    if shutil.which("dcm2niix"):
        with on_cores(1):
            figures["seconds_per_scan"]["dcm2niix"] = dcm2niix(folder, source, rows)
        figures["ratio"]["dcm2niix_to_ours_1_worker"] = (
            figures["seconds_per_scan"]["dcm2niix"] / one
        )
    return figures


def settings(folder: Path, name: str, *, dicom: Path) -> Config:
    """A data set of its own for each way of reading."""
    options = {
        "data.root": str(folder / "data"),
        "data.dataset": name,
        "fetch.source": str(folder / "source"),
        "convert.dicom": str(dicom),
    }
    config = load(None, options=options, environ={})
    if not config.data.cases_file.is_file():
        shutil.rmtree(folder / "labels", ignore_errors=True)
        phantom = config.model_copy(
            update={
                "data": config.data.model_copy(
                    update={"dataset": "phantom", "root": folder / "labels"}
                )
            }
        )
        fetch_labels(phantom)
        shutil.copytree(phantom.data.folder, config.data.folder)
    return config


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Bind this process, and those it starts, to so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:count]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def ours(config: Config, *, workers: int) -> float:
    """Seconds per scan, from the times at which the sidecars were written."""
    with_workers = config.model_copy(
        update={"compute": config.compute.model_copy(update={"workers": workers})}
    )
    result = convert(with_workers, force=True)
    assert not result.failures, result.failures
    written = sorted(path.stat().st_mtime_ns for path in config.data.folder.glob("*/image/*.json"))
    first = min(WARM_UP, len(written) - 2)
    return (written[-1] - written[first]) / (len(written) - 1 - first) / 1e9


def published_procedure(
    folder: Path, source: Path, rows: Mapping[str, Sequence[str]]
) -> tuple[float, dict[str, Path]]:
    """Copy a scan's slices into a folder, read them with SimpleITK's series reader, WriteImage."""
    out = folder / "published"
    out.mkdir(exist_ok=True)
    seconds, images = [], {}
    for scan, names in rows.items():
        images[scan] = out / f"{scan}.nii.gz"
        with tempfile.TemporaryDirectory(dir=folder) as place:
            start = time.perf_counter()
            for name in names:
                shutil.copy(source / SLICE_FOLDER / f"ID_{name}.dcm", place)
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames(reader.GetGDCMSeriesFileNames(place))
            sitk.WriteImage(reader.Execute(), str(images[scan]))
            seconds.append(time.perf_counter() - start)
    return steady(seconds), images


def dcm2niix(folder: Path, source: Path, rows: Mapping[str, Sequence[str]]) -> float:
    """`dcm2niix -z y` on a folder per scan; laying the folders out is not counted."""
    seconds = []
    for scan, names in rows.items():
        with (
            tempfile.TemporaryDirectory(dir=folder) as place,
            tempfile.TemporaryDirectory(dir=folder) as out,
        ):
            for name in names:
                shutil.copy(source / SLICE_FOLDER / f"ID_{name}.dcm", place)
            start = time.perf_counter()
            # Its exit code is 1 where it could not also write a copy at equal distances: the
            # conversion itself is there.
            subprocess.run(
                ["dcm2niix", "-z", "y", "-f", scan, "-o", out, place],
                check=False,
                capture_output=True,
            )
            seconds.append(time.perf_counter() - start)
            assert (Path(out) / f"{scan}.nii.gz").is_file(), scan
    return steady(seconds)


def steady(seconds: Sequence[float]) -> float:
    """Mean without the first ones."""
    later = seconds[min(WARM_UP, len(seconds) - 1) :]
    return sum(later) / len(later)


def compare(config: Config, published: Mapping[str, Path]) -> dict[str, int]:
    """Our voxels equal SimpleITK's but where it leaves padding or a 12-bit rollover in."""
    counts = {"equal": 0, "padding_set_to_air": 0, "scans_with_rollover_repaired": 0}
    for scan, path in published.items():
        (image,) = config.data.folder.glob(f"*/image/{scan}.nii.gz")
        ours, theirs, sidecar = read_volume(image), read_volume(path), read_sidecar(image)
        assert ours.array.shape == theirs.array.shape, scan
        assert np.abs(ours.affine - theirs.affine).max() < 1e-3, scan
        if any("rollover" in warning for warning in (sidecar.warnings if sidecar else ())):
            counts["scans_with_rollover_repaired"] += 1
            continue
        tissue = theirs.array >= PADDING_BELOW_HU
        assert np.array_equal(ours.array[tissue], theirs.array[tissue]), scan
        counts["equal"] += int(tissue.sum())
        counts["padding_set_to_air"] += int((~tissue).sum())
    return counts


def pack(slices: Path, archive: Path) -> None:
    """The slices in a deflated zip, as Kaggle's is."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(slices.iterdir()):
            file.write(path, f"{SLICE_FOLDER}/{path.name}")


def size_ratio(config: Config) -> float:
    """Bytes of our images to those of zlib level 6."""
    packed = smaller = 0
    for path in config.data.folder.glob("*/image/*.nii.gz"):
        data = path.read_bytes()
        packed += len(data)
        smaller += len(zlib.compress(igzip.decompress(data), 6))
    return packed / smaller


def peak_mb(config: Config) -> float:
    """Peak resident memory of one process that converts every scan."""
    options = {
        "data.root": config.data.root,
        "data.dataset": config.data.dataset,
        "compute.workers": 0,
    }
    arguments = ["convert", "--force", "--json", "--quiet", "--dicom", str(config.convert.dicom)]
    arguments += [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    # VmHWM belongs to the new program alone; ru_maxrss would remember the size of this one.
    program = (
        "import sys; from hemseg_cli.app import run; assert run(sys.argv[1:]) == 0; "
        "print(open('/proc/self/status').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
