from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.names import check_scan_id, check_split, first_few


@pytest.mark.parametrize("scan", ["0a1b2c3d4e", "sub-01_ses-1", "a.b", "Kopf-Übersicht", "-x"])
def test_plain_ids_are_taken(scan: str) -> None:
    assert check_scan_id(scan, place="t.csv") == scan


@pytest.mark.parametrize(
    "scan",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc/x",
        "a/b",
        "a\\b",
        "C:x",
        "a b",
        "a\n",
        "\x1b[2J",
        ".hidden",
        "~",
    ],
)
def test_ids_that_lead_elsewhere_are_refused_with_their_place(scan: str) -> None:
    with pytest.raises(FileFormatError, match=r"t\.csv, line 3: .* is not a scan id") as caught:
        check_scan_id(scan, place="t.csv, line 3")
    assert caught.value.message.isprintable()


def test_an_id_has_room_in_a_file_name() -> None:
    assert check_scan_id("x" * 120, place="t")
    with pytest.raises(FileFormatError, match="a scan id of 121 characters"):
        check_scan_id("x" * 121, place="t")


@given(st.text(max_size=30))
def test_a_taken_id_names_a_file_in_its_folder(text: str) -> None:
    try:
        check_scan_id(text, place="t")
    except FileFormatError:
        return
    path = Path("/data/x") / f"{text}.nii.gz"
    assert path.parent == Path("/data/x")
    assert Path(*path.parts).resolve().parent == Path("/data/x")
    path.name.encode()


def test_a_case_may_be_without_split_but_not_in_a_strange_one() -> None:
    assert check_split("", place="t") == ""
    assert check_split("val", place="t") == "val"
    with pytest.raises(FileFormatError, match="is not a split"):
        check_split("../up", place="t")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2 and 1 more"), (9, "0, 1, 2 and 6 more")],
)
def test_first_few_are_named_and_the_others_counted(count: int, text: str) -> None:
    assert first_few(range(count), most=3) == text
