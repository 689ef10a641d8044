"""From the scores of the cases to the numbers of a split.

Means and rates with intervals, strata, agreement of volumes, counts.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hemseg_cli.config.schema import EvaluateConfig
from hemseg_cli.core.cases import volume_stratum
from hemseg_cli.evaluation.agreement import volume_agreement
from hemseg_cli.evaluation.bootstrap import Bootstrap, Interval
from hemseg_cli.evaluation.paper_protocol import (
    PAPER_CONFIDENCE,
    PAPER_SAMPLES,
    PAPER_SEED,
    paper_interval,
)
from hemseg_cli.evaluation.scoring import CaseScore
from hemseg_cli.imaging.geometry import TILTED_FROM_DEG

VOLUME_STRATA = ("<1", "1-5", "5-30", ">=30")
DEFINITIONS = {
    "means": "over the scans with hemorrhage; scans without are counted apart (n_empty_truth, n_false_positive)",
    "hd95_mm": "larger of the two directed 95th percentiles between surface voxels, spacing as in the label's header; "
    "a missed case counts with its scan's diagonal",
    "nsd": "share of both surfaces' voxels within the tolerance of the other surface",
    "volumes": "by the true voxel volume (gantry tilt accounted for)",
    "lesions": "26-connected components; one shared voxel detects; rates pooled over all scans",
    "hd95_voxel": "on the published grid, in voxels; undefined cases are left out of the mean",
}


def bootstrap_of(config: EvaluateConfig) -> Bootstrap:
    """The bootstrap that the configuration asks for."""
    return Bootstrap(
        samples=config.bootstrap,
        confidence=config.confidence,
        seed=config.seed,
        method=config.method,
    )


def nsd_name(config: EvaluateConfig) -> str:
    """The column of the normalised surface Dice: `nsd_2mm` at a tolerance of 2 mm."""
    return f"nsd_{config.nsd_tolerance_mm:g}mm"


def case_values(score: CaseScore, config: EvaluateConfig) -> dict[str, float]:
    """The metrics of a case by name, as the means are made of; NaN where undefined.

    Under the paper's protocol Dice and IoU are those of the published grid.
    """
    metrics, nan = score.metrics, math.nan
    hemorrhage = metrics.truth_ml > 0
    if config.protocol == "paper":
        return {
            "dice": nan if score.paper_dice is None else score.paper_dice,
            "iou": nan if score.paper_iou is None else score.paper_iou,
            "hd95_voxel": nan if score.hd95_voxel is None else score.hd95_voxel,
        }
    return {
        "dice": metrics.dice if hemorrhage else nan,
        "iou": metrics.iou if hemorrhage else nan,
        "hd95_mm": metrics.hd95_mm if hemorrhage else nan,
        nsd_name(config): metrics.nsd if hemorrhage else nan,
        "volume_error_ml": metrics.volume_error_ml,
        "abs_volume_error_ml": abs(metrics.volume_error_ml),
        "relative_volume_difference": metrics.relative_volume_difference,
    }


def estimates(scores: Sequence[CaseScore], config: EvaluateConfig) -> dict[str, Interval]:
    """Mean or rate of every metric with its interval, by the protocol's own procedure."""
    if not scores:
        return {}
    values = [case_values(score, config) for score in scores]
    columns = {name: [row[name] for row in values] for name in values[0]}
    if config.protocol == "paper":
        return {name: paper_interval(column) for name, column in columns.items()}
    bootstrap, patients = bootstrap_of(config), [score.group for score in scores]
    found = {name: bootstrap.mean(column, patients) for name, column in columns.items()}
    lesions = [score.metrics.lesions for score in scores]
    rates = {
        "lesion_sensitivity": ([n.detected for n in lesions], [n.truth for n in lesions]),
        "lesion_precision": (
            [n.predicted - n.false for n in lesions],
            [n.predicted for n in lesions],
        ),
        "lesion_f1": (
            [2 * n.detected for n in lesions],
            [n.detected + n.truth + n.false for n in lesions],
        ),
    }
    return found | {
        name: bootstrap.ratio(top, bottom, patients) for name, (top, bottom) in rates.items()
    }


