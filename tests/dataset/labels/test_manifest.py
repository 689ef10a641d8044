import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.dataset.labels.manifest import (
    ManifestRow,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from tests.dataset.label_files import manifest_line, scan_id, slice_id

SCAN, OTHER = "0123456789", "abcdef0123"
A, B, C = "00000000a", "00000000b", "00000000c"


def hemseg_200(scan: str = SCAN, slices: object = (A, B)) -> str:
    return json.dumps({"patient": "ID_1", "scan_": scan, "slice_list": slices})


def test_the_schema_of_hemseg_200_keeps_the_file_order_and_drops_repeats() -> None:
    assert parse_manifest(hemseg_200(slices=[B, A, B, C, A]).encode(), "m") == [
        ManifestRow(SCAN, "ID_1", (B, A, C))
    ]


def test_the_schema_of_hemseg_500_orders_its_keys_as_numbers() -> None:
    line = json.dumps(
        {
            "patient_name": "ID_2",
            "scan_name": SCAN,
            "slice_list": {"0": C, "1": A, "10": "0000000ff", "2": B, "11": A},
        }
    )
    assert parse_manifest(line.encode(), "m")[0].slices == (C, A, B, "0000000ff")


def test_a_byte_order_mark_crlf_and_blank_lines_are_taken() -> None:
    data = (
        b"\xef\xbb\xbf\r\n" + hemseg_200().encode() + b"\r\n\r\n  \n" + hemseg_200(OTHER).encode()
    )
    assert [row.scan for row in parse_manifest(data, "m")] == [SCAN, OTHER]


def test_a_cut_last_line_is_refused_with_its_number() -> None:
    data = (hemseg_200() + "\n" + hemseg_200(OTHER)).encode()[:-7]
    with pytest.raises(FileFormatError, match="line 2 is not valid JSON"):
        parse_manifest(data, "m")


def test_two_rows_with_one_scan_id_are_refused() -> None:
    with pytest.raises(FileFormatError, match=f"line 3: scan {SCAN} stands in an earlier row"):
        parse_manifest(f"{hemseg_200()}\n{hemseg_200(OTHER)}\n{hemseg_200()}\n".encode(), "m")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (hemseg_200("../../etc/p"), r"scan_ = '\.\./\.\./etc/p' is not an id"),
        (hemseg_200("0123456789\n"), "is not an id"),
        (hemseg_200(SCAN.upper() + "A"), "is not an id"),
        (hemseg_200(slices=["../passwd"]), "slice_list = '../passwd' is not an id"),
        (hemseg_200(slices=[A, 5]), "slice_list = '5' is not an id"),
        (hemseg_200(slices=[]), "has no slices"),
        (hemseg_200(slices="abc"), "neither a list nor a dict"),
        (hemseg_200(slices={"first": A}), "neither a list nor a dict"),
        (hemseg_200(slices={"1": A, "01": B}), "one number twice"),
        (
            json.dumps({"patient": "a/b", "scan_": SCAN, "slice_list": [A]}),
            "patient = 'a/b' is not an id",
        ),
        (json.dumps({"scan_": SCAN}), "neither HemSeg-200's nor HemSeg-500's keys, but scan_"),
        ("[1, 2]", "not a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        ("\xff", "not valid JSON"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        parse_manifest(line.encode(), "m")


def test_bytes_that_are_no_text_and_an_empty_file_are_refused() -> None:
    with pytest.raises(FileFormatError, match="not UTF-8 text \\(byte 3\\)"):
        parse_manifest(b"{} \xff\xfe", "m")
    with pytest.raises(FileFormatError, match="holds no scans"):
        parse_manifest(b"\n\n", "m")


def test_a_missing_manifest_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(HemsegError, match="fetch-labels"):
        read_manifest(tmp_path / "manifest.jsonl")


ids = st.text("0123456789abcdef", min_size=9, max_size=9)
rows = st.builds(
    ManifestRow,
    st.text("0123456789abcdef", min_size=10, max_size=10),
    st.from_regex(r"ID_[0-9a-f]{8}", fullmatch=True),
    st.lists(ids, min_size=1, max_size=60, unique=True).map(tuple),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(rows, min_size=1, max_size=8, unique_by=lambda row: row.scan))
def test_what_is_written_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, written: list[ManifestRow]
) -> None:
    path = tmp_path_factory.mktemp("m") / "manifest.jsonl"
    write_manifest(path, written)
    assert read_manifest(path) == written


@given(st.lists(ids, min_size=1, max_size=30))
def test_both_schemas_say_the_same_of_one_scan(slices: list[str]) -> None:
    as_dict = {
        str(number): name
        for number, name in sorted(enumerate(slices), key=lambda pair: str(pair[0]))
    }
    first = json.dumps({"patient": "ID_1", "scan_": SCAN, "slice_list": slices})
    second = json.dumps({"patient_name": "ID_1", "scan_name": SCAN, "slice_list": as_dict})
    assert parse_manifest(first.encode(), "m") == parse_manifest(second.encode(), "m")
    assert len(parse_manifest(first.encode(), "m")[0].slices) == len(set(slices))


def check_rows(data: bytes) -> None:
    try:
        parsed = parse_manifest(data, "m")
    except FileFormatError:
        return
    for row in parsed:
        assert re.fullmatch("[0-9a-f]{10}", row.scan)
        assert all(re.fullmatch("[0-9a-f]{9}", name) for name in row.slices)
        assert "/" not in row.patient


@given(st.binary(max_size=300))
def test_any_bytes_give_rows_with_good_ids_or_our_error(data: bytes) -> None:
    check_rows(data)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | ids,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("0129", max_size=3) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
keys = st.sampled_from(
    ["patient", "scan_", "slice_list", "patient_name", "scan_name", "scan", "slices"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(keys, values, max_size=7), max_size=3), st.integers(0, 400))
def test_any_json_even_cut_gives_rows_with_good_ids_or_our_error(
    lines: list[dict[str, object]], cut: int
) -> None:
    check_rows("\n".join(json.dumps(line) for line in lines).encode()[:cut])


@pytest.mark.parametrize(
    ("name", "scans", "patients"),
    [("annotion_file_info.jsonl", 222, 209), ("annotion_file_info_500.jsonl", 525, 503)],
)
def test_the_published_manifests_have_the_known_counts(
    shared_data: Path, name: str, scans: int, patients: int
) -> None:
    published = read_manifest(shared_data / "hemseg" / name)
    assert len(published) == scans
    assert len({row.patient for row in published}) == patients
    by_scan = {row.scan: row for row in published}
    assert len(by_scan["47d82b035b"].slices) == 32
    assert len(by_scan["74edab4e1b"].slices) == 36


def test_the_published_manifests_name_the_known_number_of_slices(shared_data: Path) -> None:
    counts = [
        len({name for row in read_manifest(shared_data / "hemseg" / file) for name in row.slices})
        for file in ("annotion_file_info.jsonl", "annotion_file_info_500.jsonl")
    ]
    assert counts == [7335, 17419]


def test_a_million_rows_and_50_000_keys_are_bounded() -> None:
    row = manifest_line(scan_id(1), "p", [slice_id(1)])
    with pytest.raises(FileFormatError, match="stands in an earlier row"):
        parse_manifest((row + "\n").encode() * 1_000_000, "m")
    many = "\n".join(manifest_line(scan_id(n), "p", [slice_id(1)]) for n in range(200_001))
    with pytest.raises(FileFormatError, match="more than 200,000 scans"):
        parse_manifest(many.encode(), "m")
    keys = json.dumps({f"\x1b{n}": 0 for n in range(50_000)})
    with pytest.raises(FileFormatError, match=r"50,000 keys") as caught:
        parse_manifest(keys.encode(), "m")
    assert len(caught.value.message) < 300
    assert "\x1b" not in caught.value.message
    with pytest.raises(FileFormatError, match="10,001 slices"):
        parse_manifest(manifest_line(scan_id(1), "p", ["0" * 9] * 10_001).encode(), "m")
    with pytest.raises(FileFormatError, match="too long"):
        parse_manifest(b'{"scan": "' + b"x" * 5 * 2**20 + b'"}', "m")


@pytest.mark.parametrize("identifier", ["../x", "/etc", "A" * 10, "0" * 9, "0" * 11, "", None, 5])
def test_an_id_that_would_leave_its_folder_is_refused(identifier: object) -> None:
    line = json.dumps({"scan": identifier, "patient": "p", "slices": [slice_id(1)]})
    with pytest.raises(FileFormatError, match="is not an id"):
        parse_manifest(line.encode(), "m")
