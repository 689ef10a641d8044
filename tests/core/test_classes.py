from pathlib import Path

import pytest

from hemseg_cli.core.classes import (
    HEMORRHAGE_ONLY,
    PREDEFINED,
    LabelClass,
    classes_from_plain,
    classes_to_plain,
    read_classes,
    write_classes,
)
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import FileFormatError


def test_without_a_file_hemorrhage_is_the_only_class(tmp_path: Path) -> None:
    (only,) = read_classes(DataDirectory(tmp_path))
    assert (only.value, only.key) == (1, "hemorrhage")
    assert (only,) == HEMORRHAGE_ONLY


def test_classes_are_read_as_they_were_written_by_value(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    write_classes(data, PREDEFINED[::-1])
    assert read_classes(data) == PREDEFINED
    assert classes_from_plain(classes_to_plain(PREDEFINED), place="x") == PREDEFINED


def test_codes_are_those_of_the_dicom_dictionary() -> None:
    from pydicom.sr.codedict import codes

    by_key = {each.key: each for each in PREDEFINED}
    assert by_key["hemorrhage"].snomed == codes.SCT.Hemorrhage.value
    assert by_key["edema"].snomed == codes.SCT.Edema.value
    assert len({each.snomed for each in PREDEFINED}) == len(PREDEFINED)
    assert len({each.colour for each in PREDEFINED}) == len(PREDEFINED)


def test_a_short_table_by_hand_is_enough(tmp_path: Path) -> None:
    (tmp_path / "classes.toml").write_text('[[classes]]\nvalue = 3\nkey = "IVH"\n')
    assert read_classes(DataDirectory(tmp_path)) == (LabelClass(3, "IVH"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes = 3", "no list of classes"),
        ("", "no list of classes"),
        ("[[classes", "is not TOML"),
        ('[[classes]]\nkey = "a"', "class 1: value = None"),
        ('[[classes]]\nvalue = 0\nkey = "a"', "class 1: value = 0 "),
        ('[[classes]]\nvalue = true\nkey = "a"', "class 1: value = True"),
        ('[[classes]]\nvalue = 256\nkey = "a"', "whole number from 1 to 255"),
        ("[[classes]]\nvalue = 1\nkey = 2", "key = 2 is not text"),
        ('[[classes]]\nvalue = 1\nkey = "../a"', "'../a' is not a class key"),
        ('[[classes]]\nvalue = 1\nkey = "a"\ncolor = "red"', "unknown key color"),
        ('[[classes]]\nvalue = 1\nkey = "a"\ncolour = [1, 2, 999]', "three whole numbers"),
        ('[[classes]]\nvalue = 1\nkey = "a"\nsnomed = "x"', "snomed = 'x' is not a code"),
        (2 * '[[classes]]\nvalue = 1\nkey = "a"\n', "two classes with the same value"),
        (
            '[[classes]]\nvalue = 1\nkey = "a"\n[[classes]]\nvalue = 2\nkey = "a"\n',
            "two classes with the same key",
        ),
    ],
)
def test_bad_classes_are_refused_with_file_and_place(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "classes.toml").write_text(text)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_classes(DataDirectory(tmp_path))
    assert "classes.toml" in caught.value.message


def test_what_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="value = 300"):
        write_classes(DataDirectory(tmp_path), [LabelClass(300, "a")])
    assert list(tmp_path.iterdir()) == []
