"""The Python API: what the commands do, with plain arguments and the same results.

`import hemseg_cli as hemseg` gives these names; nothing here prints or exits. Errors are
`HemsegError`; progress and warnings go to the logger "hemseg". A `config` argument is a `Config`
from `load_config`, the path of a `hemseg.toml`, or None for the one of the current folder, as for
the commands; `settings` maps `section.key` to values, as `--set` does.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.config import Config, load
from hemseg_cli.core.account import name_the_user
from hemseg_cli.core.cases import Case
from hemseg_cli.core.cases import read_cases as _read_cases
from hemseg_cli.core.errors import HemsegError, UsageError

if TYPE_CHECKING:
    import nibabel
    import SimpleITK

    from hemseg_cli.dataset.conversion.result import ConvertResult
    from hemseg_cli.dataset.imports.result import ImportResult
    from hemseg_cli.dataset.labels.fetch_result import FetchResult
    from hemseg_cli.evaluation.evaluate import EvaluationResult
    from hemseg_cli.inference.predict_result import PredictResult
    from hemseg_cli.reporting.report_result import ReportResult
    from hemseg_cli.training.folds import FoldsResult
    from hemseg_cli.training.train import TrainResult

__all__ = [
    "Config",
    "HemsegError",
    "Model",
    "Segmentation",
    "convert",
    "evaluate",
    "fetch_labels",
    "import_dataset",
    "load_config",
    "predict",
    "read_cases",
    "report",
    "train",
]

AnyPath = str | os.PathLike[str]
AnyConfig = Config | AnyPath | None


def load_config(file: AnyPath | None = None, settings: Mapping[str, Any] | None = None) -> Config:
    """Read a `hemseg.toml` (None: that of the current folder, if there is one) and check it.

    Example:
        >>> load_config(settings={"train.epochs": 3}).train.epochs
        3

    """
    return load(None if file is None else Path(file), options=settings)


def fetch_labels(
    *, config: AnyConfig = None, settings: Mapping[str, Any] | None = None, force: bool = False
) -> "FetchResult":
    """Download, verify and lay out labels, manifest and splits, as `hemseg fetch-labels`.

    Example:
        >>> fetch_labels(settings={"data.dataset": "hemseg-200"})  # doctest: +SKIP

    """
    from hemseg_cli.dataset.labels.fetch import fetch_labels as fetch

    return fetch(_config(config, settings), force=force)


def convert(
    dicom: AnyPath | None = None,
    *,
    config: AnyConfig = None,
    settings: Mapping[str, Any] | None = None,
    scans: Sequence[str] | None = None,
    force: bool = False,
) -> "ConvertResult":
    """Convert DICOM slices to one NIfTI per scan, as `hemseg convert --dicom`.

    Example:
        >>> convert("rsna.zip", scans=["0a1b2c3d4e"])  # doctest: +SKIP

    """
    from hemseg_cli.dataset.conversion.convert import convert as convert_scans

    options = {"convert.dicom": _text(dicom)}
    chosen = list(scans) if scans is not None else None
    return convert_scans(_config(config, settings, options), scans=chosen, force=force)


def import_dataset(
    source: AnyPath,
    name: str,
    *,
    layout: str | None = None,
    classes: str | None = None,
    config: AnyConfig = None,
    settings: Mapping[str, Any] | None = None,
) -> "ImportResult":
    """Import labelled scans of another layout as the data set `name`, as `hemseg import`.

    Example:
        >>> import_dataset("Dataset001_ICH", "ich", layout="nnunet")  # doctest: +SKIP

    """
    from hemseg_cli.dataset.imports.import_dataset import import_dataset as import_scans
    from hemseg_cli.dataset.imports.layout import ImportRequest

    request = ImportRequest(source=Path(source), name=name, layout=layout, classes=classes)
    return import_scans(_config(config, settings), request)


def train(
    model: str | None = None,
    *,
    config: AnyConfig = None,
    settings: Mapping[str, Any] | None = None,
    run: str | None = None,
    resume: bool = False,
) -> "TrainResult | FoldsResult":
    """Train one system into a run directory, or all folds, as `hemseg train`.

    Example:
        >>> train("unet", settings={"train.epochs": 3}, run="first")  # doctest: +SKIP

    """
    from hemseg_cli.training.folds import train_folds
    from hemseg_cli.training.train import train as train_run

    full = _config(config, settings, {"train.model": model})
    if full.train.fold == "all":
        return train_folds(full, run=run, resume=resume)
    return train_run(full, run=run, resume=resume)


def predict(
    inputs: Sequence[AnyPath] = (),
    *,
    runs: Sequence[AnyPath] | None = None,
    out: AnyPath | None = None,
    config: AnyConfig = None,
    settings: Mapping[str, Any] | None = None,
    force: bool = False,
) -> "PredictResult":
    """Write masks, volumes and previews of files and folders, or of a split, as `hemseg predict`.

    Example:
        >>> predict(["scan.nii.gz"], runs=["model.zip"], out="masks")  # doctest: +SKIP

    """
    from hemseg_cli.inference.predict import predict as predict_scans

    return predict_scans(
        _config(config, settings),
        runs=None if runs is None else [os.fspath(run) for run in runs],
        inputs=[Path(one) for one in inputs],
        out=None if out is None else Path(out),
        force=force,
    )


def evaluate(
    *,
    runs: Sequence[AnyPath] | None = None,
    predictions: AnyPath | None = None,
    labels: AnyPath | None = None,
    config: AnyConfig = None,
    settings: Mapping[str, Any] | None = None,
    allow_missing: bool = False,
) -> "EvaluationResult":
    """Score the masks of runs, or of a folder against a folder of labels, as `hemseg evaluate`.

    Example:
        >>> evaluate(predictions="masks", labels="truth").payload()  # doctest: +SKIP

    """
    from hemseg_cli.evaluation.evaluate import evaluate as evaluate_runs

    return evaluate_runs(
        _config(config, settings),
        runs=None if runs is None else [os.fspath(run) for run in runs],
        predictions=None if predictions is None else Path(predictions),
        labels=None if labels is None else Path(labels),
        allow_missing=allow_missing,
    )


def report(
    runs: Sequence[AnyPath] | None = None,
    *,
    out: AnyPath | None = None,
    config: AnyConfig = None,
    settings: Mapping[str, Any] | None = None,
) -> "ReportResult":
    """Write the page, Markdown and CSV files of runs, as `hemseg report`.

    Example:
        >>> report(["first"]).payload()["html"]  # doctest: +SKIP

    """
    from hemseg_cli.reporting.report import report as make_report

    names = None if runs is None else [os.fspath(run) for run in runs]
    return make_report(
        _config(config, settings), runs=names, out=None if out is None else Path(out)
    )


def read_cases(path: AnyPath) -> list[Case]:
    """Read a case table (`cases.csv`), or that of a data set's folder.

    Example:
        >>> [case.scan for case in read_cases("data/hemseg-200")]  # doctest: +SKIP

    """
    file = Path(path)
    return list(_read_cases(file / "cases.csv" if file.is_dir() else file))


@dataclass(frozen=True)
class Segmentation:
    """The hemorrhage of one scan, on the scan's own grid.

    `mask`: uint8, 1 is hemorrhage, axes as nibabel has them; `affine`: voxel to mm, RAS+, 4 x 4;
    `probability`: float32 of the same shape, in steps of 1/255; `volume_ml`: by the true geometry;
    `volume_interval_ml`: the 90 % interval of the true volume, None where the model has none.
    """

    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]
    probability: NDArray[np.float32]
    volume_ml: float
    lesions: int
    warnings: tuple[str, ...]
    volume_interval_ml: tuple[float, float] | None = None


@dataclass(frozen=True)
class Model:
    """A trained model: `Model.load` reads it, `segment` takes scans."""

    path: str
    config: Config

    @classmethod
    def load(
        cls,
        path: AnyPath,
        *,
        config: AnyConfig = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """Take a run (its name or folder) or an exported archive. HemsegError where there is none.

        Example:
            >>> settings = {"compute.device": "cpu"}
            >>> model = Model.load("model.zip", settings=settings)  # doctest: +SKIP

        """
        from hemseg_cli.inference.checkpoints import find_models

        full = _config(config, settings, {"predict.save_probabilities": True})
        find_models(full, [os.fspath(path)])
        return cls(os.fspath(path), full)

    def segment(
        self,
        image: "AnyPath | nibabel.spatialimages.SpatialImage | SimpleITK.Image | NDArray[Any]",
        affine: NDArray[Any] | None = None,
    ) -> Segmentation:
        """Segment one scan, with the same result as `hemseg predict`.

        `image`: an image file or DICOM folder, a nibabel or SimpleITK image, or an array in
        Hounsfield units with its `affine` (voxel to mm, RAS+). HemsegError where it is no head CT
        that can be read.

        Example:
            >>> Model.load("model.zip").segment("scan.nii.gz").volume_ml  # doctest: +SKIP

        """
        import nibabel

        with tempfile.TemporaryDirectory(prefix="hemseg-") as folder:
            source = _as_file(image, affine, Path(folder))
            out = Path(folder) / "out"
            payload = predict([source], runs=[self.path], out=out, config=self.config).payload()
            if len(payload["predicted"]) != 1:
                raise HemsegError(
                    _why_not(payload, source), hint="segment takes one scan; predict takes many"
                )

            row = payload["predicted"][0]
            mask: Any = nibabel.load(next(out.rglob("*_mask.nii.gz")))
            probability: Any = nibabel.load(next(out.rglob("*_probability.nii.gz")))
            return Segmentation(
                np.asarray(mask.dataobj, dtype=np.uint8),
                np.asarray(mask.affine, dtype=np.float64),
                np.asarray(probability.get_fdata(), dtype=np.float32),
                float(row["predicted_ml"]),
                int(row["lesions"]),
                tuple(payload["warnings"].get(row["scan"], ())),
                None
                if row["volume_low_ml"] is None
                else (float(row["volume_low_ml"]), float(row["volume_high_ml"])),
            )


def _as_file(image: Any, affine: NDArray[Any] | None, folder: Path) -> Path:
    """Return the path of the scan, written into `folder` where it is none yet."""
    if isinstance(image, str | os.PathLike):
        return Path(image)

    import nibabel
    import SimpleITK as sitk

    file = folder / "scan.nii.gz"
    if isinstance(image, sitk.Image):
        sitk.WriteImage(image, str(file))
    elif isinstance(image, nibabel.spatialimages.SpatialImage):
        nibabel.save(image, file)
    elif affine is None:
        raise UsageError("segment(array): its place in space is missing", hint="affine=...")
    else:
        nibabel.save(nibabel.Nifti1Image(np.asarray(image), np.asarray(affine, float)), file)
    return file


def _why_not(payload: Mapping[str, Any], source: Path) -> str:
    """Say why one scan gave no mask, or that there was more than one."""
    for failure in payload["failed"]:
        return f"{source}: {failure['error']}"
    for left_out in payload["left_out"]:
        return f"{left_out['file']}: {left_out['reason']}"
    return f"{source} holds {len(payload['predicted'])} scans, not one"


def _config(
    config: AnyConfig,
    settings: Mapping[str, Any] | None,
    options: Mapping[str, Any] | None = None,
) -> Config:
    name_the_user()
    stated = {**(settings or {}), **(options or {})}
    if not isinstance(config, Config):
        return load_config(config, stated)

    # The keys that a ready config states stand below the settings of the call.
    wanted = {key: value for key, value in stated.items() if value is not None}
    if not wanted:
        return config
    below = config.model_dump(mode="json", exclude_unset=True)
    kept = {
        f"{section}.{key}": value
        for section, keys in below.items()
        for key, value in keys.items()
        if value is not None
    }
    return load(None, options=kept | wanted, environ={})


def _text(path: AnyPath | None) -> str | None:
    return None if path is None else os.fspath(path)
