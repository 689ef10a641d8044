"""Read manifests, which say which DICOM slices make a scan.

Both published schemas are read, one normalised form is written.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.files import write_text
from hemseg_cli.core.names import first_few
from hemseg_cli.core.printable import printable

SLICE_ID = re.compile(r"[0-9a-f]{9}")
SCAN_ID = re.compile(r"[0-9a-f]{10}")
_PATIENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SCHEMAS = (
    ("patient", "scan_", "slice_list"),
    ("patient_name", "scan_name", "slice_list"),
    ("patient", "scan", "slices"),
)
_MOST_BYTES = 256 * 2**20
_MOST_ROWS = 200_000
_MOST_LINE_CHARACTERS = 4 * 2**20  # thousands of slices
_MOST_SLICES = 10_000  # of one scan
_KEYS_SHOWN = 6


@dataclass(frozen=True)
class ManifestRow:
    """One scan: its patient and its slice ids, each once, in the file's order.

    An id has been matched against its pattern.
    """

    scan: str
    patient: str
    slices: tuple[str, ...]


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read a manifest file (HemSeg-200's schema, HemSeg-500's, or ours), sorted as the file is.

    A byte order mark, CRLF and blank lines are taken. Raises HemsegError where there is no file,
    FileFormatError naming the line: not JSON (a cut last line), another schema, a malformed id, a
    scan without slices, two rows with one scan id.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise FileFormatError(f"{path} is too large for a manifest: {size:,} bytes")
        data = path.read_bytes()
    except FileNotFoundError:
        raise HemsegError(
            f"no manifest {path}",
            hint="hemseg fetch-labels   writes it, for data sets made from RSNA slices",
        ) from None
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from None
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, place: str) -> list[ManifestRow]:
    """`read_manifest` for bytes; `place` stands in messages."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{place} is not UTF-8 text (byte {error.start})") from None
    rows: dict[str, ManifestRow] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(rows) >= _MOST_ROWS:
            raise FileFormatError(f"{place} has more than {_MOST_ROWS:,} scans; no manifest has")
        if len(line) > _MOST_LINE_CHARACTERS:
            raise FileFormatError(f"{place}, line {number} is too long: {len(line):,} characters")
        row = _row(line, f"{place}, line {number}")
        if row.scan in rows:
            raise FileFormatError(
                f"{place}, line {number}: scan {row.scan} stands in an earlier row too"
            )
        rows[row.scan] = row
    if not rows:
        raise FileFormatError(f"{place} holds no scans")
    return list(rows.values())


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write the normalised form, `{"scan", "patient", "slices"}` per line."""
    lines = [
        json.dumps({"scan": row.scan, "patient": row.patient, "slices": row.slices}) for row in rows
    ]
    write_text(path, "\n".join(lines) + "\n")


def _row(line: str, place: str) -> ManifestRow:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{place} is not valid JSON: {error}",
            hint="a cut line means a cut download: fetch the file again",
        ) from None
    if not isinstance(values, dict):
        raise FileFormatError(f"{place} is not a JSON object")
    for patient_key, scan_key, slices_key in _SCHEMAS:
        if scan_key in values and slices_key in values:
            patient = _text(values.get(patient_key), _PATIENT_ID, f"{place}: {patient_key}")
            scan = _text(values[scan_key], SCAN_ID, f"{place}: {scan_key}")
            given = _ordered(values[slices_key], place)
            if len(given) > _MOST_SLICES:
                raise FileFormatError(f"{place}: scan {scan} has {len(given):,} slices")
            slices = tuple(_text(value, SLICE_ID, f"{place}: {slices_key}") for value in given)
            if not slices:
                raise FileFormatError(f"{place}: scan {scan} has no slices")
            return ManifestRow(scan, patient, tuple(dict.fromkeys(slices)))
    keys = [printable(key)[:40] for key in list(values)[: _KEYS_SHOWN + 1]]
    raise FileFormatError(
        f"{place}: neither HemSeg-200's nor HemSeg-500's keys, but "
        f"{first_few(keys, _KEYS_SHOWN) or 'none'} ({len(values):,} keys)"
    )


def _ordered(slices: Any, place: str) -> list[Any]:
    """Return the list, or HemSeg-500's dict whose keys count as numbers ("10" comes after "2")."""
    if isinstance(slices, list):
        return slices
    if isinstance(slices, dict) and all(re.fullmatch(r"[0-9]{1,6}", key) for key in slices):
        numbers = [int(key) for key in slices]
        if len(set(numbers)) < len(numbers):
            raise FileFormatError(f"{place}: slice_list counts one number twice")
        return [slices[key] for key in sorted(slices, key=int)]
    raise FileFormatError(f"{place}: slice_list is neither a list nor a dict of numbers")


def _text(value: Any, pattern: re.Pattern[str], place: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise FileFormatError(f"{place} = {str(value)[:80]!r} is not an id ({pattern.pattern})")
    return value
