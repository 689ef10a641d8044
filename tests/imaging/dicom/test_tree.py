"""A tree of DICOM files: series are named without free text, all else is left out by reason."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hemseg_cli.core.errors import CaseError, FileFormatError, HemsegError
from hemseg_cli.imaging.dicom.series import read_series
from hemseg_cli.imaging.dicom.tree import Tree, find_series
from hemseg_cli.imaging.nifti import Volume, write_volume
from tests.dicom_files import head, head_pixels, slice_bytes
from tests.dicom_series import read_series_folder


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_each_series_is_one_volume_wherever_its_files_lie(tmp_path: Path) -> None:
    first = head(6, SeriesNumber="3")
    names = list(first)
    lay(tmp_path / "a", {name: first[name] for name in names[:3]})
    lay(tmp_path / "b" / "deep", {f"{name}.dcm": first[name] for name in names[3:]})
    lay(tmp_path / "b", head(4, SeriesInstanceUID="1.2.3", SeriesNumber="12"))
    found = read_series_folder(tmp_path)
    assert [volume.array.shape[2] for _name, volume, _sidecar in found] == [6, 4]
    assert [name[:11] for name, _volume, _sidecar in found] == ["series-003-", "series-012-"]
    np.testing.assert_array_equal(found[0][1].array[:, :, 2].T, head_pixels(2))
    assert found[0][2].source_slices[0].startswith(("a/", "b/deep/"))


def test_what_is_no_ct_slice_is_named_and_left_out(tmp_path: Path) -> None:
    lay(tmp_path, head(4))
    lay(
        tmp_path / "other",
        {
            "scout": slice_bytes(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
            "mr": slice_bytes(0, Modality="MR"),
            "report": slice_bytes(0, Rows=None, Columns=None),
            "screen": slice_bytes(0, PhotometricInterpretation="RGB", SamplesPerPixel=3),
            "dose": slice_bytes(0, ImageType=["DERIVED", "SECONDARY"], ImagePositionPatient=None),
            "readme.txt": b"hello",
            "DICOMDIR": slice_bytes(0),
        },
    )
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    with Tree(tmp_path) as tree:
        listing = find_series(tree)
    assert len(listing.series) == 1
    assert dict(listing.left_out) == {
        "other/DICOMDIR": "an index (DICOMDIR)",
        "other/dose": "a secondary capture without a place in the patient",
        "other/mr": "modality MR, not CT",
        "other/readme.txt": "not a DICOM file",
        "other/report": "not an image",
        "other/scout": "a localizer",
        "other/screen": "a colour image (secondary capture)",
        "pipe": "a pipe",
    }


def test_an_empty_file_beside_a_series_may_be_a_lost_slice(tmp_path: Path) -> None:
    lay(tmp_path, head(4) | {"notes.txt": b""})
    assert len(read_series_folder(tmp_path)) == 1
    lay(tmp_path, {"lost.dcm": b""})
    with pytest.raises(CaseError, match=r"the file is empty \(0 bytes\): lost.dcm"):
        read_series_folder(tmp_path)


def test_a_zip_is_read_in_place(tmp_path: Path) -> None:
    files = head(5)
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"study/{name}.dcm", data)
    ((_name, from_zip, _),) = read_series_folder(tmp_path / "study.zip")
    ((_name, from_folder, _),) = read_series_folder(lay(tmp_path / "folder", files))
    np.testing.assert_array_equal(from_zip.array, from_folder.array)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "study.zip"]


def test_a_damaged_zip_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.zip"
    files = head(4)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.dcm", data)
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 0xFF  # in the first member: its checksum is then wrong
    path.write_bytes(raw)
    with pytest.raises(CaseError) as caught:
        read_series_folder(path)
    assert f"{next(iter(files))}.dcm" in caught.value.message


@pytest.mark.parametrize("content", [None, b"hello"])
def test_what_is_no_tree_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        HemsegError,
        match="does not exist" if content is None else "neither a folder nor a zip file",
    ):
        read_series_folder(path)


def test_a_folder_without_ct_says_what_it_holds(tmp_path: Path) -> None:
    lay(tmp_path, {"note": b"hello", "mr": slice_bytes(0, Modality="MR")})
    with pytest.raises(
        HemsegError, match=r"holds no CT series \(modality MR, not CT, not a DICOM file\)"
    ):
        read_series_folder(tmp_path)


def test_the_real_tilted_scan_is_refused_for_its_steps_unless_resampled(shared_data: Path) -> None:
    with pytest.raises(
        CaseError, match=r"uneven slice steps: 1\.08, 7\.00 mm where the others have 4\.00 mm"
    ) as caught:
        read_series_folder(shared_data / "head-ct-ge.zip")
    assert "convert.uneven=resample" in caught.value.hint
    ((_name, volume, sidecar),) = read_series_folder(
        shared_data / "head-ct-ge.zip", uneven="resample"
    )
    assert sidecar.interpolated is True
    assert abs(sidecar.tilt_deg) == pytest.approx(18.5, abs=0.01)
    # from the first to the last slice along the table in the headers: 5.8360586 mm to 157.7760586
    # mm
    assert (volume.array.shape[2] - 1) * sidecar.spacing_mm[2] == pytest.approx(151.94, abs=0.01)
    assert sidecar.hu_min >= -1024  # the padding of -1500 is gone
    assert sidecar.share_brain > 0.1


def test_upright_series_keeps_millimetres(tmp_path: Path) -> None:
    lay(tmp_path, head(8, tilt_deg=20.0))
    with Tree(tmp_path) as tree:
        (series,) = find_series(tree).series
        volume, sidecar = read_series(tree, series, geometry="true")
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(np.abs(axes), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(sidecar.spacing_mm, [0.5, 0.5, 5.0], atol=1e-4)
    assert sidecar.geometry == "true"
    assert sidecar.tilt_deg == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("megabytes", [900, 3000])
def test_zeros_behind_a_slice_are_never_read(tmp_path: Path, megabytes: int) -> None:
    lay(tmp_path, head(3))
    names = sorted(path.name for path in tmp_path.iterdir())
    with (tmp_path / names[1]).open("r+b") as file:
        file.truncate(megabytes * 10**6)  # sparse: it takes no room on the disk
    with Tree(tmp_path) as tree:
        assert len(tree.read(names[1])) < 20 * 2**20
    assert read_series_folder(tmp_path)[0][1].array.shape[2] == 3


def test_a_slice_that_announces_a_gigabyte_and_more_is_refused(tmp_path: Path) -> None:
    data = slice_bytes(0, NumberOfFrames="4000", Rows=8192, Columns=8192)
    (tmp_path / "x").write_bytes(data)
    with (tmp_path / "x").open("r+b") as file:
        file.truncate(5 * 10**9)
    with Tree(tmp_path) as tree, pytest.raises(FileFormatError, match="larger than 1 GiB"):
        tree.read("x")


def test_zip_with_a_password_says_so(tmp_path: Path) -> None:
    path = tmp_path / "locked.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.dcm", slice_bytes(0))
    data = bytearray(path.read_bytes())
    # The flag of an encrypted member, in its own header and in the directory.
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with Tree(path) as tree:
        assert find_series(tree).left_out == (
            ("a.dcm", "unreadable (it needs a password: unpack the zip)"),
        )


def test_zip_in_a_zip_and_an_image_in_it_are_named_with_the_way_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.writestr("a.dcm", slice_bytes(0))
    write_volume(tmp_path / "x.nii", Volume(np.zeros((4, 4, 3), np.int16), np.eye(4)))
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "inner.zip", "inner.zip")
        archive.write(tmp_path / "x.nii", "x.nii")
        archive.writestr("notes.txt", "nothing to see here")
    with Tree(tmp_path / "outer.zip") as tree:
        reasons = dict(find_series(tree).left_out)
    assert reasons["inner.zip"] == "a zip file in a zip, where DICOM alone is read: unpack it"
    assert reasons["x.nii"] == "a nifti file in a zip, where DICOM alone is read: unpack it"
    assert reasons["notes.txt"] == "a text file"
