"""A phantom data set for the benchmarks: drawn, fetched and converted as a user's would be."""

from pathlib import Path

from hemseg_cli.config import Config, load
from hemseg_cli.dataset.conversion.convert import convert
from hemseg_cli.dataset.labels.fetch import fetch_labels
from hemseg_cli.dataset.phantom.dataset import SLICE_FOLDER, make_phantom


def phantom_config(
    folder: Path, *, seed: int, patients: int, matrix: int, assignments: tuple[str, ...] = ()
) -> Config:
    """The configuration of a phantom data set in `folder`, which is made if it is not there."""
    source = folder / f"phantom-{seed}-{patients}-{matrix}"
    config = load(
        assignments=(
            f"data.root='{folder}'",
            f"data.dataset={source.name}-data",
            f"runs.root='{folder / 'runs'}'",
            f"fetch.source='{source}'",
            f"convert.dicom='{source / SLICE_FOLDER}'",
            *assignments,
        ),
        environ={},
    )
    if not config.data.cases_file.is_file():
        make_phantom(source, seed=seed, patients=patients, matrix=matrix)
        fetch_labels(config)
        convert(config)
    return config
