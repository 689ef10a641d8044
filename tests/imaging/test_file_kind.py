"""What a file is, by its content; written by nibabel, SimpleITK and pydicom."""

import gzip
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.file_kind import Kind, file_kind, is_label_map, kind_of
from hemseg_cli.imaging.geometry import grid_distance_mm
from hemseg_cli.imaging.image_file import read_image
from hemseg_cli.imaging.nifti import Volume, write_volume
from tests.dicom_files import slice_bytes

AFFINE = np.array(
    [[-0.5, 0.0, 0.0, 20.0], [0.0, -0.4, 0.0, 30.0], [0.0, 0.0, 5.0, -10.0], [0, 0, 0, 1.0]]
)


def hu() -> Any:
    return np.random.default_rng(2).integers(-1000, 2000, (6, 5, 4)).astype(np.int16)


def write_itk(path: Path, suffix: str) -> None:
    """Write the image with SimpleITK under its proper suffix, then move it to `path`."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(hu().transpose(2, 1, 0)))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    proper = path.with_name("proper" + suffix)
    sitk.WriteImage(image, str(proper))
    proper.rename(path)


def write_nifti(path: Path, *, packed: bool, second: bool = False) -> None:
    image = (nib.Nifti2Image if second else nib.Nifti1Image)(hu(), AFFINE)
    path.write_bytes(gzip.compress(image.to_bytes(), mtime=0) if packed else image.to_bytes())


WRITERS: dict[str, tuple[Kind, Callable[[Path], None]]] = {
    "nifti": (Kind.NIFTI, lambda path: write_nifti(path, packed=False)),
    "nifti packed": (Kind.NIFTI, lambda path: write_nifti(path, packed=True)),
    "nifti 2": (Kind.NIFTI, lambda path: write_nifti(path, packed=False, second=True)),
    "nifti 2 packed": (Kind.NIFTI, lambda path: write_nifti(path, packed=True, second=True)),
    "nrrd": (Kind.NRRD, lambda path: write_itk(path, ".nrrd")),
    "mha": (Kind.METAIMAGE, lambda path: write_itk(path, ".mha")),
}


@pytest.mark.parametrize(
    "name", ["x.nii", "X.NII.GZ", "x.Nii", "ID_0219ef88", "x.dcm", "x.mha", "ü x"]
)
@pytest.mark.parametrize("what", WRITERS)
def test_images_are_read_by_what_they_are_whatever_their_name(
    tmp_path: Path, what: str, name: str
) -> None:
    kind, write = WRITERS[what]
    write(tmp_path / name)
    assert file_kind(tmp_path / name).kind is kind
    assert file_kind(tmp_path / name).is_volume
    volume = read_image(tmp_path / name)
    np.testing.assert_array_equal(volume.array, hu())
    assert grid_distance_mm(volume.array.shape, volume.affine, (6, 5, 4), AFFINE) < 1e-4


@pytest.mark.parametrize("pair", [nib.Nifti1Pair, nib.AnalyzeImage])
def test_a_header_and_its_voxels_are_one_image(tmp_path: Path, pair: Any) -> None:
    nib.save(pair(hu(), AFFINE), tmp_path / "x.img")
    assert file_kind(tmp_path / "x.hdr").kind is Kind.ANALYZE
    np.testing.assert_array_equal(
        np.sort(read_image(tmp_path / "x.hdr").array.ravel()), np.sort(hu().ravel())
    )
    voxels = file_kind(tmp_path / "x.img")
    assert (voxels.kind, voxels.reason) == (Kind.OTHER, "the voxels of x.hdr, read with it")


def test_a_detached_metaimage_is_read_with_its_voxels(tmp_path: Path) -> None:
    import SimpleITK as sitk

    sitk.WriteImage(
        sitk.GetImageFromArray(np.ascontiguousarray(hu().transpose(2, 1, 0))),
        str(tmp_path / "x.mhd"),
    )
    np.testing.assert_array_equal(read_image(tmp_path / "x.mhd").array, hu())
    assert file_kind(tmp_path / "x.raw").reason == "the voxels of x.mhd, read with it"


@pytest.mark.parametrize("target", ["/etc/passwd", "../x.raw", "pipe", "gone.raw"])
@pytest.mark.parametrize("kind", ["mhd", "nhdr"])
def test_voxels_in_another_place_are_refused(tmp_path: Path, target: str, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    meta = (
        "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementSpacing = 1 1 1\n"
        f"ElementType = MET_SHORT\nElementDataFile = {target}\n"
    )
    nrrd = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nendian: little\n"
        f"data file: {target}\n\n"
    )
    (tmp_path / f"x.{kind}").write_text(meta if kind == "mhd" else nrrd)
    with pytest.raises(FileFormatError, match=r"another place|no regular file|does not exist"):
        read_image(tmp_path / f"x.{kind}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"hello, a note\n", "a text file"),
        (b'{"scan": 1}', "a text file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG picture"),
        (b"%PDF-1.7\n" + bytes(50), "a PDF document"),
        (b"\x93NUMPY" + bytes(50), "a NumPy array, which does not say where its voxels lie"),
        (gzip.compress(b"hello" * 200, mtime=0), "a gzip file of no image"),
        (bytes(range(256)) * 4, "no image of a known kind"),
        (gzip.compress(b"x" * 1000, mtime=0)[:12], "is cut off or damaged"),
    ],
)
def test_what_is_no_image_says_what_it_is(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.nii.gz").write_bytes(content)
    found = file_kind(tmp_path / "x.nii.gz")
    assert found.kind is Kind.OTHER
    assert reason in found.reason or found.reason == "a gzip file of no image"
    with pytest.raises(FileFormatError, match=r"x\.nii\.gz"):
        read_image(tmp_path / "x.nii.gz")


def test_dicom_is_known_with_and_without_its_preamble(tmp_path: Path) -> None:
    whole = slice_bytes(0)
    meta_end = 132 + 12 + int.from_bytes(whole[140:144], "little")
    for name, data in (
        ("whole", whole),
        ("without preamble", whole[132:]),
        ("data set alone", whole[meta_end:]),
    ):
        (tmp_path / name).write_bytes(data)
        assert file_kind(tmp_path / name).kind is Kind.DICOM, name


def test_a_zip_is_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "study", "w") as archive:
        archive.writestr("a", b"x")
    assert file_kind(tmp_path / "study").kind is Kind.ZIP


def test_folders_pipes_and_missing_files_have_their_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "folder" in file_kind(tmp_path).reason
    assert "pipe" in file_kind(tmp_path / "pipe").reason
    assert "does not exist" in file_kind(tmp_path / "gone").reason


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_have_a_kind_or_a_reason(head: bytes) -> None:
    found = kind_of(head)
    assert bool(found.reason) == (found.kind is Kind.OTHER)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["nrrd", "mha"]),
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=6)), max_size=4),
    st.integers(0, 700),
)
def test_damaged_nrrd_and_metaimage_raise_only_our_errors(
    tmp_path_factory: pytest.TempPathFactory,
    what: str,
    edits: list[tuple[int, bytes]],
    cut: int,
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x"
    WRITERS[what][1](path)
    data = bytearray(path.read_bytes())
    for place, new in edits:
        data[place : place + len(new)] = new
    path.write_bytes(bytes(data[:cut] if cut < len(data) and cut % 3 == 0 else data))
    try:
        outcome = str(read_image(path).array.ndim)
    except FileFormatError as error:
        outcome = error.message
    assert outcome == "3" or str(path) in outcome


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 1, 2, 3, 4, 5), (0,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_label_maps_are_recognised(values: tuple[int, ...], dtype: Any) -> None:
    array = np.zeros((24, 24, 8), dtype)
    array[5:10, 5:10, 2:4] = np.resize(values, (5, 5, 2))
    assert is_label_map(array)


@pytest.mark.parametrize(
    "array",
    [
        hu(),
        np.maximum(hu(), 0),
        np.random.default_rng(0).random((8, 8, 8)),
        np.random.default_rng(0).integers(0, 256, (16, 16, 8)),
        np.full((8, 8, 8), 7),
        np.zeros((0, 4, 4)),
    ],
    ids=["hu", "no air", "probability", "8 bit", "all one value", "nothing"],
)
def test_scans_and_probabilities_are_no_label_maps(array: Any) -> None:
    assert not is_label_map(array)


def test_what_this_project_writes_as_a_mask_is_a_label_map(tmp_path: Path) -> None:
    mask = np.zeros((9, 8, 7), dtype=bool)
    mask[2:4, 3:5, 1:3] = True
    write_volume(tmp_path / "m.nii.gz", Volume(mask, AFFINE))
    assert is_label_map(read_image(tmp_path / "m.nii.gz").array)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tar_archives_are_named_with_the_way_out(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a.dcm").write_bytes(slice_bytes(0))
    path = tmp_path / "scans.tar.gz"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(tmp_path / "a.dcm", "a.dcm")
    assert file_kind(path).reason == "a tar archive: unpack it"
