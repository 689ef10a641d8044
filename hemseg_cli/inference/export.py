"""`hemseg export`: a run's network as one archive to share, and as ONNX where asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.inference.checkpoints import find_models
from hemseg_cli.models.archive import read_model, write_archive
from hemseg_cli.models.checkpoint import network_of
from hemseg_cli.models.registry import require_model


@dataclass(frozen=True)
class ExportResult:
    """The files written. `onnx_difference`.

    Largest difference of the ONNX model's logits from torch's, relative to the largest logit.
    """

    run: str
    archive: Path
    onnx: Path | None = None
    onnx_difference: float | None = None

    def payload(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "run": self.run,
            "archive": str(self.archive),
            "bytes": self.archive.stat().st_size,
            "onnx": None if self.onnx is None else str(self.onnx),
            "onnx_difference": self.onnx_difference,
            "next": f"hemseg predict --run {self.archive} SCAN",
        }

    def tables(self) -> list[console.Table]:
        """The result as a table."""
        rows = [
            [
                str(self.archive),
                f"{self.archive.stat().st_size / 1e6:.1f}",
                f"hemseg predict --run {self.archive} SCAN",
            ]
        ]
        if self.onnx is not None:
            rows.append(
                [
                    str(self.onnx),
                    f"{self.onnx.stat().st_size / 1e6:.1f}",
                    f"differs from torch by {self.onnx_difference:.1e}",
                ]
            )
        return [
            console.Table(f"Exported {self.run}", ["file", "MB", ""], rows, right=frozenset({"MB"}))
        ]


def export(
    config: Config, *, run: str | None = None, out: Path, onnx: Path | None = None
) -> ExportResult:
    """Write the network of a run (None.

    The newest) to `out` (`.zip`), with its config, metrics and hashes.

    HemsegError if the run has no checkpoint, or several (folds), or is nnU-Net and ONNX is asked
    for.
    """
    if out.suffix.lower() != ".zip":
        raise HemsegError(
            f"--out {out}: a model archive ends in .zip", hint=f"--out {out.with_suffix('.zip')}"
        )
    models = find_models(config, None if run is None else [run])
    directory = models.runs[0]
    if len(models.checkpoints) != 1:
        names = ", ".join(str(path.parent.parent.name) for path in models.checkpoints)
        raise HemsegError(
            f"run {directory.name} has {len(models.checkpoints)} networks ({names})",
            hint=f"export one: {models.checkpoints[0].parent.parent}",
        )
    checkpoint = read_model(models.checkpoints[0])
    model = require_model(str(checkpoint["model_name"]))
    if onnx is not None and not model.family.exports_onnx:
        raise HemsegError(
            f"{model.title} prepares its input by itself and is not written as ONNX",
            hint="leave --onnx out",
        )
    difference = None
    if onnx is not None:
        from hemseg_cli.models.onnx import write_onnx

        i, j, k = (int(n) for n in checkpoint["patch"])
        difference = write_onnx(
            onnx,
            network_of(checkpoint),
            in_channels=int(checkpoint["in_channels"]),
            patch=(i, j, k),
        )
    write_archive(out, checkpoint, files=_files(directory))
    return ExportResult(directory.name, out, onnx, difference)


def _files(run: RunDirectory) -> dict[str, bytes]:
    """What goes along with the network, where the run has it.

    Metrics: of the test split, else of the val split.
    """
    files = {}
    if run.config_file.is_file():
        files["config.toml"] = run.config_file.read_bytes()
    for split in ("test", "val"):
        if run.evaluation_summary_file(split).is_file():
            files["metrics.json"] = run.evaluation_summary_file(split).read_bytes()
            break
    return files
