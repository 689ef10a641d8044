"""RSNA layout: slices picked by id, per manifest; each image on its label's grid.

The case table brought up to the true geometry.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hemseg_cli.config import Config
from hemseg_cli.core.cases import Case, read_cases, write_cases
from hemseg_cli.core.errors import CaseError, UsageError
from hemseg_cli.dataset.conversion.log import ConversionRow, ConvertResult, Need
from hemseg_cli.dataset.conversion.run import Log, run_jobs, working_in, write_scan, written
from hemseg_cli.dataset.conversion.upright_pair import upright_pair
from hemseg_cli.dataset.labels.manifest import ManifestRow, read_manifest, write_manifest
from hemseg_cli.dataset.slices.sources import SliceSource, open_source
from hemseg_cli.imaging.dicom.series import Sidecar, assemble, read_slices
from hemseg_cli.imaging.geometry import SAME_GRID_MM, grid_distance_mm
from hemseg_cli.imaging.nifti import Volume, read_header


@dataclass(frozen=True)
class ScanJob:
    """One scan to convert. `label` is the published one, None where there is none.

    `new_label` where it is written when it is resampled.
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
    """See `convert.convert`.

    With `convert.geometry = "true"` images and labels both change, so that they make a data set of
    their own, `<data.dataset>-true`.
    """
    folder = output_folder(config)
    cases = read_cases(config.data.cases_file)
    manifest = read_manifest(config.data.folder / "manifest.jsonl")
    jobs, refused = _jobs(config, _chosen(cases, scans), manifest)
    sidecars = (
        {}
        if force
        else {
            job.scan: found
            for job in jobs
            if (found := written(job, config.convert.geometry)) is not None
        }
    )
    todo = [job for job in jobs if job.scan not in sidecars]
    if dry_run:
        return ConvertResult(folder, need=_need(config, todo, len(sidecars)))
    if todo:
        with open_source(config):
            pass  # a source that is not there fails the command, not each scan; and its index is made once
    log = Log(folder, refused)
    for sidecar in sidecars.values():
        log.found(sidecar)
    done_before = len(sidecars)
    places = [
        path.parent for job in jobs for path in (job.image, job.new_label) if path is not None
    ]
    with working_in(folder, places):
        try:
            run_jobs(
                config,
                partial(_convert_scan, config),
                todo,
                log,
                lambda sidecar: sidecars.update({str(sidecar["scan"]): sidecar}),
            )
        finally:
            # Also when interrupted: log and table then tell what is there, and the same command
            # does the rest.
            _close_source()
            log.save()
            _write_tables(config, cases, manifest, sidecars)
    return ConvertResult(folder, tuple(log.rows), done_before)


def output_folder(config: Config) -> Path:
    """The data set's folder, or that of its upright copy."""
    folder = config.data.folder
    return folder if config.convert.geometry == "label" else folder.with_name(f"{folder.name}-true")


def _write_tables(
    config: Config,
    cases: Sequence[Case],
    manifest: Sequence[ManifestRow],
    sidecars: Mapping[str, Sidecar],
) -> None:
    if config.convert.geometry == "label":
        now = read_cases(
            config.data.cases_file
        )  # as it is by now: another `convert --scan` may have added its own
        write_cases(
            config.data.cases_file, [with_geometry(case, sidecars.get(case.scan)) for case in now]
        )
        return
    folder = output_folder(config)
    table = folder / config.data.cases_file.name
    before = {case.scan: case for case in read_cases(table)} if table.is_file() else {}
    new = {
        case.scan: with_geometry(case, sidecars[case.scan])
        for case in cases
        if case.scan in sidecars
    }
    known = before | new
    if known:
        write_cases(table, known.values())
        write_manifest(folder / "manifest.jsonl", [row for row in manifest if row.scan in known])


def _chosen(cases: Sequence[Case], scans: Sequence[str] | None) -> list[Case]:
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


def _jobs(
    config: Config, cases: Sequence[Case], manifest: Sequence[ManifestRow]
) -> tuple[list[ScanJob], list[ConversionRow]]:
    rows = {row.scan: row for row in manifest}
    folder, new_folder = config.data.folder, output_folder(config)
    jobs, refused = [], []
    for case in cases:
        row = rows.get(case.scan)
        if row is None:
            refused.append(
                ConversionRow(
                    case.scan,
                    "refused",
                    "manifest.jsonl names no slices for it",
                    hint="hemseg fetch-labels --force",
                )
            )
            continue
        label = folder / case.label if case.label else None
        new_label = new_folder / case.label if case.label and new_folder != folder else None
        jobs.append(
            ScanJob(
                case.scan, row.patient, row.slices, label, new_folder / _image_path(case), new_label
            )
        )
    return jobs, refused


