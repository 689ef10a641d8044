"""A phantom data set for the benchmarks: drawn, fetched and converted as a user's would be."""

from collections.abc import Sequence
from pathlib import Path

from hemseg_cli.config import Config, load
from hemseg_cli.dataset.conversion.convert import convert
from hemseg_cli.dataset.labels.fetch import fetch_labels
from hemseg_cli.dataset.phantom.dataset import SLICE_FOLDER, make_phantom
from hemseg_cli.dataset.phantom.plans import HEMORRHAGE


def phantom_config(
    folder: Path,
    *,
    seed: int,
    patients: int,
    matrix: int,
    classes: Sequence[str] = (HEMORRHAGE,),
    kinds: Sequence[str] | None = None,
    healthy: int = 0,
    assignments: tuple[str, ...] = (),
) -> Config:
    """The configuration of a phantom data set in `folder`, which is made if it is not there."""
    what = "-".join((*classes, *([] if kinds is None else ["of", *kinds])))
    source = folder / f"phantom-{seed}-{patients}-{healthy}-{matrix}-{what.lower()}"
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
        make_phantom(
            source,
            seed=seed,
            patients=patients,
            matrix=matrix,
            classes=classes,
            kinds=kinds,
            healthy=healthy,
        )
        fetch_labels(config)
        convert(config)
    return config
