"""Where masks and truth come from: runs with their data set, or two folders.

Always joined by scan id, never by order.
"""

import csv
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hemseg_cli.config import Config, config_of_run, data_of
from hemseg_cli.config.schema import DataConfig
from hemseg_cli.core.cases import Case, cases_in_split, contaminated, read_cases
from hemseg_cli.core.classes import LabelClass, read_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.names import first_few
from hemseg_cli.core.run_directory import VOLUMES_FILE, RunDirectory, open_run
from hemseg_cli.evaluation.class_pairs import ClassPairs, class_warnings, pair_classes
from hemseg_cli.evaluation.scoring import CaseFiles
from hemseg_cli.evaluation.volume_intervals import read_volume_intervals
from hemseg_cli.imaging.file_names import is_image_name, label_name, stem

# How the names of files end that `predict` writes beside the masks.
_NO_MASKS = ("_probability", "_upright")
_CLASS_FILES = ("scan_class.csv", "train_set.csv", "val_set.csv", "test_set.csv")


@dataclass(frozen=True)
class EvaluationInputs:
    """One set of predictions with its truth.

    `dataset`: the one that is scored; `trained_on`: that of the run ("" for masks of another tool).
    `cases_file` and `summary_file`: where the evaluation is written.
    """

    name: str
    split: str
    cases: tuple[CaseFiles, ...]
    cases_file: Path
    summary_file: Path
    dataset: str = ""
    trained_on: str = ""
    warnings: tuple[str, ...] = field(default=())

    @property
    def label_classes(self) -> tuple[LabelClass, ...]:
        """The classes that are scored one by one."""
        return self.cases[0].classes.scored_classes if self.cases else ()

    def written_to(self, folder: Path) -> "EvaluationInputs":
        """Return the same, written into another folder."""
        return replace(self, cases_file=folder / "cases.csv", summary_file=folder / "summary.json")


def run_inputs(config: Config, name: str | None, *, allow_missing: bool) -> EvaluationInputs:
    """Find the predictions of a run (None: the newest) for the split.

    HemsegError names what is missing and the command that makes it.
    """
    run = open_run(config.runs.root, name)
    split = config.evaluate.split
    trained = config_of_run(config, run.config_file)
    data = data_of(config, trained)

    # Of another data set than the run's own the masks lie in a folder apart.
    run = run_on_data(run, data, trained)
    table = read_cases(data.cases_file)
    chosen = cases_in_split(table, split)
    files = _files(run.predictions(split)) if run.predictions(split).is_dir() else {}
    if not files:
        raise HemsegError(
            f"run {run.path} has no predictions of split {split}",
            hint=f"{run.command('predict', split)}   makes them",
        )
    masks = _join([case.scan for case in chosen], files)
    predict, folder = run.command("predict", split), run.predictions(split)
    _refuse_missing(chosen, masks, folder, predict=predict, allow_missing=allow_missing)
    kinds = scan_classes(data.folder)
    classes = _class_pairs(
        config,
        read_classes(data.directory),
        read_classes(DataDirectory(run.predictions(split))),
        name=f"run {run.name}",
    )

    # Everything is joined by scan id; what a scan does not have stays empty.
    intervals = read_volume_intervals(run.volumes_file(split), classes.scored)
    cases = tuple(
        replace(
            _case_files(config, data, case, masks.get(case.scan), kinds.get(case.scan, "")),
            classes=classes,
            network_mask=_existing(run.network_mask_file(split, case.scan)),
            volume_intervals=intervals.get(case.scan, {}),
        )
        for case in chosen
    )
    return EvaluationInputs(
        run.name,
        split,
        cases,
        run.evaluation_cases_file(split),
        run.evaluation_summary_file(split),
        data.dataset,
        trained.data.dataset,
        (
            *_split_warnings(chosen, split, data, trained),
            *_unused(files, masks),
            *class_warnings(classes),
        ),
    )


def folder_inputs(
    config: Config, predictions: Path, labels: Path | None, *, allow_missing: bool
) -> EvaluationInputs:
    """Find masks of any tool and labels, joined by file name.

    The same name, or with `_mask`, `_seg`, `_label` and the like behind it (`file_names`), in any
    format that is read. `labels` None: those of the data set's split. Patients and true voxel
    volumes come from the case table where `labels` lies inside the configured data set, else from
    the headers. The classes of label maps come from a `classes.toml` in either folder (or the data
    set), of the masks from the labels' where they have none.
    """
    files = _files_in("--predictions", predictions, "masks")

    # Labels of the configured data set have patients and true voxels in its case table.
    inside = labels is None or (
        config.data.cases_file.is_file()
        and labels.resolve().is_relative_to(config.data.folder.resolve())
    )
    table = read_cases(config.data.cases_file) if inside else []
    if labels is None:
        rows = cases_in_split(table, config.evaluate.split)
        labels = config.data.folder
        truth = {case.scan: config.data.directory.label_of(case) for case in rows}
    else:
        known = {case.scan: case for case in table}
        truth = _truth(labels, known.keys() | files.keys())
        rows = [known.get(scan, Case(scan)) for scan in sorted(truth)]

    masks = _join(truth, files)
    _refuse_missing(rows, masks, predictions, allow_missing=allow_missing, files=files)
    kinds = scan_classes(config.data.folder) if inside else {}
    classes = _folder_classes(config, predictions, labels, inside=inside)
    intervals = read_volume_intervals(predictions / VOLUMES_FILE, classes.scored)
    cases = tuple(
        replace(
            _case_files(
                config,
                config.data,
                case,
                masks.get(case.scan),
                kinds.get(case.scan, ""),
                label=truth[case.scan],
            ),
            classes=classes,
            volume_intervals=intervals.get(case.scan, {}),
        )
        for case in rows
    )
    out = predictions / "evaluation"  # --out names another folder
    splits = {case.split for case in rows}
    split = splits.pop() if len(splits) == 1 else ""
    return EvaluationInputs(
        str(predictions),
        split,
        cases,
        out / "cases.csv",
        out / "summary.json",
        config.data.dataset if inside else "",
        warnings=(*_unused(files, masks), *class_warnings(classes)),
    )


