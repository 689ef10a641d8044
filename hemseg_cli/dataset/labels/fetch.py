"""`hemseg fetch-labels`: verified labels, the normalised manifest and the case table, laid out below the data set's folder.

Labels come first, each whole under its name or not there; the manifest and the case table last. So
a killed run is finished by the same command, which does only what is missing. A label that is there
and differs from the archive's is kept, and named, unless forced.
"""

import contextlib
import dataclasses
import fcntl
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
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.executor import map_cases
from hemseg_cli.core.files import remove_leftovers, write_bytes
from hemseg_cli.dataset.labels.archive import LabelArchive, LabelMember
from hemseg_cli.dataset.labels.fetch_result import EXCLUDED, FetchResult
from hemseg_cli.dataset.labels.manifest import ManifestRow, read_manifest, write_manifest
from hemseg_cli.dataset.labels.source import LabelFiles, obtain
from hemseg_cli.imaging.label_file import LabelFacts, label_facts


@dataclass(frozen=True)
class _Label:
    """One label to look at: its bytes, and whether they are to be written to `target` (new, or restored) or stand there already."""

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
    folder = config.data.folder
    with _only_one(folder):
        for split in (*SPLITS, EXCLUDED):
            remove_leftovers(folder / split / "label")
        files = obtain(config, folder / ".cache" / "source")
        with LabelArchive(files.archive) as archive:
            members = archive.members
            manifest = {row.scan: row for row in read_manifest(files.manifest)}
            warnings = _check_manifest(members, manifest, files)
            splits = _splits(members, manifest, config.fetch.splits)
            known = _known_cases(config.data.cases_file)
            _move(folder, splits)
            labels = list(_to_do(folder, archive, splits, known, force=force))
        facts, failed = _lay_out(labels, config.compute.workers)
        cases = _cases(folder, manifest, splits, known, facts, {scan for scan, _ in failed})
        warnings += [
            f"scan {case.scan}: {facts[case.scan].shape[2]} slices in the label, {case.n_slices} in the manifest"
            for case in cases
            if case.scan in facts and facts[case.scan].shape[2] != case.n_slices
        ]
        for table, path in files.tables:
            write_bytes(folder / table.name, path.read_bytes())
        write_manifest(
            folder / "manifest.jsonl", (row for row in manifest.values() if row.scan in members)
        )
        write_cases(config.data.cases_file, cases)
    return FetchResult(
        config.data.dataset,
        folder,
        files.origin,
        tuple(cases),
        written=sum(label.write and not label.restore and label.scan in facts for label in labels),
        restored=tuple(label.scan for label in labels if label.restore and label.scan in facts),
        differing=tuple(label.scan for label in labels if label.differs),
        failed=tuple(failed),
        warnings=tuple(warnings),
    )


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the data set's folder.

    Two fetches at once would clear away each other's temporary files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".fetch.lock").open("a")
    except OSError as error:
        raise HemsegError(
            f"cannot write into data folder {folder}: {error.strerror}",
            hint="--set data.root=FOLDER names another place",
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HemsegError(
                f"another fetch-labels is at work in {folder}", hint="wait for it, then run again"
            ) from None
        try:
            yield
        except OSError as error:
            raise HemsegError(
                f"cannot work in {folder}: {error}",
                hint="free the disk or mind the permissions, then run again",
            ) from error


def _check_manifest(
    members: Mapping[str, LabelMember], manifest: Mapping[str, ManifestRow], files: LabelFiles
) -> list[str]:
    """Warnings; FileFormatError where a label has no row: its slices would never be found."""
    orphans = sorted(set(members) - set(manifest))
    if orphans:
        raise FileFormatError(
            f"{files.manifest}: no row for {len(orphans)} labels of {files.archive.name} ({', '.join(orphans[:3])} ...)",
            hint="archive and manifest belong to different data sets",
        )
    more = len(manifest) - len(members)
    return [f"{files.manifest.name}: {more} scans without a label were left out"] if more else []


def _splits(
    members: Mapping[str, LabelMember], manifest: Mapping[str, ManifestRow], rule: str
) -> dict[str, str]:
    """Scan -> split by the rule; "" for a scan that belongs to none."""
    cases = [
        Case(scan, manifest[scan].patient, member.split) for scan, member in sorted(members.items())
    ]
    return {
        case.scan: case.split for case in (repaired_splits(cases) if rule == "patient" else cases)
    }


def _known_cases(path: Path) -> dict[str, Case]:
    """The rows of an earlier run, which `convert` may have completed since."""
    if not path.is_file():
        return {}
    try:
        return {case.scan: case for case in read_cases(path)}
    except FileFormatError as error:
        console.warn(f"{error.message}; it is written anew")
        return {}


def _label_name(scan: str, split: str) -> str:
    return f"{split or EXCLUDED}/label/{scan}.nii.gz"


def _image_name(scan: str, split: str) -> str:
    return f"{split or EXCLUDED}/image/{scan}.nii.gz"


def _move(folder: Path, splits: Mapping[str, str]) -> None:
    """Bring files that lie in another split's folder (an earlier run had other splits) to where they belong now."""
    for scan, split in splits.items():
        for kind, suffix in (("label", ".nii.gz"), ("image", ".nii.gz"), ("image", ".json")):
            target = folder / (split or EXCLUDED) / kind / f"{scan}{suffix}"
            for other in (*SPLITS, EXCLUDED):
                source = folder / other / kind / target.name
                if source != target and source.is_file() and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source.replace(target)


def _to_do(
    folder: Path,
    archive: LabelArchive,
    splits: Mapping[str, str],
    known: Mapping[str, Case],
    *,
    force: bool,
) -> Iterator[_Label]:
    for scan, member in sorted(archive.members.items()):
        target = folder / _label_name(scan, splits[scan])
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
) -> tuple[dict[str, LabelFacts], list[tuple[str, str]]]:
    """Write and read the labels; facts by scan, and what failed with its reason."""
    facts: dict[str, LabelFacts] = {}
    failed: list[tuple[str, str]] = []
    outcomes = map_cases(_one_label, labels, workers=workers, preload=("nibabel", "isal.isal_zlib"))
    for outcome in console.progress(outcomes, label="labels", total=len(labels)):
        if outcome.value is not None:
            facts[outcome.item.scan] = outcome.value
        else:
            failed.append((outcome.item.scan, outcome.error or ""))
    return facts, sorted(failed)


def _one_label(label: _Label) -> LabelFacts:
    facts = label_facts(
        label.name, label.data
    )  # before it gets a name: what is no label is never laid out
    if label.write:
        write_bytes(label.target, label.data)
    return facts


def _cases(
    folder: Path,
    manifest: Mapping[str, ManifestRow],
    splits: Mapping[str, str],
    known: Mapping[str, Case],
    facts: Mapping[str, LabelFacts],
    failed: Iterable[str],
) -> list[Case]:
    cases = []
    for scan in sorted(set(splits) - set(failed)):
        split, row = splits[scan], manifest[scan]
        case = known.get(scan, Case(scan))
        if scan in facts:
            case = _with_facts(case, facts[scan])
        image = _image_name(scan, split)
        cases.append(
            dataclasses.replace(
                case,
                patient=row.patient,
                split=split,
                n_slices=len(row.slices),
                label=_label_name(scan, split),
                image=image if (folder / image).is_file() else "",
            )
        )
    return with_shared_patients(cases)


def _with_facts(case: Case, facts: LabelFacts) -> Case:
    """The row with what the label says.

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
