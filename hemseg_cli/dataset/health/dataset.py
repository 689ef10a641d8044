"""Check a data set: what is there, its faults (numbers would be wrong), and its warnings."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.cases import (
    SPLITS,
    VOLUME_STRATA,
    Case,
    contaminated,
    patients_across_splits,
    read_cases,
    volume_stratum,
)
from hemseg_cli.core.classes import read_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.executor import map_cases
from hemseg_cli.core.files import read_json
from hemseg_cli.core.names import first_few
from hemseg_cli.dataset.health.caches import gigabytes, list_data_set_caches
from hemseg_cli.dataset.health.scan_check import KINDS, Fault, ScanCheck, ScanHealth, check_scan
from hemseg_cli.imaging.geometry import TILTED_FROM_DEG

TILT_BINS_DEG = (TILTED_FROM_DEG, 5.0, 10.0, 15.0, 20.0, 25.0)
_NAMES_SHOWN = 8


@dataclass(frozen=True)
class Overlap:
    """Test scans of one data set that stand in the train or the val split of another.

    Neither may be scored by a model of the latter.
    """

    trained_on: str
    tested_on: str
    in_train: tuple[str, ...]
    in_val: tuple[str, ...]

    def warning(self) -> str:
        """Say it in one line."""
        where = f"{len(self.in_train)} in train, {len(self.in_val)} in val"
        return (
            f"test scans of {self.tested_on} in {self.trained_on}: {where}; "
            f"no model of {self.trained_on} may be scored on them"
        )


@dataclass(frozen=True)
class DataHealth:
    """What `check_data` found. Scan ids everywhere; volumes in mL by the true voxel volume."""

    dataset: str
    folder: Path
    cases: tuple[Case, ...]
    scans: tuple[ScanHealth, ...]
    faults: tuple[Fault, ...]
    strays: tuple[str, ...]
    overlaps: tuple[Overlap, ...]
    old_caches: tuple[str, ...] = ()
    rater_dice: float | None = None

    @property
    def failed(self) -> bool:
        """Whether a scan has a fault."""
        return not self.ok

    @property
    def failures(self) -> dict[str, str]:
        """Scan -> its faults."""
        found: dict[str, str] = {}
        for fault in self.faults:
            text = f"{fault.kind}: {fault.message}"
            found[fault.scan] = f"{found[fault.scan]}; {text}" if fault.scan in found else text
        return found

    @property
    def ok(self) -> bool:
        """Whether no number made from these data need be wrong."""
        return not self.faults

    @property
    def missing_images(self) -> list[str]:
        """Scans with a label and no image."""
        return [scan.scan for scan in self.scans if scan.label and not scan.image]

    @property
    def missing_labels(self) -> list[str]:
        """Scans without a label."""
        return [scan.scan for scan in self.scans if not scan.label]

    @property
    def empty_labels(self) -> list[str]:
        """Scans whose label has no hemorrhage."""
        return [scan.scan for scan in self.scans if scan.empty]

    @property
    def without_sform(self) -> list[str]:
        """Scans whose label has a qform alone: some readers then place it otherwise."""
        return [scan.scan for scan in self.scans if not scan.has_sform]

    @property
    def tilted(self) -> int:
        """Scans tilted by more than half a degree."""
        return sum(
            abs(scan.tilt_deg) > TILTED_FROM_DEG for scan in self.scans if scan.tilt_deg is not None
        )

    def leaking_patients(self) -> dict[str, list[str]]:
        """Return patient -> `split/scan` of each scan, for patients in more than one split."""
        shared = patients_across_splits(case for case in self.cases if case.split)
        return {
            patient: [f"{c.split}/{c.scan}" for c in self.cases if c.patient == patient and c.split]
            for patient in sorted(shared)
        }

    def splits(self) -> dict[str, dict[str, int]]:
        """Count per split: scans, patients, labels, images."""
        state = {scan.scan: scan for scan in self.scans}
        names = [*SPLITS, *sorted({case.split for case in self.cases} - set(SPLITS))]
        found = {}
        for name in names:
            cases = [case for case in self.cases if case.split == name]
            found[name or "no split"] = {
                "scans": len(cases),
                "patients": len({case.patient for case in cases if case.patient}),
                "labels": sum(state[case.scan].label for case in cases),
                "images": sum(state[case.scan].image for case in cases),
            }
        return found

    def tilts(self) -> dict[str, int]:
        """Count the scans in each bin of |tilt|."""
        angles = [abs(scan.tilt_deg) for scan in self.scans if scan.tilt_deg is not None]

        # A bin for each pair of edges, and one for what is beyond the last.
        edges = (0.0, *TILT_BINS_DEG)
        names = [f"{low:g}-{high:g}" for low, high in itertools.pairwise(edges)] + [
            f">{edges[-1]:g}"
        ]
        counts = Counter(sum(angle > edge for edge in TILT_BINS_DEG) for angle in angles)
        return {name: counts[number] for number, name in enumerate(names)}

    def strata(self) -> dict[str, dict[str, int]]:
        """Return volume stratum (mL) -> scans per split."""
        # Counted once, then laid out with a zero where a split has none of a stratum.
        split = {case.scan: case.split or "no split" for case in self.cases}
        counts = Counter(
            (volume_stratum(scan.truth_ml), split[scan.scan])
            for scan in self.scans
            if scan.truth_ml is not None
        )
        return {
            stratum: {name: counts[stratum, name] for name in self.splits()}
            for stratum in VOLUME_STRATA
        }

    def warnings(self) -> list[str]:
        """Say what one should know, a line each; none of it fails the check."""
        leaking = self.leaking_patients()
        lines = []
        if leaking:
            lines.append(f"{len(leaking)} patients stand in more than one split: {_names(leaking)}")
        lines += [overlap.warning() for overlap in self.overlaps]
        if self.without_sform:
            lines.append(
                f"{len(self.without_sform)} labels have no sform (their qform is used): "
                f"{_names(self.without_sform)}"
            )
        if self.empty_labels:
            lines.append(f"{len(self.empty_labels)} labels are empty: {_names(self.empty_labels)}")
        if self.missing_images:
            lines.append(
                f"{len(self.missing_images)} scans have no image yet: {_names(self.missing_images)}"
            )
        if self.strays:
            lines.append(
                f"{len(self.strays)} files belong to no scan of the case table: "
                f"{_names(self.strays)}"
            )
        if self.rater_dice is not None:
            lines.append(f"raters of one scan agree with a mean Dice of {self.rater_dice:.3f}")
        if self.old_caches:
            lines.append(
                f"{len(self.old_caches)} older preprocessings take space: "
                f"{_names(self.old_caches)} (hemseg clean)"
            )
        return lines

    def refusals(self) -> list[str]:
        """Say why `train` would refuse to begin, a line each, though no number is wrong."""
        state = {scan.scan: scan for scan in self.scans}
        lines = []
        for split in ("train", "val"):
            scans = [state[case.scan] for case in self.cases if case.split == split]
            labels = [scan for scan in scans if scan.label]
            if not scans:
                lines.append(f"split {split} has no scans (train --fold K divides train and val)")
            elif without := [scan.scan for scan in labels if not scan.image]:
                lines.append(
                    f"{len(without)} scans of split {split} have no image: {_names(without)}"
                )
            if labels and all(scan.empty for scan in labels):
                lines.append(f"no label of split {split} has any hemorrhage")
        return lines

    def payload(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        # Volumes of the labels that could be read, for their median and range.
        volumes = sorted(scan.truth_ml for scan in self.scans if scan.truth_ml is not None)
        return {
            "dataset": self.dataset,
            "folder": str(self.folder),
            "healthy": self.ok,
            "scans": len(self.cases),
            "labels": sum(scan.label for scan in self.scans),
            "images": sum(scan.image for scan in self.scans),
            "splits": self.splits(),
            "missing_images": self.missing_images,
            "missing_labels": self.missing_labels,
            "faults": [asdict(fault) for fault in self.faults],
            "fault_counts": {
                kind: sum(fault.kind == kind for fault in self.faults) for kind in KINDS
            },
            "tilt_deg": self.tilts(),
            "tilted": self.tilted,
            "volume_strata_ml": self.strata(),
            "truth_ml": {"total": sum(volumes), "median": _median(volumes)},
            "patients": len({case.patient for case in self.cases if case.patient}),
            "patients_across_splits": self.leaking_patients(),
            "overlaps": [asdict(overlap) for overlap in self.overlaps],
            "empty_labels": self.empty_labels,
            "labels_without_sform": self.without_sform,
            "stray_files": list(self.strays),
            "old_caches": list(self.old_caches),
            "rater_dice": self.rater_dice,
            "warnings": self.warnings(),
            "train_refuses": self.refusals(),
        }

    def tables(self) -> list[console.Table]:
        """Return all of it for a person."""
        splits = self.splits()
        columns = ("scans", "patients", "labels", "images")
        numbers = frozenset({*columns, *splits, "all"})
        rows = [
            [name, *(str(counts[column]) for column in columns)] for name, counts in splits.items()
        ]
        rows.append(["all", *(str(self.payload()[column]) for column in columns)])
        strata = [
            [f"{name} mL", *(str(n) for n in counts.values()), str(sum(counts.values()))]
            for name, counts in self.strata().items()
        ]
        tables = [
            console.Table(
                f"{self.dataset} in {self.folder}", ["split", *columns], rows, right=numbers
            ),
            console.Table("Hemorrhage volume", ["", *splits, "all"], strata, right=numbers),
            console.Table(
                "Gantry tilt, degrees",
                list(self.tilts()),
                [[str(n) for n in self.tilts().values()]],
                f"{self.tilted} tilted",
            ),
        ]
        if self.leaking_patients():
            leaks = [
                [patient, "  ".join(scans)] for patient, scans in self.leaking_patients().items()
            ]
            tables.append(
                console.Table("Patients in more than one split", ["patient", "scans"], leaks)
            )
        if self.warnings():
            tables.append(
                console.Table("Worth knowing", [""], [[line] for line in self.warnings()])
            )
        if self.ok:
            refused = [f"train would refuse: {line}" for line in self.refusals()]
            verdict = [[line] for line in ("nothing is wrong", *refused)]
            return [*tables, console.Table("Verdict", [""], verdict)]
        faults = [[fault.scan, fault.kind, fault.message] for fault in self.faults]
        return [
            *tables,
            console.Table(
                "Wrong: no number made from these scans is to be trusted",
                ["scan", "what", "detail"],
                faults,
            ),
        ]


def check_data(config: Config) -> DataHealth:
    """Look at every scan of `config.data.folder`, in parallel.

    HemsegError where there is no case table.
    """
    data = config.data.directory
    cases = read_cases(data.cases_file)
    values = tuple(label_class.value for label_class in read_classes(data))
    outcomes = map_cases(
        check_scan,
        [ScanCheck(data, case, values) for case in cases],
        workers=config.compute.workers,
        scheduler=config.compute.scheduler,
        preload=("nibabel",),
    )
    scans: dict[str, ScanHealth] = {}
    for outcome in console.progress(outcomes, label="doctor", total=len(cases)):
        scan = outcome.item.case.scan
        scans[scan] = outcome.value or ScanHealth(
            scan, (Fault(scan, "unreadable", outcome.error or ""),), label=False, image=False
        )
    ordered = [scans[case.scan] for case in cases]
    return DataHealth(
        dataset=config.data.dataset,
        folder=data.path,
        cases=tuple(cases),
        scans=tuple(ordered),
        faults=tuple(fault for scan in ordered for fault in scan.faults),
        strays=tuple(_find_strays(data, cases)),
        overlaps=tuple(_find_overlaps(config.data.root, config.data.dataset, cases)),
        rater_dice=_read_rater_dice(data),
        old_caches=tuple(
            f"{entry.path.name} ({gigabytes(entry.bytes)})"
            for entry in list_data_set_caches(data)
            if entry.kind == "older preprocessing"
        ),
    )


def _read_rater_dice(data: DataDirectory) -> float | None:
    """Read the raters' agreement that `import` found, None where there is none."""
    if not data.source_file.is_file():
        return None
    try:
        values = read_json(data.source_file)
    except HemsegError as error:
        console.warn(error.message)
        return None
    dice = values.get("rater_dice") if isinstance(values, dict) else None
    return float(dice) if isinstance(dice, float) and 0 <= dice <= 1 else None


