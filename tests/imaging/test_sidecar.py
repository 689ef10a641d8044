"""A sidecar is believed only beside the very image it was written for."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.nifti import Volume, nifti_stem, read_volume, write_volume
from hemseg_cli.imaging.sidecar import (
    Sidecar,
    find_sidecar,
    read_sidecar,
    sidecar_path,
    voxels_hash,
)
from tests.sidecars import sidecar_of

AFFINE = np.diag([0.5, 0.5, 5.0, 1.0])


def image(shape: tuple[int, int, int] = (6, 5, 4)) -> Volume:
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape, order="F")
    return Volume(voxels, AFFINE.copy())


def write(path: Path, volume: Volume, values: Any) -> None:
    write_volume(path, volume)
    sidecar_path(path).write_text(json.dumps(values))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.1.nii.gz"


def test_a_sidecar_is_the_json_beside_the_image_and_reads_as_it_was_written(path: Path) -> None:
    assert (nifti_stem(path), sidecar_path(path).name) == ("scan.1", "scan.1.json")
    assert read_sidecar(path) is None
    assert find_sidecar(path, image()) == (None, "")
    sidecar = sidecar_of(image())
    write(path, image(), sidecar.to_dict())
    assert read_sidecar(path) == sidecar
    assert find_sidecar(path, read_volume(path)) == (sidecar, "")


def resized(volume: Volume) -> Volume:
    return Volume(volume.array[:, :, :3], volume.affine)


def rescaled(volume: Volume) -> Volume:
    return Volume(volume.array, np.diag([1.0, 1.0, 10.0, 1.0]))


def moved(volume: Volume) -> Volume:
    affine = volume.affine.copy()
    affine[2, 3] += 1.0
    return Volume(volume.array, affine)


def edited(volume: Volume) -> Volume:
    array = volume.array.copy()
    array[2, 2, 2] += 1
    return Volume(array, volume.affine)


def flipped(volume: Volume) -> Volume:
    return Volume(volume.array[::-1], volume.affine)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (resized, "shape"),
        (rescaled, "affine"),
        (moved, "affine"),
        (edited, "voxels"),
        (flipped, "voxels"),
    ],
)
def test_a_sidecar_beside_a_changed_image_is_ignored_with_a_warning(
    path: Path, change: Any, words: str
) -> None:
    write(path, image(), sidecar_of(image()).to_dict())
    write_volume(path, change(image()))
    found, warning = find_sidecar(path, read_volume(path))
    assert found is None
    assert "scan.1.json does not belong to the image" in warning
    assert words in warning


GOOD = sidecar_of(image()).to_dict()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b"{}", "format"),
        (json.dumps({"Modality": "CT", "ConversionSoftware": "dcm2niix"}).encode(), "format"),
        (json.dumps(GOOD | {"format": 2}).encode(), "format 1"),
        (json.dumps(GOOD | {"voxel_volume_mm3": float("nan")}).encode(), "voxel_volume_mm3"),
        (json.dumps(GOOD | {"voxel_volume_mm3": -1}).encode(), "voxel_volume_mm3"),
        (json.dumps(GOOD | {"voxel_volume_mm3": "large"}).encode(), "voxel_volume_mm3"),
        (json.dumps(GOOD | {"shape": [1, 2]}).encode(), "shape"),
        (json.dumps(GOOD | {"shape": None}).encode(), "shape"),
        (json.dumps(GOOD | {"geometry": "round"}).encode(), "geometry"),
        (json.dumps(GOOD | {"label_voxels": 3}).encode(), "label_voxels"),
        (json.dumps(GOOD | {str(n): n for n in range(50_000)}).encode(), "0"),
        (b" " * 5 * 2**20, "too large"),
    ],
)
def test_what_is_not_our_sidecar_is_named_and_stops_no_scan(
    path: Path, content: bytes, words: str
) -> None:
    write_volume(path, image())
    sidecar_path(path).write_bytes(content)
    with pytest.raises(FileFormatError, match=r"scan\.1\.json") as caught:
        read_sidecar(path)
    assert words in caught.value.message
    assert len(caught.value.message) < 500
    found, warning = find_sidecar(path, read_volume(path))
    assert found is None
    assert warning.startswith("sidecar ignored: ")


@given(
    st.dictionaries(
        st.sampled_from(sorted(GOOD)),
        st.none() | st.floats() | st.integers() | st.text(max_size=5) | st.lists(st.floats()),
        max_size=3,
    )
)
def test_any_values_are_read_or_refused_by_an_error_of_ours(values: dict[str, Any]) -> None:
    with contextlib.suppress(FileFormatError):
        read = Sidecar.from_dict(GOOD | values, "x.json")
        assert np.isfinite(read.voxel_volume_mm3)
        assert read.voxel_volume_mm3 > 0


def test_the_hash_is_that_of_the_voxels_whatever_their_order_in_memory() -> None:
    array = image().array
    assert voxels_hash(array) == voxels_hash(np.ascontiguousarray(array))
    assert voxels_hash(array) == voxels_hash(array.astype(">i2"))
    assert voxels_hash(array) != voxels_hash(array.astype(np.int32))
    assert voxels_hash(array) != voxels_hash(array[::-1])
