from pathlib import Path

import pytest

from hemseg_cli.config.schema import DataConfig
from hemseg_cli.core.cases import Case
from hemseg_cli.core.data_directory import DataDirectory

DATA = DataDirectory(Path("data/mine"))


def test_names_inside_a_data_set_are_those_of_the_design() -> None:
    assert DATA.cases_file == Path("data/mine/cases.csv")
    assert DATA.classes_file == Path("data/mine/classes.toml")
    assert DATA.manifest_file == Path("data/mine/manifest.jsonl")
    assert DATA.conversion_file == Path("data/mine/conversion.csv")
    assert DATA.source_file == Path("data/mine/source.json")
    assert DATA.cache == Path("data/mine/.cache")
    assert DATA.label_file("x", "val") == Path("data/mine/val/label/x.nii.gz")
    assert DATA.image_file("x", "") == Path("data/mine/excluded/image/x.nii.gz")
    assert DataConfig(dataset="mine").directory == DATA


@pytest.mark.parametrize(
    ("image", "sidecar"), [("x.nii.gz", "x.json"), ("x.nii", "x.json"), ("a.b.nii.gz", "a.b.json")]
)
def test_sidecar_stands_beside_its_image(image: str, sidecar: str) -> None:
    assert DATA.sidecar_file(Path("a") / image) == Path("a") / sidecar


@pytest.mark.parametrize(
    ("case", "label", "image"),
    [
        (Case("x", split="test"), "test/label/x.nii.gz", "test/image/x.nii.gz"),
        (Case("x"), "excluded/label/x.nii.gz", "excluded/image/x.nii.gz"),
        (Case("x", label="train/label/x.nii.gz"), "train/label/x.nii.gz", "train/image/x.nii.gz"),
        (Case("x", "", "val", label="x.nii.gz"), "x.nii.gz", "val/image/x.nii.gz"),
        (Case("x", image="a/b.nii", label="c/d.nii"), "c/d.nii", "a/b.nii"),
    ],
)
def test_a_case_lies_where_the_table_says_else_in_its_split(
    case: Case, label: str, image: str
) -> None:
    assert DATA.label_of(case) == DATA.path / label
    assert DATA.image_of(case) == DATA.path / image


def test_a_case_without_split_and_image_stays_inside_the_data_set() -> None:
    assert DATA.image_of(Case("x")).is_relative_to(DATA.path)
