"""Lay out verified labels, the normalised manifest and the case table: `hemseg fetch-labels`.

Labels come first, each whole under its name or not there; the manifest and the case table last. So
a killed run is finished by the same command, which does only what is missing. A label that is there
and differs from the archive's is kept, and named, unless forced.
"""

import contextlib
import dataclasses
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.cases import (
    SPLITS,
    Case,
    read_cases,
    repaired_splits,
    with_shared_patients,
    write_cases,
)
from hemseg_cli.core.classes import write_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.executor import map_cases
from hemseg_cli.core.files import file_lock, remove_leftovers, write_bytes
from hemseg_cli.core.names import first_few
from hemseg_cli.dataset.labels.archive import LabelArchive, LabelMember
from hemseg_cli.dataset.labels.fetch_result import FetchResult
from hemseg_cli.dataset.labels.label_files import LabelFiles, obtain_label_files
from hemseg_cli.dataset.labels.manifest import ManifestRow, read_manifest, write_manifest
from hemseg_cli.imaging.label_file import LabelFacts, label_facts


@dataclass(frozen=True)
class _Label:
    """One label to look at.

    `write`: its bytes are to be written to `target` (new, or restored); else they stand there.
    """

    scan: str
    name: str
    target: Path
    data: bytes
    write: bool = False
    restore: bool = False
    differs: bool = False


def fetch_labels(config: Config, *, force: bool = False) -> FetchResult:
    """Lay out the labels of `config.data.dataset` from `config.fetch.source`.

    `force` restores labels that differ from the archive's.

    Raises FileFormatError for a wrong hash or a hostile archive, HemsegError where a source cannot
    be reached. A label that cannot be read is named in `failed`; the others are laid out.
    """
    data = config.data.directory
    with _only_one(data):
        remove_leftovers(data.path, below=False)
        for split in (*SPLITS, ""):
            remove_leftovers(data.label_file("any", split).parent)
        remove_leftovers(data.cache / "source")
        files = obtain_label_files(config, data.cache / "source")
        with LabelArchive(files.archive) as archive:
            members = archive.members
            manifest = {row.scan: row for row in read_manifest(files.manifest)}
            warnings = _check_manifest(members, manifest, files)
            splits = _splits(members, manifest, config.fetch.splits)
            known = _known_cases(data.cases_file)
            _move(data, splits)
            labels = list(_plan_labels(data, archive, splits, known, force=force))
        facts, failures = _lay_out(labels, config.compute.workers)
        cases = _make_cases(data, manifest, splits, known, facts, failures)
        warnings += [
            f"scan {case.scan}: {facts[case.scan].shape[2]} slices in the label, "
            f"{case.n_slices} in the manifest"
            for case in cases
            if case.scan in facts and facts[case.scan].shape[2] != case.n_slices
        ]
        for table, path in files.tables:
            write_bytes(data.path / table.name, path.read_bytes())
        write_manifest(
            data.manifest_file, (row for row in manifest.values() if row.scan in members)
        )
        if files.classes:
            write_classes(data, files.classes)
        write_cases(data.cases_file, cases)
    return FetchResult(
        config.data.dataset,
        data.path,
        files.origin,
        tuple(cases),
        written=sum(label.write and not label.restore and label.scan in facts for label in labels),
        restored=tuple(label.scan for label in labels if label.restore and label.scan in facts),
        differing=tuple(label.scan for label in labels if label.differs),
        failures=failures,
        warnings=tuple(warnings),
    )


@contextlib.contextmanager
def _only_one(data: DataDirectory) -> Iterator[None]:
    """Hold the data set's folder: two fetches at once would write the same files."""
    try:
        data.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HemsegError(
            f"cannot write into data folder {data.path}: {error.strerror}",
            hint="--set data.root=FOLDER names another place",
        ) from None
    with file_lock(data.path / ".fetch.lock", doing=f"labels are being fetched into {data.path}"):
        try:
            yield
        except OSError as error:
            raise HemsegError(
                f"cannot work in {data.path}: {error}",
                hint="free the disk or mind the permissions, then run again",
            ) from error


def _check_manifest(
    members: Mapping[str, LabelMember], manifest: Mapping[str, ManifestRow], files: LabelFiles
) -> list[str]:
    """Return warnings; FileFormatError where a label has no row: nothing would name its slices."""
    orphans = sorted(set(members) - set(manifest))
    if orphans:
        raise FileFormatError(
            f"{files.manifest}: no row for {len(orphans)} labels of {files.archive.name} "
            f"({first_few(orphans, 3)})",
            hint="archive and manifest belong to different data sets",
        )
    more = len(manifest) - len(members)
    return [f"{files.manifest.name}: {more} scans without a label were left out"] if more else []


