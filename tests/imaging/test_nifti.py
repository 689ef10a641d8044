"""NIfTI in and out: whole or not at all, read by others as meant, damaged files said in words."""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.imaging.geometry import lps_to_ras
from hemseg_cli.imaging.nifti import (
    Volume,
    read_header,
    read_nifti_header,
    read_volume,
    write_volume,
)

TILTED = np.array(
    [
        [-0.5, 0.0, 0.0, 20.0],
        [0.0, -0.47, -1.7, 30.0],
        [0.0, -0.17, 4.7, -10.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def some_array(dtype: Any = np.int16) -> Any:
    return np.arange(5 * 4 * 3).reshape(5, 4, 3).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.int32])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_round_trip_keeps_type_numbers_and_place(tmp_path: Path, dtype: Any, name: str) -> None:
    write_volume(tmp_path / name, Volume(some_array(dtype), TILTED))
    volume = read_volume(tmp_path / name)
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, some_array(dtype))
    np.testing.assert_allclose(volume.affine, TILTED, atol=1e-5)
    shape, affine = read_header(tmp_path / name)
    assert shape == (5, 4, 3)
    np.testing.assert_array_equal(affine, volume.affine)


def test_simpleitk_reads_the_same_voxels_at_the_same_place(tmp_path: Path) -> None:
    import SimpleITK as sitk

    affine = np.eye(4)
    turn = np.radians(20.0)
    affine[:3, :3] = np.array(
        [[-1, 0, 0], [0, -np.cos(turn), -np.sin(turn)], [0, -np.sin(turn), np.cos(turn)]]
    ) * [0.5, 0.5, 5.0]
    affine[:3, 3] = [12.0, 34.0, -56.0]
    write_volume(tmp_path / "x.nii.gz", Volume(some_array(), affine))
    image = sitk.ReadImage(str(tmp_path / "x.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), some_array())
    theirs = np.eye(4)
    theirs[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    theirs[:3, 3] = image.GetOrigin()
    np.testing.assert_allclose(lps_to_ras(theirs), affine, atol=1e-4)


def test_a_mask_is_stored_as_bytes_and_any_memory_order_is_right(tmp_path: Path) -> None:
    mask = some_array() % 2 == 0
    write_volume(tmp_path / "mask.nii.gz", Volume(mask, np.eye(4)))
    assert read_volume(tmp_path / "mask.nii.gz").array.dtype == np.uint8
    for array in (np.asfortranarray(some_array()), some_array()[::-1, :, ::-1]):
        write_volume(tmp_path / "x.nii.gz", Volume(array, np.eye(4)))
        np.testing.assert_array_equal(nib.load(tmp_path / "x.nii.gz").get_fdata(), array)


def test_a_sheared_affine_stands_in_the_sform_alone(tmp_path: Path) -> None:
    sheared = np.array([[0.5, 0, 0, 0], [0, 0.5, 1.0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1.0]])
    write_volume(tmp_path / "x.nii", Volume(some_array(), sheared))
    header = nib.load(tmp_path / "x.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(read_volume(tmp_path / "x.nii").affine, sheared)


def test_a_label_with_a_qform_alone_is_read_by_it(tmp_path: Path) -> None:
    image = nib.Nifti1Image(some_array(), None)
    image.set_qform(np.diag([-0.5, -0.5, 5.0, 1.0]), code=1)
    image.set_sform(None, code=0)
    nib.save(image, tmp_path / "x.nii.gz")
    np.testing.assert_allclose(
        read_volume(tmp_path / "x.nii.gz").affine, np.diag([-0.5, -0.5, 5.0, 1.0])
    )
    np.testing.assert_allclose(
        read_header(tmp_path / "x.nii.gz")[1], np.diag([-0.5, -0.5, 5.0, 1.0])
    )


def test_a_slope_is_for_the_reader_to_apply(tmp_path: Path) -> None:
    write_volume(tmp_path / "p.nii.gz", Volume(some_array(np.uint8), np.eye(4)), slope=1 / 255)
    np.testing.assert_allclose(
        nib.load(tmp_path / "p.nii.gz").get_fdata(), some_array() / 255, rtol=1e-6
    )
    np.testing.assert_allclose(
        read_volume(tmp_path / "p.nii.gz").array, some_array() / 255, rtol=1e-6
    )


def test_the_same_voxels_give_the_same_file_in_standard_gzip(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, Volume(some_array(), np.eye(4)))
    data = (tmp_path / "a.nii.gz").read_bytes()
    assert data == (tmp_path / "b.nii.gz").read_bytes()
    assert len(gzip.decompress(data)) == 352 + 5 * 4 * 3 * 2
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.nii.gz", "b.nii.gz"]


def test_files_stay_within_a_tenth_of_zlib_6(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(30, 5, (96, 96, 12))
    hu = np.where(np.hypot(*np.mgrid[-48:48, -48:48])[:, :, None] < 30, noise, -1000).astype(
        np.int16
    )
    write_volume(tmp_path / "x.nii.gz", Volume(hu, np.eye(4)))
    data = (tmp_path / "x.nii.gz").read_bytes()
    assert len(data) < 1.1 * len(zlib.compress(gzip.decompress(data), 6))


def test_trailing_dimensions_of_one_are_dropped_and_others_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(some_array()[..., None, None], np.eye(4)), tmp_path / "one.nii.gz")
    assert read_volume(tmp_path / "one.nii.gz").array.shape == (5, 4, 3)
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3, 2), np.int16), np.eye(4)), tmp_path / "two.nii.gz")
    with pytest.raises(FileFormatError, match="has 4 dimensions"):
        read_volume(tmp_path / "two.nii.gz")
    colour = np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(FileFormatError, match="holds colour voxels, not CT numbers"):
        read_volume(tmp_path / "rgb.nii")


