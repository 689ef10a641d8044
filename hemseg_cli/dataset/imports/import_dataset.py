"""Import labelled NIfTI scans into a data set: `hemseg import`.

Everything is examined before anything is written. Images are linked or copied and never changed;
labels are written anew, on their images' axes, with the values of the data set's classes.
"""

import contextlib
import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.cases import Case, with_shared_patients, write_cases
from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass, write_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.executor import map_cases
from hemseg_cli.core.files import (
    atomic_path,
    cannot_write,
    file_lock,
    read_json,
    remove_leftovers,
    write_json,
)
from hemseg_cli.core.names import first_few
from hemseg_cli.core.printable import printable
from hemseg_cli.dataset.imports.class_map import (
    ClassMap,
    map_found_values,
    map_named_values,
    parse_classes,
)
from hemseg_cli.dataset.imports.examine import (
    ScanFacts,
    ScanTask,
    combine_labels,
    count_values,
    examine,
    find_duplicates,
    read_label,
)
from hemseg_cli.dataset.imports.layout import Findings, FoundScan, ImportRequest
from hemseg_cli.dataset.imports.layouts import LayoutRow, choose_layout
from hemseg_cli.dataset.imports.named_sets import NAMED_SETS
from hemseg_cli.dataset.imports.result import ImportedClass, ImportResult
from hemseg_cli.dataset.imports.splits import assign_splits
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume

SOURCE_FORMAT = 1
_DATASET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PRELOAD = ("nibabel", "isal.isal_zlib", "hemseg_cli.imaging.orientation")


@dataclass(frozen=True)
class WriteTask:
    """One scan to write into the data set."""

    found: FoundScan
    image: Path
    label: Path
    copy: bool


def import_dataset(config: Config, request: ImportRequest) -> ImportResult:
    """Import the scans of `request.source` as the data set `request.name` below `data.root`.

    A scan that cannot be taken is named in `failures` or `left_out`, the others are imported.
    UsageError where the request makes no sense, HemsegError where no scan can be taken.
    """
    data = _target(config, request)
    row = choose_layout(request)
    class_map = parse_classes(request.classes) if request.classes else None
    findings = row.layout.find(request)
    if not findings.scans:
        why = first_few([f"{Path(k).name}: {v}" for k, v in findings.left_out.items()], 3)
        raise HemsegError(
            f"no pair of image and label found by layout {row.key} ({why or 'no NIfTI files'})",
            hint="--layout, --images DIR --labels DIR or --table FILE.csv say where they are",
        )

    scans, renamed = _name_scans(findings)
    patients, patient_rule = _find_patients(scans, request.patient_from)
    facts, failures = _examine_all(scans, config)
    left_out = dict(findings.left_out)
    for copy, original in find_duplicates(facts).items():
        left_out[str(scans[copy].image)] = f"the same voxels as {original}"
        del facts[copy]
    if class_map is None:
        class_map = _default_classes(findings, facts)
    failures |= _check_values(facts, class_map)
    taken = {scan: one for scan, one in facts.items() if scan not in failures}

    cases, split_lines = _make_cases(scans, patients, taken, class_map)
    cases = [_with_paths(data, case, scans[case.scan]) for case in cases]
    if cases and not request.dry_run:
        described = _describe_source(request, row, class_map, findings) | {
            "rater_dice": _mean_rater_dice(taken)
        }
        failures |= _write_data_set(config, data, request, scans, cases, class_map, described)
        cases = [case for case in cases if case.scan not in failures]
    return _make_result(
        data,
        request,
        row,
        cases,
        {case.scan: taken[case.scan] for case in cases},
        class_map,
        failures,
        left_out,
        (*findings.rules, patient_rule, *split_lines, *renamed),
    )


# --- What would be imported ------------------------------------------------------------------