def _splits(
    members: Mapping[str, LabelMember], manifest: Mapping[str, ManifestRow], rule: str
) -> dict[str, str]:
    """Return scan -> split by the rule; "" for a scan that belongs to none."""
    cases = [
        Case(scan, manifest[scan].patient, member.split) for scan, member in sorted(members.items())
    ]
    return {
        case.scan: case.split for case in (repaired_splits(cases) if rule == "patient" else cases)
    }


def _known_cases(path: Path) -> dict[str, Case]:
    """Read the rows of an earlier run, which `convert` may have completed since."""
    if not path.is_file():
        return {}
    try:
        return {case.scan: case for case in read_cases(path)}
    except FileFormatError as error:
        console.warn(f"{error.message}; it is written anew")
        return {}


def _relative(data: DataDirectory, path: Path) -> str:
    return path.relative_to(data.path).as_posix()


def _move(data: DataDirectory, splits: Mapping[str, str]) -> None:
    """Bring files from another split's folder to where they belong now.

    An earlier run had other splits.
    """
    for scan, split in splits.items():
        for other in (*SPLITS, ""):
            pairs = [
                (data.label_file(scan, other), data.label_file(scan, split)),
                (data.image_file(scan, other), data.image_file(scan, split)),
            ]
            pairs.append((data.sidecar_file(pairs[1][0]), data.sidecar_file(pairs[1][1])))
            for source, target in pairs:
                if source != target and source.is_file() and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source.replace(target)


def _plan_labels(
    data: DataDirectory,
    archive: LabelArchive,
    splits: Mapping[str, str],
    known: Mapping[str, Case],
    *,
    force: bool,
) -> Iterator[_Label]:
    for scan, member in sorted(archive.members.items()):
        target = data.label_file(scan, splits[scan])
        try:
            there = target.read_bytes()
        except FileNotFoundError:
            yield _Label(scan, member.name, target, archive.read(member), write=True)
            continue
        differs = len(there) != member.bytes or zlib.crc32(there) != member.crc
        if differs and force:
            yield _Label(scan, member.name, target, archive.read(member), write=True, restore=True)
        elif differs or scan not in known or known[scan].truth_ml is None:
            yield _Label(scan, str(target), target, there, differs=differs)


def _lay_out(
    labels: list[_Label], workers: int | None
) -> tuple[dict[str, LabelFacts], dict[str, str]]:
    """Write and read the labels; return facts by scan, and why each that failed did."""
    facts: dict[str, LabelFacts] = {}
    failures: dict[str, str] = {}
    outcomes = map_cases(_one_label, labels, workers=workers, preload=("nibabel", "isal.isal_zlib"))
    for outcome in console.progress(outcomes, label="labels", total=len(labels)):
        if outcome.value is not None:
            facts[outcome.item.scan] = outcome.value
        else:
            failures[outcome.item.scan] = outcome.error or ""
    return facts, dict(sorted(failures.items()))


def _one_label(label: _Label) -> LabelFacts:
    # Before it gets a name: what is no label is never laid out.
    facts = label_facts(label.name, label.data)
    if label.write:
        write_bytes(label.target, label.data)
    return facts


def _make_cases(
    data: DataDirectory,
    manifest: Mapping[str, ManifestRow],
    splits: Mapping[str, str],
    known: Mapping[str, Case],
    facts: Mapping[str, LabelFacts],
    failures: Iterable[str],
) -> list[Case]:
    cases = []
    for scan in sorted(set(splits) - set(failures)):
        split, row = splits[scan], manifest[scan]
        case = known.get(scan, Case(scan))
        if scan in facts:
            case = _with_facts(case, facts[scan])
        image = data.image_file(scan, split)
        cases.append(
            dataclasses.replace(
                case,
                patient=row.patient,
                split=split,
                n_slices=len(row.slices),
                label=_relative(data, data.label_file(scan, split)),
                image=_relative(data, image) if image.is_file() else "",
            )
        )
    return with_shared_patients(cases)


def _with_facts(case: Case, facts: LabelFacts) -> Case:
    """Return the row with what the label says.

    A geometry that came from DICOM positions is better and stays.
    """
    if case.geometry_from == "dicom" and case.voxel_volume_mm3 is not None:
        return dataclasses.replace(
            case, truth_ml=facts.truth_ml / facts.voxel_volume_mm3 * case.voxel_volume_mm3
        )
    x, y, z = facts.spacing_mm
    return dataclasses.replace(
        case,
        spacing_x_mm=x,
        spacing_y_mm=y,
        spacing_z_mm=z,
        tilt_deg=facts.tilt_deg,
        voxel_volume_mm3=facts.voxel_volume_mm3,
        truth_ml=facts.truth_ml,
        geometry_from="label",
    )