def _truth(labels: Path, known: Collection[str]) -> dict[str, Path]:
    """Return the label of each scan in a folder; HemsegError where two would be one scan's.

    `known`: names that are scans' own, whatever they end with.
    """
    truth: dict[str, Path] = {}
    for name, path in _files_in("--labels", labels, "label files").items():
        scan = name if name in known else label_name(name)
        if scan in truth:
            raise _both(truth[scan], path, scan)
        truth[scan] = path
    return truth


def _files_in(option: str, folder: Path, what: str) -> dict[str, Path]:
    """As `_files`, of a folder that an option names; HemsegError where there is none."""
    if not folder.is_dir():
        raise HemsegError(f"{option} {folder} is not a folder")

    found = _files(folder)
    if not found:
        raise HemsegError(
            f"no .nii, .nii.gz, .nrrd or .mha in {folder}",
            hint=f"{option} names the folder of the {what}",
        )
    return found


def _folder_classes(config: Config, predictions: Path, labels: Path, *, inside: bool) -> ClassPairs:
    """Join the classes of two folders; `inside`: the labels are those of the data set."""
    folders = [DataDirectory(folder) for folder in (labels, predictions)]

    # The labels say what their values mean, then the data set, then the masks.
    beside_labels, beside_masks = folders
    if not beside_labels.classes_file.is_file():
        beside_labels = config.data.directory if inside else beside_masks
    if not beside_masks.classes_file.is_file():
        beside_masks = beside_labels

    return _class_pairs(
        config,
        read_classes(beside_labels),
        read_classes(beside_masks),
        name=f"--predictions {predictions}",
    )


def _class_pairs(
    config: Config,
    truth: Sequence[LabelClass],
    predicted: Sequence[LabelClass],
    *,
    name: str,
) -> ClassPairs:
    """Join the classes; HemsegError where the paper's protocol, of one class, is asked for."""
    pairs = pair_classes(truth, predicted, name=name)
    if config.evaluate.protocol == "paper" and pairs.several:
        several = pairs.truth if len(pairs.truth) > 1 else pairs.predicted
        raise HemsegError(
            f"the paper's protocol scores one class, hemorrhage; {name} is scored with "
            f"{len(several)}: {first_few([each.key for each in several])}",
            hint="--protocol native",
        )
    return pairs


def run_on_data(run: RunDirectory, data: DataConfig, trained: Config) -> RunDirectory:
    """Return the run with its results on `data`: apart where that is not its own data set."""
    return run.on(data.dataset) if data.dataset != trained.data.dataset else run


def refuse_different_splits(inputs: Sequence[EvaluationInputs]) -> None:
    """HemsegError where the splits of several runs do not hold the same scans."""
    first = inputs[0]
    for other in inputs[1:]:
        ours, theirs = ({case.scan for case in one.cases} for one in (first, other))
        counts = ", ".join(
            f"{len(scans)} scans are only in {one.name}'s ({first_few(sorted(scans))})"
            for one, scans in ((first, ours - theirs), (other, theirs - ours))
            if scans
        )
        if counts:
            raise HemsegError(
                f"split {first.split} of {first.name} and of {other.name} differ: {counts}",
                hint="score both on one data set: --dataset NAME, after predicting it with both",
            )


def _split_warnings(
    chosen: Sequence[Case], split: str, data: DataConfig, trained: Config
) -> Iterable[str]:
    """Yield what stands between these scans and new patients."""
    yield from _other_data_set(data, trained)
    yield from leakage_warnings(chosen, split, trained)
    yield from _contamination_warnings(chosen, data, trained)


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _other_data_set(data: DataConfig, trained: Config) -> Iterable[str]:
    if data.dataset != trained.data.dataset:
        yield (
            f"the run was trained on data set {trained.data.dataset} and is scored on "
            f"{data.dataset}"
        )