def summarise(
    scores: Sequence[CaseScore], config: EvaluateConfig, *, split: str, warnings: Iterable[str] = ()
) -> dict[str, Any]:
    """`summary.json`."""
    metrics = [score.metrics for score in scores]
    found = estimates(scores, config)
    return {
        "protocol": config.protocol,
        "split": split,
        "n_cases": len(scores),
        "n_missed": sum(m.missed for m in metrics),
        "n_false_positive": sum(m.false_positive for m in metrics),
        "n_empty_truth": sum(m.truth_ml == 0 for m in metrics),
        "n_missing": sum(score.files.prediction is None for score in scores),
        "metrics": {name: estimate.to_dict() for name, estimate in found.items()},
        "bootstrap": _bootstrap_words(scores, config),
        "strata": {
            "volume": _stratum(scores, config, _by_volume, VOLUME_STRATA),
            "tilt": _stratum(scores, config, _by_tilt, ("straight", "tilted")),
            "class": _stratum(
                scores,
                config,
                lambda score: score.files.scan_class,
                sorted({s.files.scan_class for s in scores} - {""}),
            ),
        },
        "lesions": {
            name: sum(getattr(m.lesions, key) for m in metrics)
            for name, key in (
                ("truth", "truth"),
                ("predicted", "predicted"),
                ("detected", "detected"),
                ("false", "false"),
            )
        },
        "agreement": volume_agreement(
            [m.truth_ml for m in metrics], [m.predicted_ml for m in metrics]
        ).to_dict(),
        "definitions": DEFINITIONS,
        "warnings": [*warnings, *_own_warnings(scores, found)],
    }


def _bootstrap_words(scores: Sequence[CaseScore], config: EvaluateConfig) -> dict[str, Any]:
    if config.protocol == "paper":
        return {
            "samples": PAPER_SAMPLES,
            "confidence": PAPER_CONFIDENCE,
            "seed": PAPER_SEED,
            "unit": "case",
            "method": "published",
        }
    return {
        "samples": config.bootstrap,
        "confidence": config.confidence,
        "seed": config.seed,
        "unit": "patient" if any(score.files.patient for score in scores) else "case",
        "method": config.method,
    }


def _by_volume(score: CaseScore) -> str:
    return volume_stratum(score.metrics.truth_ml) if score.metrics.truth_ml > 0 else ""


def _by_tilt(score: CaseScore) -> str:
    return "tilted" if abs(score.tilt_deg) > TILTED_FROM_DEG else "straight"


def _stratum(
    scores: Sequence[CaseScore],
    config: EvaluateConfig,
    key: Callable[[CaseScore], str],
    names: Iterable[str],
) -> Mapping[str, Any]:
    table = {}
    for name in names:
        members = [score for score in scores if key(score) == name]
        if members:
            table[name] = {"n": len(members)} | {
                metric: found.to_dict() for metric, found in estimates(members, config).items()
            }
    return table


def _own_warnings(scores: Sequence[CaseScore], found: Mapping[str, Interval]) -> Iterable[str]:
    missing = [score.scan for score in scores if score.files.prediction is None]
    if missing:
        yield f"{len(missing)} scans have no mask and count as missed: {', '.join(missing)}"
    if len({score.group for score in scores}) == 1:
        yield "one patient only: intervals are undefined"
    dropped = [
        (name, len(scores) - estimate.n)
        for name, estimate in found.items()
        if name == "hd95_voxel" and estimate.n < len(scores)
    ]
    for name, count in dropped:
        yield f"{count} of {len(scores)} cases have no {name} and are left out of its mean, as the paper's protocol does"
