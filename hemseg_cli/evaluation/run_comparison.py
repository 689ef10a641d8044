"""The comparison of evaluated runs.

Checks that they may be compared, then every pair in every metric, and the ranking.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hemseg_cli.config.schema import EvaluateConfig
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.evaluation.comparison import compare_pairs, rank_runs
from hemseg_cli.evaluation.inputs import Source, named
from hemseg_cli.evaluation.scoring import CaseFiles, CaseScore
from hemseg_cli.evaluation.summary import bootstrap_of, case_values

_RANKED_BY = "dice"
_NOT_COMPARED = (
    "volume_error_ml",
    "relative_volume_difference",
)  # signed: nearer to zero is better, and a mean hides that


def refuse_different_splits(sources: Sequence[Source]) -> None:
    """HemsegError where the runs' splits do not hold the same scans."""
    first = sources[0]
    for other in sources[1:]:
        only_first, only_other = (
            _scans(first.cases) - _scans(other.cases),
            _scans(other.cases) - _scans(first.cases),
        )
        if only_first or only_other:
            counts = ", ".join(
                f"{len(scans)} scans are only in {source.name}'s ({named(sorted(scans))})"
                for source, scans in ((first, only_first), (other, only_other))
                if scans
            )
            raise HemsegError(
                f"split {first.split} of {first.name} and of {other.name} differ: {counts}",
                hint="score both on one data set: --set data.dataset=NAME, after predicting it with both",
            )


def compare_runs(
    scored: Mapping[str, Sequence[CaseScore]], config: EvaluateConfig
) -> dict[str, Any]:
    """Run -> its scores, compared on the scans for which every run has a mask.

    HemsegError where labels differ or no scan is common.
    """
    by_run = {
        name: {score.scan: score for score in scores if score.files.prediction is not None}
        for name, scores in scored.items()
    }
    common = sorted(set.intersection(*(set(scores) for scores in by_run.values())))
    if not common:
        raise HemsegError(
            "the runs have no scan in common with masks of all of them",
            hint="hemseg predict   makes what is missing",
        )
    _refuse_different_labels(by_run, common)
    patients = [next(iter(by_run.values()))[scan].group for scan in common]
    bootstrap = bootstrap_of(config)
    values = {
        name: [case_values(scores[scan], config) for scan in common]
        for name, scores in by_run.items()
    }
    metrics = [metric for metric in next(iter(values.values()))[0] if metric not in _NOT_COMPARED]
    columns = {
        metric: {name: [row[metric] for row in rows] for name, rows in values.items()}
        for metric in metrics
    }
    pairs = itertools.chain.from_iterable(
        compare_pairs(metric, columns[metric], patients, bootstrap) for metric in metrics
    )
    ranking = rank_runs(_RANKED_BY, columns[_RANKED_BY], patients, bootstrap)
    return {
        "n_scans": len(common),
        "n_patients": len(set(patients)),
        "left_out": sorted(
            set.union(*(_scans(score.files for score in scores) for scores in scored.values()))
            - set(common)
        ),
        "confidence": config.confidence,
        "pairs": [pair.to_dict() for pair in pairs],
        "ranked_by": _RANKED_BY,
        "ranking": [asdict(rank) for rank in ranking],
    }


def _scans(cases: Iterable[CaseFiles]) -> set[str]:
    return {case.scan for case in cases}


def _refuse_different_labels(
    by_run: Mapping[str, Mapping[str, CaseScore]], scans: Sequence[str]
) -> None:
    (first, reference), *others = by_run.items()
    for name, scores in others:
        differ = [
            scan for scan in scans if scores[scan].truth_digest != reference[scan].truth_digest
        ]
        if differ:
            raise HemsegError(
                f"{first} and {name} were scored against different labels of {len(differ)} scans: {named(differ)}",
                hint="compare runs on one data set: --set data.dataset=NAME",
            )