def _target(config: Config, request: ImportRequest) -> DataDirectory:
    """Return the data set's folder; UsageError where the name cannot be or is somebody else's."""
    if not _DATASET_NAME.fullmatch(request.name):
        raise UsageError(
            f"--name {printable(request.name)[:60]}: not the name of a data set",
            hint="small letters, digits, '.', '_' and '-'",
        )
    data = DataDirectory(config.data.root / request.name)
    if data.cases_file.exists() and not _was_imported(data):
        raise UsageError(
            f"--name {request.name}: {data.path} holds a data set that was not imported",
            hint="choose another name",
        )
    return data


def _was_imported(data: DataDirectory) -> bool:
    try:
        values = read_json(data.source_file)
    except HemsegError:
        return False
    return isinstance(values, dict) and "layout" in values


def _name_scans(findings: Findings) -> tuple[dict[str, FoundScan], list[str]]:
    """Give each scan an id that may name files; return them and what was renamed."""
    scans: dict[str, FoundScan] = {}
    renamed = []
    for found in findings.scans:
        plain = re.sub(r"[^\w.-]+", "_", found.name.strip()).strip("._-")[:100] or "scan"
        scan, number = plain, 1
        while scan in scans:  # two folders may hold files of one name
            number += 1
            scan = f"{plain}-{number}"
        if scan != found.name:
            renamed.append(f"{printable(found.name)} as {scan}")
        scans[scan] = found
    return scans, [f"renamed: {first_few(renamed)}"] if renamed else []


def _find_patients(
    scans: Mapping[str, FoundScan], pattern: str | None
) -> tuple[dict[str, str], str]:
    """Return scan -> patient and the rule: a pattern, what the source says, or the scan."""
    if pattern is None:
        patients = {scan: found.patient or scan for scan, found in scans.items()}
        told = sum(bool(found.patient) for found in scans.values())
        if told == len(scans):
            return patients, "patients: as the source names them"
        return patients, (
            f"patients: every scan is its own ({len(scans) - told} of {len(scans)}); "
            "--patient-from REGEX or a table says otherwise"
        )
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--patient-from: not a regular expression: {error}") from None
    matches = {scan: compiled.search(found.name) for scan, found in scans.items()}
    missing = [scan for scan, match in matches.items() if match is None]
    if missing:
        raise UsageError(
            f"--patient-from {pattern}: does not match {first_few(missing)}",
            hint="its first group, or all that matches, is the patient",
        )
    return {
        scan: str(match[1] if compiled.groups else match[0])
        for scan, match in matches.items()
        if match is not None
    }, f"patients: by {pattern}"


def _examine_all(
    scans: Mapping[str, FoundScan], config: Config
) -> tuple[dict[str, ScanFacts], dict[str, str]]:
    """Examine the scans in parallel; return facts, and why others cannot be taken."""
    tasks = [ScanTask(scan, found) for scan, found in scans.items()]
    facts: dict[str, ScanFacts] = {}
    failures: dict[str, str] = {}
    outcomes = map_cases(examine, tasks, workers=config.compute.workers, preload=_PRELOAD)
    for outcome in console.progress(outcomes, label="examine", total=len(tasks)):
        if outcome.value is not None:
            facts[outcome.item.scan] = outcome.value
        else:
            hint = f" ({outcome.hint})" if outcome.hint else ""
            failures[outcome.item.scan] = f"{outcome.error}{hint}"
    return dict(sorted(facts.items())), dict(sorted(failures.items()))


def _default_classes(findings: Findings, facts: dict[str, ScanFacts]) -> ClassMap:
    """Return the classes that the source names, else hemorrhage for its one value."""
    found = frozenset(count_values(facts))
    if findings.class_names is None:
        return map_found_values(found)
    # Masks of a source that speaks of one class are often stored as 0 and 255.
    if len(findings.class_names) == 1 and len(found) == 1:
        return map_named_values(dict.fromkeys(found, next(iter(findings.class_names.values()))))
    return map_named_values(findings.class_names)