def test_a_file_of_several_gzip_members_is_read(tmp_path: Path) -> None:
    write_volume(tmp_path / "x.nii", Volume(some_array(), TILTED))
    data = (tmp_path / "x.nii").read_bytes()
    (tmp_path / "y.nii.gz").write_bytes(
        b"".join(gzip.compress(data[start : start + 100]) for start in range(0, len(data), 100))
    )
    np.testing.assert_array_equal(read_volume(tmp_path / "y.nii.gz").array, some_array())


def test_a_bomb_is_unpacked_no_further_than_its_header_says(tmp_path: Path) -> None:
    write_volume(tmp_path / "x.nii", Volume(some_array(), np.eye(4)))
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = (
        packer.compress((tmp_path / "x.nii").read_bytes())
        + b"".join(packer.compress(bytes(2**20)) for _ in range(64))
        + packer.flush()
    )
    (tmp_path / "bomb.nii.gz").write_bytes(zeros)
    np.testing.assert_array_equal(read_volume(tmp_path / "bomb.nii.gz").array, some_array())
    header = nib.Nifti1Header()
    header.set_data_shape((30_000, 30_000, 30_000))
    header.set_data_offset(352)
    header["sform_code"] = 1
    header["srow_x"], header["srow_y"], header["srow_z"] = np.eye(4)[:3]
    (tmp_path / "huge.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(2**20)))
    with pytest.raises(FileFormatError, match="would unpack to"):
        read_volume(tmp_path / "huge.nii.gz")


def damaged_files(tmp_path: Path) -> dict[str, Path]:
    write_volume(tmp_path / "good.nii.gz", Volume(some_array(), np.eye(4)))
    good = (tmp_path / "good.nii.gz").read_bytes()
    plain = gzip.decompress(good)
    no_place = nib.Nifti1Header.from_fileobj(io.BytesIO(plain))
    no_place["srow_x"] = no_place["srow_y"] = 0
    wrong_sum = bytearray(good)
    wrong_sum[-8] ^= 0xFF
    contents = {
        "no NIfTI": b"hello world" * 100,
        "empty": b"",
        "cut gzip": good[: len(good) // 2],
        "cut voxels": plain[:-10],
        "cut header": plain[:200],
        "wrong checksum": bytes(wrong_sum),
        "no affine": no_place.binaryblock + plain[348:],
    }
    paths = {}
    for number, (what, data) in enumerate(contents.items()):
        paths[what] = tmp_path / (
            f"bad{number}.nii.gz" if data[:1] == b"\x1f" else f"bad{number}.nii"
        )
        paths[what].write_bytes(data)
    return paths


@pytest.mark.parametrize(
    "what",
    ["no NIfTI", "empty", "cut gzip", "cut voxels", "cut header", "wrong checksum", "no affine"],
)
def test_damaged_files_are_named(tmp_path: Path, what: str) -> None:
    path = damaged_files(tmp_path)[what]
    with pytest.raises(FileFormatError) as caught:
        read_volume(path)
    assert str(path) in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for read in (read_volume, read_header):
        with pytest.raises(FileFormatError, match=r"x\.nii\.gz does not exist"):
            read(tmp_path / "x.nii.gz")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HemsegError, match="cannot write"):
        write_volume(tmp_path / "file" / "x.nii.gz", Volume(some_array(), np.eye(4)))


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.NII.GZ"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64])
def test_nifti_2_is_read_as_nifti_1(tmp_path: Path, name: str, dtype: Any) -> None:
    image = nib.Nifti2Image(some_array(dtype), TILTED)
    image.set_sform(TILTED, code=1)
    data = image.to_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.lower().endswith("z") else data)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, some_array(dtype))
    np.testing.assert_allclose(volume.affine, TILTED)
    assert read_header(tmp_path / name)[0] == (5, 4, 3)