def _image_path(case: Case) -> str:
    """Beside the label's folder; relative to the data set."""
    split_folder = Path(case.label).parent.parent if case.label else Path(case.split or "unsplit")
    return (split_folder / "image" / f"{case.scan}.nii.gz").as_posix()


def _convert_scan(config: Config, job: ScanJob) -> Sidecar:
    """Read, check, write one scan; in a worker process. Returns the sidecar."""
    upright = config.convert.geometry == "true"
    source = _source(config)
    slices = read_slices(job.scan, job.slices, _reader(source, job.slices))
    # On the label's grid slices stay where they are, or the image would leave its label: uneven
    # steps need geometry true.
    volume, sidecar = assemble(
        job.scan, slices, patient=job.patient, uneven=config.convert.uneven if upright else "refuse"
    )
    if job.label is not None:
        check_label_grid(job.scan, volume, sidecar, job.label)
    if upright:
        volume, sidecar = upright_pair(volume, sidecar, job.label, job.new_label)
    write_scan(job.image, volume, sidecar)
    return sidecar


def _reader(source: SliceSource, names: Sequence[str]) -> Callable[[str], bytes]:
    """Slices by name, all loaded at once.

    Where one is missing or damaged each is asked for by itself, so that every bad one is named.
    """
    try:
        loaded = dict(zip(names, source.read_many(names), strict=True))
    except CaseError:
        return source.read
    return loaded.pop


def check_label_grid(scan: str, volume: Volume, sidecar: Sidecar, label: Path) -> None:
    """Raise CaseError where the slices do not lie on their label's grid (`SAME_GRID_MM`)."""
    shape, affine = read_header(label)
    i, j, k = volume.array.shape
    count = len(sidecar["slice_positions_mm"])
    expected = volume.affine.copy()
    expected[:3, 2] *= (k - 1) / (count - 1)  # differs from 1 where uneven slices were interpolated
    if tuple(shape) != (i, j, count):
        raise CaseError(
            f"{scan}: image shape {(i, j, count)} is not that of its label {label.name}, {tuple(shape)}"
        )
    apart = grid_distance_mm(shape, affine, shape, expected)
    if apart > SAME_GRID_MM:
        raise CaseError(f"{scan}: image and label {label.name} lie up to {apart:.4g} mm apart")


def with_geometry(case: Case, sidecar: Sidecar | None) -> Case:
    """The case with its image and the geometry that its slice positions give.

    `truth_ml` is counted anew with the true voxel.
    """
    if sidecar is None:
        return case
    volume = float(sidecar["voxel_volume_mm3"])
    x, y, z = sidecar["spacing_mm"]
    truth = case.truth_ml
    if "label_voxels" in sidecar:
        truth = sidecar["label_voxels"] * volume / 1000
    elif truth is not None and case.voxel_volume_mm3:
        # The table's mL came from a whole number of voxels: taken back, nothing of its rounding
        # stays.
        truth = round(truth * 1000 / case.voxel_volume_mm3) * volume / 1000
    return dataclasses.replace(
        case,
        image=_image_path(case),
        n_slices=sidecar["shape"][2],
        spacing_x_mm=x,
        spacing_y_mm=y,
        spacing_z_mm=z,
        tilt_deg=sidecar["tilt_deg"],
        voxel_volume_mm3=volume,
        truth_ml=truth,
        geometry_from="dicom",
    )


def _need(config: Config, jobs: Sequence[ScanJob], done: int) -> Need:
    wanted = list(dict.fromkeys(name for job in jobs for name in job.slices))
    with open_source(config) as source:
        missing = set(source.missing(wanted))
        size = sum(source.sizes([name for name in wanted if name not in missing]).values())
    incomplete = tuple(job.scan for job in jobs if missing.intersection(job.slices))
    return Need(len(jobs), done, len(wanted), len(missing), size, incomplete)


_open_sources: dict[str, SliceSource] = {}


def _source(config: Config) -> SliceSource:
    """The source of slices, opened once per process."""
    key = f"{config.data.model_dump_json()} {config.convert.model_dump_json()}"
    if key not in _open_sources:
        _close_source()
        _open_sources[key] = open_source(config).__enter__()
    return _open_sources[key]


def _close_source() -> None:
    for source in _open_sources.values():
        source.__exit__(None, None, None)
    _open_sources.clear()