def _check_values(facts: dict[str, ScanFacts], class_map: ClassMap) -> dict[str, str]:
    """Return the scans whose labels hold values that no class has."""
    known = first_few(sorted(class_map.values), 8)
    failures = {}
    for scan, one in facts.items():
        odd = sorted(set(one.value_voxels) - set(class_map.values))
        if odd:
            failures[scan] = f"its label holds {first_few(odd)}; classes are given for {known}"
    return failures


def _make_cases(
    scans: Mapping[str, FoundScan],
    patients: Mapping[str, str],
    facts: Mapping[str, ScanFacts],
    class_map: ClassMap,
) -> tuple[list[Case], list[str]]:
    """Make the rows of the case table, with splits; paths come when the split is known."""
    cases, kinds = [], {}
    for scan, one in facts.items():
        voxels = _class_voxels(one, class_map)
        x, y, z = one.spacing_mm
        kinds[scan] = " ".join(str(value) for value in sorted(voxels))
        cases.append(
            Case(
                scan,
                patient=patients[scan],
                split=scans[scan].split,
                n_slices=one.shape[2],
                spacing_x_mm=x,
                spacing_y_mm=y,
                spacing_z_mm=z,
                tilt_deg=one.tilt_deg,
                voxel_volume_mm3=one.voxel_volume_mm3,
                truth_ml=sum(voxels.values()) * one.voxel_volume_mm3 / 1000,
                geometry_from="label",
            )
        )
    if not cases:
        return [], []
    dealt, lines = assign_splits(cases, kinds)
    return with_shared_patients(dealt), lines


def _with_paths(data: DataDirectory, case: Case, found: FoundScan) -> Case:
    """Give a case the files that it gets: an image keeps its form, plain or packed."""
    image = data.image_file(case.scan, case.split)
    if not found.image.name.lower().endswith(".gz"):
        image = image.with_name(image.name.removesuffix(".gz"))
    label = data.label_file(case.scan, case.split)
    return dataclasses.replace(
        case,
        label=label.relative_to(data.path).as_posix(),
        image=image.relative_to(data.path).as_posix(),
    )


def _class_voxels(facts: ScanFacts, class_map: ClassMap) -> Counter[int]:
    """Count the voxels of each class: value in the data set -> voxels."""
    voxels: Counter[int] = Counter()
    for value, count in facts.value_voxels.items():
        if class_map.values[value]:
            voxels[class_map.values[value]] += count
    return voxels


# --- Writing -----------------------------------------------------------------------------------


def _write_data_set(
    config: Config,
    data: DataDirectory,
    request: ImportRequest,
    scans: Mapping[str, FoundScan],
    cases: list[Case],
    class_map: ClassMap,
    described: dict[str, object],
) -> dict[str, str]:
    """Write labels and images, then the tables; return the scans that could not be written."""
    try:
        data.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(data.path, error) from None
    with file_lock(data.path / ".import.lock", doing=f"scans are being imported into {data.path}"):
        remove_leftovers(data.path)
        tasks = {
            case.scan: WriteTask(
                scans[case.scan], data.image_of(case), data.label_of(case), request.copy
            )
            for case in cases
        }
        failures = _write_all(config, tasks, class_map)
        written = [case for case in cases if case.scan not in failures]

        # The case table last: with it the data set is there.
        if class_map.classes == HEMORRHAGE_ONLY:
            data.classes_file.unlink(missing_ok=True)
        else:
            write_classes(data, class_map.classes)
        write_json(data.source_file, described)
        write_cases(data.cases_file, written)
    return failures