def scan_classes(folder: Path) -> dict[str, str]:
    """Read scan -> scan-level class from the tables in the data set's folder.

    `scan_class.csv` or the published `{train,val,test}_set.csv`: two columns with a header, scan id
    (a file name will do) and class. Empty where there is no such file.
    """
    classes: dict[str, str] = {}
    for path in (folder / name for name in _CLASS_FILES):
        if not path.is_file():
            continue
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = [row for row in csv.reader(file, strict=True) if row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise FileFormatError(f"{path} is not a CSV file: {error}") from None
        for number, row in enumerate(rows[1:], 2):
            if len(row) < 2:
                raise FileFormatError(f"{path}, line {number}: two cells wanted, scan and class")
            classes[stem(row[0].strip())] = row[1].strip()
    return classes


def leakage_warnings(chosen: Sequence[Case], split: str, trained: Config) -> Iterable[str]:
    """Yield what makes the split easier than a new patient would be."""
    if split == "train" or (split == "val" and trained.train.fold is not None):
        yield f"the run was trained on split {split}: these numbers say nothing about new patients"

    # A patient known from training is no new patient.
    shared = [case.scan for case in chosen if case.shares_patient_with]
    if shared:
        yield (
            f"{len(shared)} of {len(chosen)} scans share a patient with another split: "
            f"{first_few(shared)}"
        )


def _contamination_warnings(
    chosen: Sequence[Case], data: DataConfig, trained: Config
) -> Iterable[str]:
    """Yield the scans of another data set's split that this run was trained or validated on."""
    if data.folder == trained.data.folder or not trained.data.cases_file.is_file():
        return

    # By scan id, and by patient where another scan of the same one was used.
    others = read_cases(trained.data.cases_file)
    for used in ("train", "val"):
        known = [case for case in others if case.split == used]
        patients = {case.patient for case in known if case.patient}
        scans = contaminated(known, chosen)
        of_patients = [
            case.scan for case in chosen if case.scan not in scans and case.patient in patients
        ]
        for seen, what in ((scans, "scans are"), (of_patients, "scans are of patients")):
            if seen:
                yield (
                    f"contaminated: {len(seen)} of {len(chosen)} {what} in split {used} of "
                    f"{trained.data.dataset}, the data set of the run: {first_few(seen)}"
                )


def _case_files(
    config: Config,
    data: DataConfig,
    case: Case,
    prediction: Path | None,
    scan_class: str,
    *,
    label: Path | None = None,
) -> CaseFiles:
    return CaseFiles(
        scan=case.scan,
        label=label or data.directory.label_of(case),
        prediction=prediction,
        patient=case.patient,
        split=case.split,
        voxel_volume_mm3=case.voxel_volume_mm3,
        tilt_deg=case.tilt_deg,
        scan_class=scan_class,
        tolerance_mm=config.evaluate.nsd_tolerances_mm,
        protocol=config.evaluate.protocol,
    )


def _files(folder: Path) -> dict[str, Path]:
    """Return the label maps of a folder by their names without suffix; probabilities are none.

    HemsegError where two files have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = stem(path.name)
        if not is_image_name(path.name) or name.endswith(_NO_MASKS):
            continue
        if name in found:
            raise _both(found[name], path, name)
        found[name] = path
    return found


def _join(scans: Iterable[str], files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the file of each scan that has one: of its very name, or with a label's ending.

    HemsegError where two files are one scan's.
    """
    wanted = set(scans)
    by_scan: dict[str, list[str]] = defaultdict(list)
    for name in files:
        # A file that bears the name of a scan is that one's, whatever the name ends with.
        by_scan[name if name in wanted else label_name(name)].append(name)

    joined = {}
    for scan in wanted & by_scan.keys():
        first, *others = by_scan[scan]
        if others:
            raise _both(files[first], files[others[0]], scan)
        joined[scan] = files[first]
    return joined


def _both(first: Path, second: Path, scan: str) -> HemsegError:
    return HemsegError(
        f"{first} and {second} are both masks of scan {scan}", hint="keep one of them"
    )


def _refuse_missing(
    cases: Sequence[Case],
    masks: Mapping[str, Path],
    folder: Path,
    *,
    allow_missing: bool,
    predict: str = "predict them",
    files: Mapping[str, Path] | None = None,
) -> None:
    """HemsegError where scans have no mask; `files`: all that a folder of another tool holds."""
    missing = [case.scan for case in cases if case.scan not in masks]
    if not missing or allow_missing:
        return
    used = set(masks.values())
    unused = sorted(path.name for path in (files or {}).values() if path not in used)
    hint = f"{predict}, or count them as missed with --allow-missing"
    if unused:
        hint = (
            f"{first_few(unused, 3)} fit no scan: name each mask as its scan ({missing[0]}.nii.gz "
            f"or {missing[0]}_mask.nii.gz), or count the missing as missed with --allow-missing"
        )
    raise HemsegError(
        f"{len(missing)} of {len(cases)} scans have no mask in {folder}: {first_few(missing)}",
        hint=hint,
    )


def _unused(files: Mapping[str, Path], masks: Mapping[str, Path]) -> Iterable[str]:
    used = set(masks.values())
    extra = sorted(name for name, path in files.items() if path not in used)
    if extra:
        yield (
            f"{len(extra)} masks belong to no label of the split and were not scored: "
            f"{first_few(extra)}"
        )
