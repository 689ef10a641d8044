"""Convert RSNA slices, picked by id per manifest, to one NIfTI per scan on its label's grid.

The case table is brought up to the true geometry, which only the slice positions give.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hemseg_cli.config import Config
from hemseg_cli.core.cases import Case, read_cases, write_cases
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import CaseError, UsageError
from hemseg_cli.dataset.conversion.log import ConversionRow
from hemseg_cli.dataset.conversion.result import ConvertResult, Need
from hemseg_cli.dataset.conversion.scans import (
    ConversionLog,
    ConvertedScan,
    convert_scans,
    find_written,
    write_scan,
    writing_into,
)
from hemseg_cli.dataset.conversion.upright_pair import make_upright_pair
from hemseg_cli.dataset.labels.manifest import ManifestRow, read_manifest, write_manifest
from hemseg_cli.dataset.slices.sources import SliceSource, open_source
from hemseg_cli.imaging.dicom.series import assemble, read_slices
from hemseg_cli.imaging.geometry import SAME_GRID_MM, grid_distance_mm
from hemseg_cli.imaging.nifti import Volume, read_header, read_volume
from hemseg_cli.imaging.sidecar import Sidecar


@dataclass(frozen=True)
class RsnaTask:
    """One scan to convert from the slices of these ids.

    `label` is the published one, None where there is none; `new_label` where it is written when it
    is resampled.
    """

    scan: str
    patient: str
    slices: tuple[str, ...]
    label: Path | None
    image: Path
    new_label: Path | None


def convert_rsna(
    config: Config, *, scans: Sequence[str] | None, dry_run: bool, force: bool
) -> ConvertResult:
    """Convert the scans of the case table; see `convert.convert`.

    With `convert.geometry = "true"` images and labels both change, so that they make a data set of
    their own, `<data.dataset>-true`.
    """
    data, out = config.data.directory, output_directory(config)
    cases = read_cases(data.cases_file)
    manifest = read_manifest(data.manifest_file)
    tasks, refused = _plan_tasks(data, out, _choose_cases(cases, scans), manifest)

    done: dict[str, ConvertedScan] = {}
    for task in [] if force else tasks:
        sidecar = find_written(task, config.convert.geometry)
        if sidecar is not None:
            done[task.scan] = _with_label_voxels(ConvertedScan(sidecar), task.new_label)
    todo = [task for task in tasks if task.scan not in done]
    if dry_run:
        return ConvertResult(out.path, need=_count_need(config, todo, len(done)))
    if todo:
        # A source that is not there fails the command, not each scan; its index is made once.
        with open_source(config):
            pass

    done_before = len(done)
    files = [path for task in tasks for path in (task.image, task.new_label) if path is not None]
    with writing_into(out.path, [path.parent for path in files]):
        log = ConversionLog(out.conversion_file, refused)
        for converted in done.values():
            log.add_found(converted.sidecar)
        try:
            for converted in convert_scans(config, partial(_convert_scan, config), todo, log):
                done[converted.sidecar.scan] = converted
        finally:
            # Also when interrupted: log and table then tell what is there, and the same command
            # does the rest.
            _close_source()
            log.save()
            _write_tables(data, out, cases, manifest, done)
    return ConvertResult(out.path, tuple(log.rows), done_before)


def output_directory(config: Config) -> DataDirectory:
    """Return the data set's folder, or that of its upright copy."""
    data = config.data.directory
    if config.convert.geometry == "label":
        return data
    return DataDirectory(data.path.with_name(f"{data.path.name}-true"))


def _choose_cases(cases: Sequence[Case], scans: Sequence[str] | None) -> list[Case]:
    """Pick the scans asked for, by default those that belong to a split."""
    if not scans:
        return [case for case in cases if case.split]
    known = {case.scan: case for case in cases}
    for scan in scans:
        if scan not in known:
            near = difflib.get_close_matches(scan, known, n=1)
            raise UsageError(
                f"--scan {scan}: no such scan in the case table",
                hint=f"did you mean {near[0]}?" if near else "",
            )
    return [known[scan] for scan in dict.fromkeys(scans)]


def _plan_tasks(
    data: DataDirectory,
    out: DataDirectory,
    cases: Sequence[Case],
    manifest: Sequence[ManifestRow],
) -> tuple[list[RsnaTask], list[ConversionRow]]:
    """Make a task of each case that the manifest knows; the others are refused."""
    rows = {row.scan: row for row in manifest}
    tasks, refused = [], []
    for case in cases:
        row = rows.get(case.scan)
        if row is None:
            reason = f"{data.manifest_file.name} names no slices for it"
            refused.append(ConversionRow(case.scan, "refused", reason))
            continue
        label = data.label_of(case) if case.label else None
        new_label = out.label_of(case) if case.label and out != data else None
        image = out.image_file(case.scan, case.split)
        tasks.append(RsnaTask(case.scan, row.patient, row.slices, label, image, new_label))
    return tasks, refused


