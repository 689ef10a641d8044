"""`hemseg export`: the networks of a run as one archive to share, and as ONNX where asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.inference.checkpoints import TrainedModels, ensemble_run, find_models
from hemseg_cli.inference.model_card import model_card, summary_of
from hemseg_cli.models.archive import read_models, write_archive
from hemseg_cli.models.checkpoint import network_of
from hemseg_cli.models.registry import require_model


@dataclass(frozen=True)
class ExportResult:
    """The files written from a run: the archive, and one ONNX file for each network if asked for.

    `onnx_differences`: largest difference of each ONNX model's logits from torch's, relative to the
    largest logit.
    """

    run: str
    archive: Path
    networks: int = 1
    onnx: tuple[Path, ...] = ()
    onnx_differences: tuple[float, ...] = ()

    @property
    def failed(self) -> bool:
        """Never: what cannot be exported raises."""
        return False

    def payload(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "run": self.run,
            "archive": str(self.archive),
            "bytes": self.archive.stat().st_size,
            "networks": self.networks,
            "onnx": [str(path) for path in self.onnx],
            "onnx_differences": list(self.onnx_differences),
            "next": f"hemseg predict --run {self.archive} SCAN",
        }

    def tables(self) -> list[console.Table]:
        """The result as a table."""
        use = f"hemseg predict --run {self.archive} SCAN"
        rows = [[str(self.archive), _megabytes(self.archive), use]]
        rows += [
            [str(path), _megabytes(path), f"differs from torch by {difference:.1e}"]
            for path, difference in zip(self.onnx, self.onnx_differences, strict=True)
        ]
        return [
            console.Table(f"Exported {self.run}", ["file", "MB", ""], rows, right=frozenset({"MB"}))
        ]


def export(
    config: Config, *, run: str | None = None, out: Path, onnx: Path | None = None
) -> ExportResult:
    """Write the networks of a run to `out` (`.zip`) with config, metrics, model card and hashes.

    `run` None: the newest; the name of a cross-validation: all its folds, an ensemble. `onnx`: also
    each network as ONNX, with `-0`, `-1` ... in the names where there are several. HemsegError if
    the run has no checkpoint, or its model is not written as ONNX.
    """
    if out.suffix.lower() != ".zip":
        raise HemsegError(
            f"--out {out}: a model archive ends in .zip", hint=f"--out {out.with_suffix('.zip')}"
        )
    models = find_models(config, None if run is None else [run])
    checkpoints = [network for path in models.checkpoints for network in read_models(path)]

    written = () if onnx is None else _write_onnx(onnx, checkpoints)
    write_archive(out, checkpoints, files=_files(config, models, checkpoints))
    name = models.runs[0].name if len(models.runs) == 1 else models.name
    return ExportResult(
        name,
        out,
        len(checkpoints),
        tuple(path for path, _ in written),
        tuple(difference for _, difference in written),
    )


def _write_onnx(
    onnx: Path, checkpoints: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Path, float], ...]:
    """Write each network as ONNX; the files with their differences from torch."""
    for checkpoint in checkpoints:
        model = require_model(str(checkpoint["model_name"]))
        if not model.family.exports_onnx:
            raise HemsegError(
                f"{model.title} prepares its input by itself and is not written as ONNX",
                hint="leave --onnx out",
            )
    from hemseg_cli.models.onnx import write_onnx

    written = []
    for number, checkpoint in enumerate(checkpoints):
        path = onnx if len(checkpoints) == 1 else onnx.with_stem(f"{onnx.stem}-{number}")
        i, j, k = (int(n) for n in checkpoint["patch"])
        channels = int(checkpoint["in_channels"])
        difference = write_onnx(path, network_of(checkpoint), in_channels=channels, patch=(i, j, k))
        written.append((path, difference))
    return tuple(written)


def _files(
    config: Config, models: TrainedModels, checkpoints: Sequence[Mapping[str, Any]]
) -> dict[str, bytes]:
    """What goes along with the networks: the card, and config and metrics where the run has them.

    An ensemble is evaluated as a run of its own, and takes that run's metrics.
    """
    evaluated = ensemble_run(config, models)
    found = summary_of(evaluated)
    split, summary = found if found is not None else (None, None)

    card = model_card(models.runs, checkpoints, split=split, summary=summary)
    files = {"README.md": card.encode()}
    if models.runs[0].config_file.is_file():
        files["config.toml"] = models.runs[0].config_file.read_bytes()
    if split is not None:
        files["metrics.json"] = evaluated.evaluation_summary_file(split).read_bytes()
    return files


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f}"
