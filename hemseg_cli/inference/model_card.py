"""Write the model card of an archive: its training data, classes, metrics and limits."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hemseg_cli.config import Config, validate_file
from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.printable import printable
from hemseg_cli.core.quantities import VOLUME_CONFIDENCE
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.inference.calibration import calibration_of, joint_calibration
from hemseg_cli.inference.settings import chosen_settings
from hemseg_cli.models.checkpoint_settings import classes_of
from hemseg_cli.models.registry import MODELS

_LIMITS = """\
## Limits

* Research use only: not a medical device, and no substitute for a radiologist.
* Trained on head CT without contrast. Other body parts, contrast agent, metal and scans cut off at
  the vertex or the skull base may give wrong masks without a word.
* What it was measured on is stated above; on scanners and patients unlike those it may do worse.
"""
_CITATION = """\
## Citation

Cite the data set that it was trained on, hemseg with its version, and the paper of the network.
The terms of the training data apply to the weights derived from them; this archive grants no
licence beyond those.
"""


def model_card(
    runs: Sequence[RunDirectory],
    checkpoints: Sequence[Mapping[str, Any]],
    *,
    split: str | None,
    summary: Mapping[str, Any] | None,
) -> str:
    """Compose the card (Markdown) of the networks of `checkpoints`, trained in `runs`.

    `summary`: the evaluation of `split` as `summary.json` holds it; None where there is none.
    """
    title = _title(checkpoints)
    lines = [f"# {title}", "", *_training(runs, checkpoints), "", *_classes(checkpoints), ""]
    lines += [*_metrics(split, summary), "", _LIMITS, _CITATION]
    return "\n".join(lines)


def summary_of(run: RunDirectory) -> tuple[str, dict[str, Any]] | None:
    """The newest evaluation that says most: of the test split, else of the val split, else None."""
    for split in ("test", "val"):
        file = run.evaluation_summary_file(split)
        if file.is_file():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise HemsegError(
                    f"{file} is not readable: {error}",
                    hint=f"{run.command('evaluate', split)}   writes it anew",
                ) from None
            return (split, found) if isinstance(found, dict) else None
    return None


def _title(checkpoints: Sequence[Mapping[str, Any]]) -> str:
    names = sorted({str(checkpoint["model_name"]) for checkpoint in checkpoints})
    titles = ", ".join(MODELS[name].title for name in names if name in MODELS)
    many = f", {len(checkpoints)} networks" if len(checkpoints) > 1 else ""
    return f"{titles} for intracranial hemorrhage on head CT{many}"


def _training(runs: Sequence[RunDirectory], checkpoints: Sequence[Mapping[str, Any]]) -> list[str]:
    config = _config_of(runs[0])
    epochs = ", ".join(str(checkpoint["epoch"]) for checkpoint in checkpoints)
    rows = [
        ("trained on", checkpoints[0].get("dataset") or (config and config.data.dataset) or "-"),
        ("runs", ", ".join(run.name for run in runs)),
        ("epochs of the weights", epochs),
    ]
    if config is not None:
        fold = "the published split" if config.train.fold is None else f"{config.train.folds} folds"
        rows += [("recipe", config.train.recipe), ("split", fold), ("seed", config.train.seed)]
    rows.append(("intervals of volumes", _calibration(checkpoints)))
    return [
        "## Training",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in rows),
    ]


def _calibration(checkpoints: Sequence[Mapping[str, Any]]) -> str:
    """What the intervals of volumes rest on; why there are none where there are none."""
    found = joint_calibration(
        [
            calibration_of(one, chosen_settings(PredictConfig(), one.get("predict")))
            for one in checkpoints
        ],
        [str(one["model_name"]) for one in checkpoints],
    )
    return found.reason() or (
        f"{VOLUME_CONFIDENCE:.0%}, calibrated on {found.scans} scans that no network was trained on"
    )


def _classes(checkpoints: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        f"| {each.value} | {_cell(each.key)} | {_cell(each.name)} | {_cell(each.snomed)} |"
        for each in classes_of(checkpoints[0])
    ]
    return [
        "## Classes",
        "",
        "| value | key | name | SNOMED CT |",
        "|---:|---|---|---|",
        *rows,
    ]


def _metrics(split: str | None, summary: Mapping[str, Any] | None) -> list[str]:
    """One line a metric with its interval, as the evaluation stated them."""
    if summary is None:
        return [
            "## Metrics",
            "",
            "Not evaluated. `hemseg evaluate` before `hemseg export` puts the figures here.",
        ]

    bootstrap = summary.get("bootstrap", {})
    confidence = bootstrap.get("confidence") if isinstance(bootstrap, Mapping) else None
    interval = f"{confidence:.0%} interval" if isinstance(confidence, float) else "interval"
    rows = [
        f"| {_cell(name)} | {_number(found.get('mean'))} | "
        f"{_number(found.get('ci_low'))} to {_number(found.get('ci_high'))} | "
        f"{_cell(found.get('n', '-'))} |"
        for name, found in summary.get("metrics", {}).items()
        if isinstance(found, Mapping)
    ]
    return [
        "## Metrics",
        "",
        f"On the {split} split, {summary.get('n_cases', '-')} scans, protocol "
        f"{_cell(summary.get('protocol', '-'))}; means over scans.",
        "",
        f"| metric | mean | {interval} | n |",
        "|---|---:|---:|---:|",
        *rows,
    ]


def _config_of(run: RunDirectory) -> Config | None:
    return validate_file(run.config_file) if run.config_file.is_file() else None


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "-"


def _cell(value: object) -> str:
    """Text that neither breaks the table nor is taken for HTML."""
    text = printable(str(value)).replace("|", "\\|").replace("<", "&lt;")
    return text or "-"