def _write_all(
    config: Config, tasks: Mapping[str, WriteTask], class_map: ClassMap
) -> dict[str, str]:
    names = list(tasks)
    outcomes = map_cases(
        partial(write_scan, class_map),
        [tasks[name] for name in names],
        workers=config.compute.workers,
        preload=_PRELOAD,
    )
    by_label = {task.label: scan for scan, task in tasks.items()}
    failures = {}
    for outcome in console.progress(outcomes, label="import", total=len(names)):
        if not outcome.ok:
            failures[by_label[outcome.item.label]] = outcome.error or ""
    return failures


def write_scan(class_map: ClassMap, task: WriteTask) -> bool:
    """Write the label on its image's axes, and link or copy the image. In a worker process."""
    image = read_volume(task.found.image)
    labels = [read_label(path, image) for path in task.found.labels]
    label = class_map.apply(combine_labels(task.found, labels))

    task.image.parent.mkdir(parents=True, exist_ok=True)
    place_image(task.found.image, task.image, copy=task.copy)
    write_volume(task.label, Volume(label, image.affine))
    return True


def place_image(source: Path, target: Path, *, copy: bool) -> None:
    """Link the image into the data set, or copy it where asked or where links are not possible."""
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    if not copy:
        try:
            target.symlink_to(source.resolve())
            return
        except (OSError, NotImplementedError):
            console.log.info("%s: no links possible, copied", target)
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _describe_source(
    request: ImportRequest, row: LayoutRow, class_map: ClassMap, findings: Findings
) -> dict[str, object]:
    """Return what `source.json` keeps: layout, rules, classes, licence and citation."""
    named = next((one for one in NAMED_SETS if one.key == row.key), None)
    keys = {one.value: one.key for one in class_map.classes}
    return {
        "format": SOURCE_FORMAT,
        "layout": row.key,
        "title": row.title,
        "folder": (request.source or request.images or Path(".")).resolve().name,
        "licence": named.licence if named else "",
        "citation": named.citation if named else "",
        "rules": list(findings.rules),
        "classes": {
            str(value): keys.get(target, "background") for value, target in class_map.values.items()
        },
    }


# --- The result --------------------------------------------------------------------------------


def _make_result(
    data: DataDirectory,
    request: ImportRequest,
    row: LayoutRow,
    cases: list[Case],
    facts: Mapping[str, ScanFacts],
    class_map: ClassMap,
    failures: Mapping[str, str],
    left_out: Mapping[str, str],
    rules: tuple[str, ...],
) -> ImportResult:
    voxels = {scan: _class_voxels(one, class_map) for scan, one in facts.items()}
    named = next((one for one in NAMED_SETS if one.key == row.key), None)
    return ImportResult(
        dataset=request.name,
        folder=data.path,
        layout=row.key,
        dry_run=request.dry_run,
        cases=tuple(cases),
        classes=tuple(_sum_class(one, voxels, facts) for one in class_map.classes),
        empty=tuple(scan for scan in facts if not voxels[scan]),
        tilted=tuple(scan for scan, one in facts.items() if one.tilt_recovered),
        warnings={scan: one.warnings for scan, one in facts.items() if one.warnings},
        failures=dict(failures),
        left_out=dict(left_out),
        rules=rules,
        licence=named.licence if named else "",
        citation=named.citation if named else "",
        rater_dice=_mean_rater_dice(facts),
    )


def _mean_rater_dice(facts: Mapping[str, ScanFacts]) -> float | None:
    """Return the mean over scans of the raters' agreement, None where each has one rater."""
    dice = [one.rater_dice for one in facts.values() if one.rater_dice is not None]
    return sum(dice) / len(dice) if dice else None


def _sum_class(
    label_class: LabelClass, voxels: Mapping[str, Counter[int]], facts: Mapping[str, ScanFacts]
) -> ImportedClass:
    counts = {scan: counted[label_class.value] for scan, counted in voxels.items()}
    volume_ml = sum(n * facts[scan].voxel_volume_mm3 / 1000 for scan, n in counts.items())
    scans = sum(n > 0 for n in counts.values())
    return ImportedClass(label_class.value, label_class.key, scans, volume_ml)