def _find_strays(data: DataDirectory, cases: Sequence[Case]) -> list[str]:
    """Find images and labels in the folders of the splits that no row names."""
    known = {path for case in cases for path in (data.label_of(case), data.image_of(case))}
    folders = (
        folder
        for split in SPLITS
        for folder in (data.label_file("any", split).parent, data.image_file("any", split).parent)
    )
    found = (path for folder in folders for path in folder.glob("*.nii*"))
    return sorted(
        str(path.relative_to(data.path))
        for path in found
        if path not in known and not path.name.startswith(".")
    )


def _find_overlaps(root: Path, dataset: str, cases: Sequence[Case]) -> list[Overlap]:
    """Find train scans of one data set below `root` that are test scans of another.

    This one may be on either side.
    """
    overlaps = []
    for table in sorted(root.glob("*/cases.csv")):
        other = table.parent.name
        if other == dataset:
            continue
        try:
            others = read_cases(table)
        except HemsegError as error:
            console.warn(f"{other} was left out of the comparison: {error.message}")
            continue
        for trained, on, tested, at in (
            (cases, dataset, others, other),
            (others, other, cases, dataset),
        ):
            scored = [case for case in tested if case.split == "test"]
            seen = contaminated(
                (case for case in trained if case.split in ("train", "val")), scored
            )
            if seen:
                in_train = contaminated((case for case in trained if case.split == "train"), scored)
                overlaps.append(
                    Overlap(on, at, tuple(in_train), tuple(sorted(set(seen) - set(in_train))))
                )
    return overlaps


def _names(names: Iterable[str]) -> str:
    return first_few(list(names), _NAMES_SHOWN)


def _median(ordered: Sequence[float]) -> float | None:
    if not ordered:
        return None
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
