import os
import pickle
from pathlib import Path

import pytest

from hemseg_cli.core.errors import CaseError, FileFormatError, HemsegError, UsageError
from hemseg_cli.dataset.slices.sources import open_source
from tests.dataset.converted import convert_config, slice_zip, slices

FILES = slices()
IDS = list(FILES)
ABSENT = "fffffffff"


def write_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / f"ID_{name}.dcm").write_bytes(data)
    return folder


@pytest.fixture(
    params=[
        "flat folder",
        "folder with stage_2_train",
        "Kaggle's folders",
        "stored zip",
        "deflated zip",
        "flat zip",
        "Kaggle's zip",
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same slices in every form that is read in place."""
    match request.param:
        case "flat folder":
            return write_folder(tmp_path / "dicom")
        case "folder with stage_2_train":
            return write_folder(tmp_path / "dicom" / "stage_2_train").parent
        case "Kaggle's folders":
            write_folder(
                tmp_path / "dicom" / "rsna-intracranial-hemorrhage-detection" / "stage_2_train"
            )
            return tmp_path / "dicom"
    path = tmp_path / "dicom.zip"
    folder = {
        "flat zip": "",
        "Kaggle's zip": "rsna-intracranial-hemorrhage-detection/stage_2_train/",
    }.get(request.param, "stage_2_train/")
    path.write_bytes(
        slice_zip(FILES, folder=folder, method=0 if request.param == "stored zip" else 8)
    )
    return path


def test_slices_come_by_id_in_the_order_asked(place: Path, tmp_path: Path) -> None:
    with open_source(convert_config(tmp_path, place)) as source:
        assert source.read(IDS[3]) == FILES[IDS[3]]
        assert source.read_many(IDS[::-1]) == [FILES[name] for name in IDS[::-1]]


def test_what_is_missing_is_named_and_not_sized(place: Path, tmp_path: Path) -> None:
    with open_source(convert_config(tmp_path, place)) as source:
        assert source.missing([IDS[0], ABSENT, IDS[1]]) == [ABSENT]
        sizes = source.sizes([*IDS, ABSENT])
        assert list(sizes) == IDS
        assert all(0 < size <= 3000 for size in sizes.values())
        with pytest.raises(CaseError, match=f"slice {ABSENT} is not in"):
            source.read(ABSENT)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "12345678", "ABCDEF012", "123456789\n"])
def test_what_is_no_id_never_becomes_a_path(place: Path, tmp_path: Path, name: str) -> None:
    with (
        open_source(convert_config(tmp_path, place)) as source,
        pytest.raises(CaseError, match="is not 9 hexadecimal digits"),
    ):
        source.read(name)


def test_a_source_can_be_sent_to_a_worker_while_it_is_open(place: Path, tmp_path: Path) -> None:
    with open_source(convert_config(tmp_path, place)) as source:
        source.read(IDS[0])
        sent = pickle.dumps(source)
        assert len(sent) < 5000
        with pickle.loads(sent) as copy:
            assert copy.read_many(IDS) == list(FILES.values())


def test_the_size_of_a_folder_is_its_files_and_of_a_zip_its_packed_members(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "dicom")
    (tmp_path / "dicom.zip").write_bytes(slice_zip(FILES))
    with open_source(convert_config(tmp_path, folder)) as source:
        assert sum(source.sizes(IDS).values()) == 12 * 3000
    with open_source(convert_config(tmp_path, tmp_path / "dicom.zip")) as source:
        assert 12 * 1500 < sum(source.sizes(IDS).values()) < 12 * 1600


def test_the_index_of_a_zip_is_kept_and_follows_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "dicom.zip"
    path.write_bytes(slice_zip(FILES))
    config = convert_config(tmp_path, path)
    cache = tmp_path / "tiny" / ".cache" / "zip-index"
    for _ in range(2):
        with open_source(config) as source:
            assert source.missing(IDS) == []
    kept = list(cache.iterdir())
    assert len(kept) == 1
    path.write_bytes(slice_zip(dict(list(FILES.items())[:5])))
    with open_source(config) as source:
        assert source.missing(IDS) == IDS[5:]
    kept[0].write_bytes(b"damaged")
    path.write_bytes(slice_zip(FILES))
    os.utime(path, ns=(1, 1))
    with open_source(config) as source:
        assert source.read_many(IDS) == list(FILES.values())


def test_slices_beyond_the_fourth_gigabyte_are_found(tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.seek(5 * 2**30)  # a hole: no room is taken
        file.write(slice_zip(FILES))
    with open_source(convert_config(tmp_path, path)) as source:
        assert source.read_many(IDS) == list(FILES.values())


def test_a_damaged_member_names_its_slice_and_the_others_are_read(tmp_path: Path) -> None:
    data = bytearray(slice_zip(FILES, method=0))
    data[data.index(FILES[IDS[4]]) + 100] ^= 0xFF
    path = tmp_path / "dicom.zip"
    path.write_bytes(data)
    with open_source(convert_config(tmp_path, path)) as source:
        with pytest.raises(CaseError, match=f"slice {IDS[4]} is damaged"):
            source.read(IDS[4])
        assert source.read(IDS[5]) == FILES[IDS[5]]


def test_damage_anywhere_in_a_packed_member_is_found(tmp_path: Path) -> None:
    good = slice_zip(FILES)
    start = good.index(b"PK\3\4")
    path = tmp_path / "dicom.zip"
    config = convert_config(tmp_path, path)
    found = 0
    for offset in range(0, 1500, 50):
        data = bytearray(good)
        data[start + offset] ^= 0x55
        path.write_bytes(data)
        with open_source(config) as source:
            try:
                assert source.read(IDS[0]) == FILES[IDS[0]]
            except CaseError as error:
                found += IDS[0] in error.message
    assert found >= 28


def test_a_member_that_unpacks_to_more_than_it_says_is_stopped(tmp_path: Path) -> None:
    bomb = {IDS[0]: bytes(20_000_000)}
    data = bytearray(slice_zip(bomb))
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = (1000).to_bytes(4, "little")
    path = tmp_path / "dicom.zip"
    path.write_bytes(data)
    with (
        open_source(convert_config(tmp_path, path)) as source,
        pytest.raises(CaseError, match="1,001 of 1,000 bytes"),
    ):
        source.read(IDS[0])


def test_a_slice_that_stands_twice_is_refused(tmp_path: Path) -> None:
    from tests.dataset.label_files import zip_bytes

    path = tmp_path / "dicom.zip"
    path.write_bytes(zip_bytes({f"ID_{IDS[0]}.dcm": b"a", f"stage_2_train/ID_{IDS[0]}.dcm": b"b"}))
    with pytest.raises(FileFormatError, match=f"slice {IDS[0]} stands there twice"):
        open_source(convert_config(tmp_path, path))


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (8, b"\1\0", "flags 1"),
        (10, b"\x0e\0", "method 14"),
        (24, b"\0\0\0\x10", "268,435,456 bytes"),
    ],
)
def test_members_that_cannot_be_read_are_refused_when_the_archive_is_opened(
    tmp_path: Path, offset: int, value: bytes, message: str
) -> None:
    data = bytearray(slice_zip(FILES))
    at = data.index(b"PK\1\2") + offset
    data[at : at + len(value)] = value
    path = tmp_path / "dicom.zip"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=message):
        open_source(convert_config(tmp_path, path))


def test_what_is_no_source_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no DICOM source"):
        open_source(convert_config(tmp_path, None))
    with pytest.raises(HemsegError, match="does not exist"):
        open_source(convert_config(tmp_path, tmp_path / "nowhere"))
    (tmp_path / "x.zip").write_bytes(b"not a zip")
    with pytest.raises(FileFormatError, match="not a zip archive"):
        open_source(convert_config(tmp_path, tmp_path / "x.zip"))
    (tmp_path / "x.zip").write_bytes(slice_zip({}))
    with pytest.raises(FileFormatError, match="holds no slices"):
        open_source(convert_config(tmp_path, tmp_path / "x.zip"))
    with pytest.raises(UsageError, match="only https://"):
        open_source(convert_config(tmp_path, "http://example.com/rsna.zip"))