def _convert_scan(config: Config, task: RsnaTask) -> ConvertedScan:
    """Read, check and write one scan; in a worker process."""
    settings, source = config.convert, _source(config)
    upright = settings.geometry == "true"
    slices = read_slices(task.scan, task.slices, _reader(source, task.slices))

    # On the label's grid slices stay where they are, or the image would leave its label: uneven
    # steps need geometry true.
    uneven = settings.uneven if upright else "refuse"
    volume, sidecar = assemble(
        task.scan, slices, patient=task.patient, uneven=uneven, repair=settings.repair
    )
    if task.label is not None:
        check_label_grid(task.scan, volume, sidecar, task.label)

    label_voxels = None
    if upright:
        volume, sidecar, label_voxels = make_upright_pair(
            volume, sidecar, task.label, task.new_label
        )
    converted = ConvertedScan(write_scan(task.image, volume, sidecar), label_voxels)
    if not settings.keep_slices:
        source.forget(task.slices)
    return converted


def _reader(source: SliceSource, names: Sequence[str]) -> Callable[[str], bytes]:
    """Load all slices at once and return a function that gives each by name.

    Where one is missing or damaged each is asked for by itself, so that every bad one is named.
    """
    try:
        loaded = dict(zip(names, source.read_many(names), strict=True))
    except CaseError:
        return source.read
    return loaded.pop


def check_label_grid(scan: str, volume: Volume, sidecar: Sidecar, label: Path) -> None:
    """Check that the slices lie on their label's grid; CaseError otherwise."""
    shape, affine = read_header(label)
    i, j, k = volume.array.shape
    count = len(sidecar.slice_positions_mm)
    if tuple(shape) != (i, j, count):
        raise CaseError(
            f"{scan}: image shape {(i, j, count)} is not that of its label {label.name}, "
            f"{tuple(shape)}"
        )

    # Uneven slices that were interpolated: the label's grid spans the same length in fewer steps.
    expected = volume.affine.copy()
    expected[:3, 2] *= (k - 1) / (count - 1)
    distance = grid_distance_mm(shape, affine, shape, expected)
    if not distance <= SAME_GRID_MM:
        raise CaseError(f"{scan}: image and label {label.name} lie up to {distance:.4g} mm apart")


def with_geometry(case: Case, converted: ConvertedScan | None, image: str) -> Case:
    """Give the case its image and the geometry of its slice positions.

    `truth_ml` is counted anew with the true voxel.
    """
    if converted is None:
        return case
    sidecar, truth = converted.sidecar, case.truth_ml
    volume = sidecar.voxel_volume_mm3
    if converted.label_voxels is not None:
        truth = converted.label_voxels * volume / 1000
    elif truth is not None and case.voxel_volume_mm3:
        # The table's mL came from a whole number of voxels: taken back, nothing of its rounding
        # stays.
        truth = round(truth * 1000 / case.voxel_volume_mm3) * volume / 1000

    x, y, z = sidecar.spacing_mm
    return dataclasses.replace(
        case,
        image=image,
        n_slices=sidecar.shape[2],
        spacing_x_mm=x,
        spacing_y_mm=y,
        spacing_z_mm=z,
        tilt_deg=sidecar.tilt_deg,
        voxel_volume_mm3=volume,
        truth_ml=truth,
        geometry_from="dicom",
    )


def _write_tables(
    data: DataDirectory,
    out: DataDirectory,
    cases: Sequence[Case],
    manifest: Sequence[ManifestRow],
    done: Mapping[str, ConvertedScan],
) -> None:
    """Write the case table, and for an upright copy its manifest."""

    def updated(case: Case) -> Case:
        image = out.image_file(case.scan, case.split).relative_to(out.path).as_posix()
        return with_geometry(case, done.get(case.scan), image)

    if out == data:
        # As the table is by now: another `convert --scan` may have added its own.
        write_cases(data.cases_file, [updated(case) for case in read_cases(data.cases_file)])
        return

    table = out.cases_file
    known = {case.scan: case for case in read_cases(table)} if table.is_file() else {}
    for case in cases:
        if case.scan in done:
            known[case.scan] = updated(case)
    if known:
        write_cases(table, known.values())
        write_manifest(out.manifest_file, [row for row in manifest if row.scan in known])


def _with_label_voxels(converted: ConvertedScan, new_label: Path | None) -> ConvertedScan:
    """Count the voxels of a label that an earlier call resampled."""
    if new_label is None or not new_label.is_file():
        return converted
    voxels = int(np.count_nonzero(read_volume(new_label).array))
    return dataclasses.replace(converted, label_voxels=voxels)


def _count_need(config: Config, tasks: Sequence[RsnaTask], done: int) -> Need:
    """Count what converting the tasks would take."""
    wanted = list(dict.fromkeys(name for task in tasks for name in task.slices))
    with open_source(config) as source:
        missing = set(source.missing(wanted))
        size = sum(source.sizes([name for name in wanted if name not in missing]).values())
    incomplete = tuple(task.scan for task in tasks if missing.intersection(task.slices))
    return Need(len(tasks), done, len(wanted), len(missing), size, incomplete)


_open_sources: dict[str, SliceSource] = {}


def _source(config: Config) -> SliceSource:
    """Return the source of slices, opened once per process."""
    key = f"{config.data!r} {config.convert!r}"
    if key not in _open_sources:
        _close_source()
        _open_sources[key] = open_source(config).__enter__()
    return _open_sources[key]


def _close_source() -> None:
    for source in _open_sources.values():
        source.__exit__(None, None, None)
    _open_sources.clear()
