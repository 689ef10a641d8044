"""Name DICOM series by a rule: after folder, patient id, accession number or the series itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hemseg_cli.config.schema import NameRule
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.names_key import keyed_name, names_key
from hemseg_cli.inference.inputs.naming import image_stem

if TYPE_CHECKING:
    from hemseg_cli.imaging.dicom.origin import Identity
    from hemseg_cli.inference.inputs.scan_input import ScanInput

# What a name is made of, where it says who the patient is.
_ELEMENTS = {"patient": "PatientID", "accession": "AccessionNumber"}
_MOST_CHARACTERS = 64


def check_rule(rule: NameRule, *, keep_identity: bool) -> None:
    """Raise UsageError for names that tell of the patient, where nothing else may."""
    if rule in _ELEMENTS and not keep_identity:
        raise UsageError(
            f"--name-by {rule} puts the patient into file names and tables",
            hint=f"--name-by {rule} --keep-identity if that is meant, else --name-by series",
        )


def named_by(
    sources: Sequence["ScanInput"], rule: NameRule, folder: Path | None
) -> list["ScanInput"]:
    """Name the DICOM series among the sources; image files keep their names.

    Several series of one patient or accession number have the series behind that, and those
    without either the series alone. `folder`: the one whose key makes the names of series; it is
    not touched where there are none. A series whose header cannot be read keeps its name: it fails
    when its turn comes.
    """
    key = names_key(folder) if folder is not None and _need_key(sources, rule) else ""
    if rule == "folder":
        return [_with_keyed_series(source, key) for source in sources]

    # Two texts may give one name once they are made fit for files: these count as shared.
    labels = [_label(source, rule, key) for source in sources]
    shared = Counter(text for text, _ in labels if text)
    named = []
    for source, (text, series) in zip(sources, labels, strict=True):
        parts = [text] if shared[text] == 1 else [text, series]
        name = "_".join(part for part in parts if part)
        named.append(replace(source, name=name) if name else source)
    return named


def _need_key(sources: Sequence["ScanInput"], rule: NameRule) -> bool:
    if rule == "folder":
        return any(_shares_its_place(source) for source in sources)
    return any(source.series is not None for source in sources)


def _shares_its_place(source: "ScanInput") -> bool:
    """Whether the name tells the series from others in its folder or zip."""
    return source.series is not None and source.name.endswith(f"_{source.series.name}")


def _with_keyed_series(source: "ScanInput", key: str) -> "ScanInput":
    """Replace the series' digest in the name of a source that shares its folder with others."""
    if source.series is None or not _shares_its_place(source):
        return source
    stem = source.name.removesuffix(source.series.name)
    return replace(source, name=stem + keyed_name(source.series.name, key))


def _label(source: "ScanInput", rule: NameRule, key: str) -> tuple[str, str]:
    """Return the text that the rule takes from a series, and the name of the series.

    Both are empty for an image file, and where the header cannot be read.
    """
    if source.series is None or source.problem:
        return "", ""
    try:
        identity = _identity(source, keep=rule in _ELEMENTS)
    except (HemsegError, OSError):
        return "", ""

    # A single file that was given by its name has no name as a series yet.
    name, alone = source.series.name, len(source.series.files) == 1
    if alone and name == image_stem(Path(source.series.files[0])):
        name = f"series-{identity.series_uid}"
    text = identity.elements.get(_ELEMENTS[rule], "") if rule in _ELEMENTS else ""
    return _as_name(text), keyed_name(name, key)


def _identity(source: "ScanInput", *, keep: bool) -> "Identity":
    from hemseg_cli.imaging.dicom.identity import read_identity  # pydicom is slow to import
    from hemseg_cli.imaging.dicom.tree import Tree

    assert source.series is not None
    with Tree(source.path) as tree, tree.open(source.series.files[0]) as file:
        return read_identity(file, keep=keep)


def _as_name(text: str) -> str:
    """Return the text with `-` for all but letters, digits, `.` and `_`, and no dot in front."""
    kept = "".join(one if one.isalnum() or one in "._-" else "-" for one in text.strip())
    return kept.lstrip(".")[:_MOST_CHARACTERS]
