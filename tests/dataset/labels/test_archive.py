import io
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.dataset.labels.archive import MOST_LABEL_BYTES, LabelArchive
from tests.dataset.label_files import label_bytes, scan_id, zip_bytes

GOOD = "HemSeg/train/label/0123456789.nii.gz"
OTHER = "HemSeg/test/label/abcdef0123.nii.gz"


@pytest.fixture
def archive_of(tmp_path: Path):
    def write(members: dict[str, bytes] | bytes) -> Path:
        path = tmp_path / "labels.zip"
        path.write_bytes(members if isinstance(members, bytes) else zip_bytes(members))
        return path

    return write


def test_labels_are_taken_by_pattern_and_the_rest_is_left_alone(archive_of) -> None:
    data = label_bytes()
    members = {
        "HemSeg/": b"",
        "HemSeg/train/label/": b"",
        GOOD: data,
        OTHER: b"x",
        "README.txt": b"hello",
        "HemSeg/train/0123456789.nii": b"?",
    }
    with LabelArchive(archive_of(members)) as archive:
        assert {scan: member.split for scan, member in archive.members.items()} == {
            "0123456789": "train",
            "abcdef0123": "test",
        }
        assert archive.read(archive.members["0123456789"]) == data


@pytest.mark.parametrize(
    "name",
    [
        "../0123456789.nii.gz",
        "HemSeg/../../train/label/0123456789.nii.gz",
        "/etc/passwd",
        "C:/train/label/0123456789.nii.gz",
        "HemSeg\\..\\x",
        "HemSeg/..",
    ],
)
def test_a_member_that_would_leave_its_folder_condemns_the_archive(archive_of, name: str) -> None:
    with pytest.raises(FileFormatError, match="would leave its folder"):
        LabelArchive(archive_of({GOOD: b"x", name: b"y"}))


def test_a_name_with_a_nul_is_refused(archive_of) -> None:
    data = zip_bytes({GOOD: b"x", "HemSeg/aQb": b"y"}).replace(b"HemSeg/aQb", b"HemSeg/a\0b")
    with pytest.raises(FileFormatError, match="would leave its folder"):
        LabelArchive(archive_of(data))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_a_link_or_a_device_condemns_the_archive(archive_of, kind: int) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo(GOOD)
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(FileFormatError, match="link or device"):
        LabelArchive(archive_of(file.getvalue()))


def test_a_name_that_repeats_condemns_the_archive(archive_of) -> None:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # zipfile itself warns of the repeated name
        archive.writestr(GOOD, b"x")
        archive.writestr(GOOD, b"y")
    with pytest.raises(FileFormatError, match="stands there twice"):
        LabelArchive(archive_of(file.getvalue()))


def test_names_that_differ_in_case_alone_condemn_the_archive(archive_of) -> None:
    with pytest.raises(FileFormatError, match="stands there and as"):
        LabelArchive(archive_of({GOOD: b"x", GOOD.replace("train", "Train"): b"y"}))


def test_one_scan_in_two_splits_condemns_the_archive(archive_of) -> None:
    with pytest.raises(FileFormatError, match="scan 0123456789 stands there as"):
        LabelArchive(archive_of({GOOD: b"x", GOOD.replace("train", "test"): b"x"}))


def test_an_encrypted_member_is_refused(archive_of) -> None:
    data = bytearray(zip_bytes({GOOD: b"x"}))
    at = data.index(b"PK\1\2") + 8
    data[at : at + 2] = struct.pack("<H", 1)
    with pytest.raises(FileFormatError, match="encrypted"):
        LabelArchive(archive_of(bytes(data)))


def test_a_bomb_that_tells_its_size_is_refused_unread(archive_of) -> None:
    bomb = zip_bytes({GOOD: bytes(MOST_LABEL_BYTES + 1)})
    assert len(bomb) * 900 < MOST_LABEL_BYTES
    with pytest.raises(FileFormatError, match="no label has more than"):
        LabelArchive(archive_of(bomb))


def test_a_bomb_that_lies_about_its_size_is_damaged_and_no_more_than_that_is_unpacked(
    archive_of,
) -> None:
    data = bytearray(zip_bytes({GOOD: bytes(8 * 2**20)}))
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = struct.pack("<I", 1000)
    with (
        LabelArchive(archive_of(bytes(data))) as archive,
        pytest.raises(FileFormatError, match=r"damaged|more than its 1,000"),
    ):
        archive.read(archive.members["0123456789"])


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"not a zip" * 50, zip_bytes({GOOD: b"x" * 500})[:-10]]
)
def test_what_is_no_whole_zip_is_refused(archive_of, data: bytes) -> None:
    with pytest.raises(FileFormatError, match="not a zip archive"):
        LabelArchive(archive_of(data))


def test_an_archive_without_labels_is_refused(archive_of) -> None:
    with pytest.raises(FileFormatError, match="holds no labels"):
        LabelArchive(archive_of({"readme": b"x"}))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 600),
)
def test_damaged_archives_give_the_same_bytes_or_our_error(
    archive_of, changes: list[tuple[int, int]], cut: int
) -> None:
    content = {GOOD: label_bytes(), OTHER: label_bytes(voxels=3)}
    data = bytearray(zip_bytes(content))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        with LabelArchive(archive_of(bytes(data[: max(len(data) - cut % 40, 0)]))) as archive:
            read = {member.name: archive.read(member) for member in archive.members.values()}
    except FileFormatError:
        return
    assert set(read.values()) <= set(content.values())


@settings(max_examples=300, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 2**20), st.binary(max_size=12)), max_size=4))
def test_a_damaged_archive_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[tuple[int, bytes]]
) -> None:
    good = zip_bytes({f"tiny/train/label/{scan_id(n)}.nii.gz": label_bytes() for n in range(3)})
    damaged = bytearray(good)
    for place, part in cuts:
        start = place % (len(damaged) + 1)
        damaged[start : start + len(part)] = part or b""
        if not part:
            del damaged[start:]
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(damaged)
    try:
        with LabelArchive(path) as archive:
            for member in archive.members.values():
                archive.read(member)
        outcome = "read"
    except FileFormatError as error:
        outcome = "refused" if "damaged.zip" in error.message else error.message
    assert outcome in ("read", "refused")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_that_no_label_archive_uses_is_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(
        zip_bytes({f"tiny/train/label/{scan_id(1)}.nii.gz": label_bytes()}, method=method)
    )
    with pytest.raises(FileFormatError, match="neither stored nor deflated"):
        LabelArchive(path)