@pytest.mark.parametrize("swapped", ["<", ">"])
def test_either_byte_order_gives_numbers_of_this_machine(tmp_path: Path, swapped: str) -> None:
    header = nib.Nifti1Header(endianness=swapped)
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(some_array(), TILTED, header), tmp_path / "x.nii")
    volume = read_volume(tmp_path / "x.nii")
    assert volume.array.dtype == np.dtype("int16")
    np.testing.assert_array_equal(volume.array, some_array())


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1000.0), ("meter", 0.001), ("mm", 1.0)])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1)])
def test_units_of_length_are_honoured(
    tmp_path: Path, unit: str, factor: float, codes: tuple[int, int]
) -> None:
    grid = np.diag([-0.5, -0.4, 5.0, 1.0])
    grid[:3, 3] = [10.0, -20.0, 30.0]
    stored = np.diag([factor, factor, factor, 1.0]) @ grid
    image = nib.Nifti1Image(some_array(), stored)
    image.set_sform(stored, codes[0])
    image.set_qform(stored, codes[1])
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "x.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "x.nii.gz").affine, grid, rtol=1e-5)


@pytest.mark.parametrize("factor", [1000.0, 1e-3, 1e4])
def test_a_spacing_that_no_scanner_has_is_refused_with_its_millimetres(
    tmp_path: Path, factor: float
) -> None:
    nib.save(
        nib.Nifti1Image(some_array(), np.diag([0.5 * factor, 0.5 * factor, 5.0 * factor, 1.0])),
        tmp_path / "x.nii",
    )
    with pytest.raises(
        FileFormatError, match=r"x\.nii has voxels of .* mm: no head CT has"
    ) as caught:
        read_volume(tmp_path / "x.nii")
    assert "unit" in caught.value.hint


def test_a_mask_is_written_in_the_units_of_its_image(tmp_path: Path) -> None:
    stored = np.diag([500.0, 400.0, 5000.0, 1.0])
    image = nib.Nifti1Image(some_array(), stored)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "image.nii")
    volume = read_volume(tmp_path / "image.nii")
    mask = Volume((volume.array > 7).astype(np.uint8), volume.affine)
    write_volume(tmp_path / "mask.nii.gz", mask, like=read_nifti_header(tmp_path / "image.nii"))
    written = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(written.affine, stored)
    assert written.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_allclose(read_volume(tmp_path / "mask.nii.gz").affine, volume.affine)


@pytest.mark.parametrize("shape", [(0, 4, 3), (5, 0, 3), (0, 0, 0), (5, 4, 0, 2)])
def test_an_image_without_voxels_says_so(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(FileFormatError, match=r"x\.nii has no voxels: its size is \d"):
        read_volume(tmp_path / "x.nii")


def test_a_sparse_file_of_terabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((20_000, 20_000, 2_000))
    header.set_data_dtype(np.int16)
    header.set_data_offset(352)
    header["srow_x"], header["srow_y"], header["srow_z"] = np.eye(4)[:3]
    header["sform_code"] = 1
    with (tmp_path / "x.nii").open("wb") as file:
        file.write(header.binaryblock)
        file.truncate(2 * 10**12)
    with pytest.raises(FileFormatError, match="is larger than any head CT"):
        read_volume(tmp_path / "x.nii")


def test_what_lies_behind_the_voxels_is_not_read(tmp_path: Path) -> None:
    write_volume(tmp_path / "x.nii", Volume(some_array(), TILTED))
    with (tmp_path / "x.nii").open("ab") as file:
        file.truncate(10**11)
    np.testing.assert_array_equal(read_volume(tmp_path / "x.nii").array, some_array())


def test_an_unpacked_file_called_gz_and_a_packed_one_called_nii_are_read(tmp_path: Path) -> None:
    write_volume(tmp_path / "x.nii", Volume(some_array(), TILTED))
    data = (tmp_path / "x.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(data)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(data))
    for name in ("plain.nii.gz", "packed.nii"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, some_array())
        assert read_header(tmp_path / name)[0] == (5, 4, 3)


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    write_volume(folder / "whole.nii", Volume(some_array(), TILTED))
    return folder


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    st.lists(st.tuples(st.integers(0, 351), st.binary(min_size=1, max_size=6)), max_size=4),
    st.integers(0, 472),
    st.booleans(),
    st.booleans(),
)
def test_damaged_bytes_raise_only_our_errors(
    fuzz_folder: Path, edits: list[tuple[int, bytes]], cut: int, shorten: bool, packed: bool
) -> None:
    data = bytearray((fuzz_folder / "whole.nii").read_bytes())
    for place, new in edits:
        data[place : place + len(new)] = new
    content = bytes(data[:cut] if shorten else data)
    path = fuzz_folder / ("y.nii.gz" if packed else "y.nii")
    path.write_bytes(gzip.compress(content) if packed else content)
    for read in (read_volume, read_header):
        try:
            read(path)
            outcome = "read"
        except HemsegError as error:
            outcome = "refused" if str(path) in str(error) else str(error)
        assert outcome in ("read", "refused")
