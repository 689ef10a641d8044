"""The case table: what is written is read again, and no split or fold tears a patient apart."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemseg_cli.core.cases import (
    Case,
    cases_in_split,
    contaminated,
    patient_folds,
    patients_across_splits,
    read_cases,
    repaired_splits,
    volume_stratum,
    with_shared_patients,
    write_cases,
)
from hemseg_cli.core.errors import FileFormatError, HemsegError

SPLIT = st.sampled_from(["train", "val", "test"])
NUMBER = st.one_of(st.none(), st.floats(0.02, 50.0).map(lambda value: round(value, 6)))


@st.composite
def tables(draw: st.DrawFn) -> list[Case]:
    count = draw(st.integers(1, 30))
    return [
        Case(
            scan=f"{number:010x}",
            patient=draw(st.sampled_from([f"ID_{n:08x}" for n in range(12)])),
            split=draw(SPLIT),
            n_slices=draw(st.one_of(st.none(), st.integers(1, 60))),
            label=f"train/label/{number:010x}.nii.gz",
            spacing_z_mm=draw(NUMBER),
            tilt_deg=draw(NUMBER),
            voxel_volume_mm3=draw(NUMBER),
            truth_ml=draw(NUMBER),
            geometry_from=draw(st.sampled_from(["", "dicom", "label"])),
        )
        for number in range(count)
    ]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cases=tables())
def test_table_is_read_as_it_was_written(tmp_path: Path, cases: list[Case]) -> None:
    cases = with_shared_patients(cases)
    write_cases(tmp_path / "cases.csv", reversed(cases))
    assert read_cases(tmp_path / "cases.csv") == cases


@settings(max_examples=60, deadline=None)
@given(cases=tables())
def test_repaired_splits_tear_no_patient_and_keep_the_test_split(cases: list[Case]) -> None:
    repaired = repaired_splits(cases)
    assert [case.scan for case in repaired] == [case.scan for case in cases]
    assert {case.scan for case in repaired if case.split == "test"} == {
        case.scan for case in cases if case.split == "test"
    }
    homes = defaultdict(set)
    for case in repaired:
        if case.split:
            homes[case.patient].add(case.split)
    assert all(len(splits) == 1 for splits in homes.values())
    shared = patients_across_splits(cases)
    assert all(
        before == after
        for before, after in zip(cases, repaired, strict=True)
        if before.patient not in shared
    )


@settings(max_examples=60, deadline=None)
@given(cases=tables(), folds=st.integers(2, 5), seed=st.integers(0, 3))
def test_folds_keep_patients_together_and_are_of_even_size(
    cases: list[Case], folds: int, seed: int
) -> None:
    patients = Counter(case.patient for case in cases)
    if len(patients) < folds:
        with pytest.raises(HemsegError, match="do not fill"):
            patient_folds(cases, folds, seed=seed)
        return
    assigned = patient_folds(cases, folds, seed=seed)
    assert set(assigned) == {case.scan for case in cases}
    assert set(assigned.values()) <= set(range(folds))
    by_patient = defaultdict(set)
    for case in cases:
        by_patient[case.patient].add(assigned[case.scan])
    assert all(len(of_patient) == 1 for of_patient in by_patient.values())
    assert patient_folds(list(reversed(cases)), folds, seed=seed) == assigned


def test_folds_spread_small_and_large_hemorrhages_evenly() -> None:
    volumes = {"<1": 0.5, "1-5": 3.0, "5-30": 12.0, ">=30": 50.0}
    cases = [
        Case(f"{stratum}{n}", patient=f"{stratum}{n}", split="train", truth_ml=ml)
        for stratum, ml in volumes.items()
        for n in range(10)
    ]
    assigned = patient_folds(cases, 5, seed=1)
    counts = Counter((assigned[case.scan], volume_stratum(case.truth_ml or 0.0)) for case in cases)
    assert set(counts.values()) == {2}
    assert len(counts) == 20


@pytest.mark.parametrize(
    ("ml", "stratum"),
    [
        (0.0, "<1"),
        (0.999, "<1"),
        (1.0, "1-5"),
        (4.99, "1-5"),
        (5.0, "5-30"),
        (30.0, ">=30"),
        (110.0, ">=30"),
    ],
)
def test_stratum_takes_its_lower_bound_in(ml: float, stratum: str) -> None:
    assert volume_stratum(ml) == stratum


def test_shared_patients_name_the_scans_in_other_splits_only() -> None:
    cases = with_shared_patients(
        [
            Case("a", "P", "train"),
            Case("b", "P", "test"),
            Case("c", "P", "train"),
            Case("d", "Q", "val"),
            Case("e", "", "val"),
        ]
    )
    assert {case.scan: case.shares_patient_with for case in cases} == {
        "a": ("b",),
        "b": ("a", "c"),
        "c": ("b",),
        "d": (),
        "e": (),
    }


def test_contaminated_names_scans_that_were_trained_on_and_are_scored() -> None:
    trained = [Case("a", split="train"), Case("b", split="train")]
    assert contaminated(
        trained, [Case("c", split="test"), Case("b", split="test"), Case("a", split="test")]
    ) == ["a", "b"]
    assert contaminated(trained, [Case("c", split="test")]) == []


def test_unknown_split_is_answered_with_those_there_are() -> None:
    with pytest.raises(HemsegError, match="split test has no cases") as caught:
        cases_in_split([Case("a", split="train"), Case("b", split="val")], "test")
    assert "train, val" in caught.value.hint


def test_missing_table_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(HemsegError, match="no case table") as caught:
        read_cases(tmp_path / "cases.csv")
    assert "hemseg fetch-labels" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan,split,truth_ml\na,train,much\n", r"line 2: truth_ml = 'much' is not a number"),
        ("scan,split,truth_ml\na,train,nan\n", r"line 2: truth_ml = 'nan' is not a number"),
        ("scan,split,tilt_deg\na,train,inf\n", r"line 2: tilt_deg = 'inf' is not a number"),
        (
            "scan,split,n_slices\na,train,3\nb,val,3.5\n",
            r"line 3: n_slices = '3.5' is not a whole number",
        ),
        ("scan,split\n,train\n", r"line 2: '' is not a scan id"),
        ("scan,split\na,train\na,val\n", r"scan a stands in two rows"),
        ("scan,patient\na,P\n", r"no column split"),
        ("", r"no column scan, split"),
        ('scan,split\n"a,train\n', r"line 2: not a table"),
    ],
)
def test_bad_table_is_refused_with_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "cases.csv"
    file.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        read_cases(file)


def test_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_bytes(b"scan,split\n\xff\xfe,train\n")
    with pytest.raises(FileFormatError, match="not text in UTF-8"):
        read_cases(tmp_path / "cases.csv")


def test_table_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_bytes(
        b"\xef\xbb\xbfscan,split,truth_ml,remark\r\na,train, 2.5 ,mine\r\n"
    )
    assert read_cases(tmp_path / "cases.csv") == [Case("a", split="train", truth_ml=2.5)]
