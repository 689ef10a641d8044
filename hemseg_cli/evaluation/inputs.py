"""Where masks and truth come from: runs with their data set, or two folders.

Always joined by scan id, never by order.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
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

_MASK_SUFFIX = "_mask"
_PROBABILITY_SUFFIX = "_probability"
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
    masks = _masks(run.predictions(split)) if run.predictions(split).is_dir() else {}
    if not masks:
        raise HemsegError(
            f"run {run.path} has no predictions of split {split}",
            hint=f"{run.command('predict', split)}   makes them",
        )
    _refuse_missing(
        [case.scan for case in chosen],
        masks,
        run.predictions(split),
        predict=run.command("predict", split),
        allow_missing=allow_missing,
    )
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
            *_unused(masks, chosen),
            *class_warnings(classes),
        ),
    )


def folder_inputs(
    config: Config, predictions: Path, labels: Path, *, allow_missing: bool
) -> EvaluationInputs:
    """Find masks of any tool and labels, joined by file name.

    `<name>.nii.gz` or `<name>_mask.nii.gz`, plain or gzipped, whatever the case of the suffix.
    Patients and true voxel volumes come from the case table where `labels` lies inside the
    configured data set, else from the headers. The classes of label maps come from a `classes.toml`
    in either folder (or the data set), of the masks from the labels' where they have none.
    """
    truth = _masks_in("--labels", labels, "label files")
    masks = _masks_in("--predictions", predictions, "masks")
    _refuse_missing(sorted(truth), masks, predictions, allow_missing=allow_missing)

    # Labels of the configured data set have patients and true voxels in its case table.
    inside = config.data.cases_file.is_file() and labels.resolve().is_relative_to(
        config.data.folder.resolve()
    )
    known = {case.scan: case for case in read_cases(config.data.cases_file)} if inside else {}
    rows = [known.get(scan, Case(scan)) for scan in sorted(truth)]
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
        warnings=(*_unused(masks, rows), *class_warnings(classes)),
    )


def _masks_in(option: str, folder: Path, what: str) -> dict[str, Path]:
    """Scan id -> file in a folder that an option names; HemsegError where there is none."""
    if not folder.is_dir():
        raise HemsegError(f"{option} {folder} is not a folder")

    found = _masks(folder)
    if not found:
        raise HemsegError(
            f"no .nii or .nii.gz in {folder}", hint=f"{option} names the folder of the {what}"
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
            classes[_stem(row[0].strip())] = row[1].strip()
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


def _masks(folder: Path) -> dict[str, Path]:
    """Scan id -> mask file. HemsegError where two files would be the same scan's."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        # A probability, a hidden file or a table is no mask.
        scan = _stem(path.name)
        if (
            not path.name.endswith((".nii", ".nii.gz"))
            or path.name.startswith(".")
            or scan.endswith(_PROBABILITY_SUFFIX)
        ):
            continue
        if scan in found:
            raise HemsegError(
                f"{found[scan]} and {path} are both masks of scan {scan}", hint="keep one of them"
            )
        found[scan] = path
    return found


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii").removesuffix(_MASK_SUFFIX)


def _refuse_missing(
    scans: Sequence[str],
    masks: Mapping[str, Path],
    folder: Path,
    *,
    allow_missing: bool,
    predict: str = "predict them",
) -> None:
    missing = [scan for scan in scans if scan not in masks]
    if missing and not allow_missing:
        raise HemsegError(
            f"{len(missing)} of {len(scans)} scans have no mask in {folder}: {first_few(missing)}",
            hint=f"{predict}, or count them as missed with --allow-missing",
        )


def _unused(masks: Mapping[str, Path], chosen: Iterable[Case]) -> Iterable[str]:
    extra = sorted(set(masks) - {case.scan for case in chosen})
    if extra:
        yield (
            f"{len(extra)} masks belong to no label of the split and were not scored: "
            f"{first_few(extra)}"
        )
