"""The metric table: one row for each number of a case or of a split.

The evaluation's `cases.csv` and `summary.json`, the terminal, the comparison of runs, the report,
its figures and its Markdown read this table and know no metric of their own: adding one is adding
one row to `METRICS`, with a function of the masks (`CaseMetrics`) or of the counts of the cases.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from hemseg_cli.core.quantities import VOLUME_CONFIDENCE
from hemseg_cli.evaluation.bootstrap import SIZE
from hemseg_cli.evaluation.metrics import CaseMetrics, hd95_of
from hemseg_cli.evaluation.nsd_tolerance import Tolerance, tolerance_name, tolerance_text

if TYPE_CHECKING:
    import pandas

Protocol = Literal["native", "paper"]
Better = Literal["higher", "lower", "zero"]
Section = Literal["segmentation", "volumes", "presence", "lesions"]
Scans = Literal["hemorrhage", "all", "none"]

_BOTH: tuple[Protocol, ...] = ("native", "paper")
_SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    `key`: its column; `{tolerance}` stands for the tolerance of the surface Dice, mm. `function`:
    the value of a case, NaN where undefined; None for a `rate`. `rate`: numerators and denominators
    of the cases, which are summed over the split. `averaged_over`: the scans whose mean stands in
    the summary. `bounds`: the least and the largest value that there is. `optional`: left out of
    table and summary where no case has it.
    """

    key: str
    title: str
    unit: str
    digits: int
    better: Better
    definition: str
    function: Callable[[CaseMetrics], float] | None = None
    rate: Callable[["pandas.DataFrame"], tuple["pandas.Series", "pandas.Series"]] | None = None
    protocols: tuple[Protocol, ...] = ("native",)
    section: Section = "segmentation"
    averaged_over: Scans = "hemorrhage"
    bounds: tuple[float, float] | None = None
    optional: bool = False

    @property
    def heading(self) -> str:
        """The title with its unit: `HD95 (mm)`."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def compared(self) -> bool:
        """Whether runs are tested against each other in it.

        Of a signed number nearer to zero is better, and a mean hides that.
        """
        return self.function is not None and self.averaged_over != "none" and self.better != "zero"

    def at_tolerance(self, tolerance_mm: Tolerance) -> "Metric":
        """Return the row with the tolerance of the surface Dice filled in."""
        key, title = (
            text.replace("{tolerance}", tolerance_name(tolerance_mm))
            for text in (self.key, self.title)
        )
        definition = self.definition.replace("{tolerance}", tolerance_text(tolerance_mm))
        return replace(self, key=key, title=title, definition=definition)


def metric_rows(protocol: Protocol, tolerance_mm: Tolerance) -> list[Metric]:
    """Return the rows of a protocol, the tolerance of the surface Dice filled in.

    Where that differs from scan to scan, one more row states it.
    """
    # The column of the surface Dice names its tolerance, so that two of them never mix.
    rows = [row.at_tolerance(tolerance_mm) for row in METRICS if protocol in row.protocols]
    if protocol == "native" and not isinstance(tolerance_mm, int | float):
        rows.append(OWN_TOLERANCE)
    return rows


def averaged(rows: Sequence[Metric]) -> list[Metric]:
    """Return the rows that have a mean or a rate in the summary."""
    return [row for row in rows if row.averaged_over != "none"]


def format_number(value: float | None, digits: int) -> str:
    """Show a number with so many digits after the point; a dash where it is undefined."""
    if value is None or not math.isfinite(value):
        return "-"

    # No minus before a number that rounds to zero.
    shown = f"{value:.{digits}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown


def format_interval(low: float | None, high: float | None, digits: int, method: str = "") -> str:
    """Show `[low, high]`; "too few" where there are not enough patients, else "undefined"."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return method if method == "too few" else "undefined"

    return f"[{format_number(low, digits)}, {format_number(high, digits)}]"


def format_p(p: float | None) -> str:
    """Show a p value as papers print it: three decimals, `< 0.001` below that.

    Four where three would hide on which side of 0.05 it lies; a dash where it is undefined.
    """
    if p is None or not math.isfinite(p):
        return "-"

    # Smaller than the resamples can tell.
    if p < 0.001:
        return "< 0.001"

    shown = f"{p:.3f}"
    return f"{p:.4f}" if shown == "0.050" else shown


def _hd95_voxel(case: CaseMetrics) -> float:
    value = hd95_of(_on_paper_grid(case).pair)
    return value if math.isfinite(value) else math.nan


def _on_paper_grid(case: CaseMetrics) -> CaseMetrics:
    if case.paper_pair is None:
        raise ValueError("a metric of the published grid was asked of a case without it")
    return CaseMetrics(case.paper_pair, case.voxel_volume_mm3, case.tolerance_mm)


def _case_f1(case: CaseMetrics) -> float:
    # F1 of a scan without any lesion, true or predicted, is undefined.
    total = case.lesions.detected + case.lesions.truth + case.lesions.false
    return 2 * case.lesions.detected / total if total else math.nan


def _interval_bound(case: CaseMetrics, bound: int) -> float:
    return math.nan if case.volume_interval_ml is None else case.volume_interval_ml[bound]


def _covered(cases: "pandas.DataFrame") -> tuple["pandas.Series", "pandas.Series"]:
    """Of the scans with an interval, which volumes it holds; NaN for the others."""
    truth = cases["truth_ml"]
    low, high = (cases.get(f"volume_{end}_ml", truth * math.nan) for end in ("low", "high"))

    # A scan without an interval counts in neither sum.
    known = low.notna() & high.notna()
    held = truth.between(low, high)
    return held.astype(float).where(known), known.astype(float).where(known)


def _false_alarm_ml(case: CaseMetrics) -> float:
    return math.nan if case.pair.truth.count else case.predicted_ml


METRICS: tuple[Metric, ...] = (
    Metric(
        "dice",
        "Dice",
        "",
        4,
        "higher",
        "2 |P and T| / (|P| + |T|); mean over the scans with hemorrhage, a missed one counts 0",
        lambda case: case.dice,
        bounds=_SHARE,
    ),
    Metric(
        "iou",
        "IoU",
        "",
        4,
        "higher",
        "|P and T| / |P or T|; mean over the scans with hemorrhage, a missed one counts 0",
        lambda case: case.iou,
        bounds=_SHARE,
    ),
    Metric(
        "hd95_mm",
        "HD95",
        "mm",
        2,
        "lower",
        "larger of the two directed 95th percentiles between surface voxels, in true millimetres "
        "(a tilted scan by its sheared geometry); mean over the scans with hemorrhage, a missed "
        "one counts with its scan's diagonal",
        lambda case: case.hd95_mm,
        bounds=SIZE,
    ),
    Metric(
        "nsd_{tolerance}mm",
        "NSD at {tolerance} mm",
        "",
        4,
        "higher",
        "share of both surfaces' voxels within {tolerance} of the other surface, counted in "
        "voxels; where slices lie further apart than that, a surface one slice off is outside; "
        "mean over the scans with hemorrhage, a missed one counts 0",
        lambda case: case.nsd,
        bounds=_SHARE,
    ),
    Metric(
        "dice",
        "Dice",
        "",
        4,
        "higher",
        "on the published grid, as MONAI's DiceMetric; mean over the scans with hemorrhage",
        lambda case: _on_paper_grid(case).dice,
        protocols=("paper",),
        bounds=_SHARE,
    ),
    Metric(
        "iou",
        "IoU",
        "",
        4,
        "higher",
        "on the published grid, as MONAI's MeanIoU; mean over the scans with hemorrhage",
        lambda case: _on_paper_grid(case).iou,
        protocols=("paper",),
        bounds=_SHARE,
    ),
    Metric(
        "hd95_voxel",
        "HD95",
        "voxels",
        2,
        "lower",
        "on the published grid, in its voxels; a scan of which nothing was predicted has none and "
        "is left out of the mean, as MONAI's mean does (the published interval script prints nan "
        "for such a table)",
        _hd95_voxel,
        protocols=("paper",),
    ),
    Metric(
        "truth_ml",
        "True volume",
        "mL",
        2,
        "zero",
        "by the true voxel volume (gantry tilt accounted for)",
        lambda case: case.truth_ml,
        protocols=_BOTH,
        section="volumes",
        averaged_over="none",
    ),
    Metric(
        "predicted_ml",
        "Predicted volume",
        "mL",
        2,
        "zero",
        "by the true voxel volume (gantry tilt accounted for)",
        lambda case: case.predicted_ml,
        protocols=_BOTH,
        section="volumes",
        averaged_over="none",
    ),
    Metric(
        "volume_low_ml",
        "Interval of the volume from",
        "mL",
        2,
        "zero",
        "lower bound of the true volume, as the run stated it",
        lambda case: _interval_bound(case, 0),
        section="volumes",
        averaged_over="none",
        optional=True,
    ),
    Metric(
        "volume_high_ml",
        "Interval of the volume to",
        "mL",
        2,
        "zero",
        "upper bound of the true volume, as the run stated it",
        lambda case: _interval_bound(case, 1),
        section="volumes",
        averaged_over="none",
        optional=True,
    ),
    Metric(
        "volume_coverage",
        "Coverage of the volume intervals",
        "",
        3,
        "higher",
        "share of the scans with an interval whose true volume lies in it; it is meant to be "
        f"{VOLUME_CONFIDENCE:.2f} for scans like those of the val split",
        rate=_covered,
        section="volumes",
        averaged_over="all",
        bounds=_SHARE,
        optional=True,
    ),
    Metric(
        "volume_error_ml",
        "Volume error",
        "mL",
        2,
        "zero",
        "predicted minus true volume; mean over all scans",
        lambda case: case.volume_error_ml,
        section="volumes",
        averaged_over="all",
    ),
    Metric(
        "abs_volume_error_ml",
        "Absolute volume error",
        "mL",
        2,
        "lower",
        "size of the volume error; mean over all scans",
        lambda case: abs(case.volume_error_ml),
        section="volumes",
        averaged_over="all",
        bounds=SIZE,
    ),
    Metric(
        "relative_volume_difference",
        "Relative volume difference",
        "",
        3,
        "zero",
        "volume error over true volume, signed: scans too large and too small cancel out; mean "
        "over the scans with hemorrhage",
        lambda case: case.relative_volume_difference,
        section="volumes",
    ),
    Metric(
        "abs_relative_volume_difference",
        "Absolute relative volume difference",
        "",
        3,
        "lower",
        "size of the relative volume difference; mean over the scans with hemorrhage",
        lambda case: abs(case.relative_volume_difference),
        section="volumes",
        bounds=SIZE,
    ),
    Metric(
        "scan_sensitivity",
        "Scan sensitivity",
        "",
        3,
        "higher",
        "share of the scans with hemorrhage in which any is predicted",
        rate=lambda cases: (
            ((cases["truth_ml"] > 0) & (cases["predicted_ml"] > 0)),
            (cases["truth_ml"] > 0),
        ),
        section="presence",
        averaged_over="all",
        bounds=_SHARE,
    ),
    Metric(
        "scan_specificity",
        "Scan specificity",
        "",
        3,
        "higher",
        "share of the scans without hemorrhage in which none is predicted",
        rate=lambda cases: (
            ((cases["truth_ml"] == 0) & (cases["predicted_ml"] == 0)),
            (cases["truth_ml"] == 0),
        ),
        section="presence",
        averaged_over="all",
        bounds=_SHARE,
    ),
    Metric(
        "false_alarm_ml",
        "False-alarm volume",
        "mL",
        2,
        "lower",
        "predicted volume in a scan without hemorrhage; mean over those scans",
        _false_alarm_ml,
        section="volumes",
        averaged_over="all",
        bounds=SIZE,
        optional=True,
    ),
    Metric(
        "lesions_truth",
        "True lesions",
        "",
        0,
        "zero",
        "26-connected components of the label",
        lambda case: float(case.lesions.truth),
        protocols=_BOTH,
        section="lesions",
        averaged_over="none",
    ),
    Metric(
        "lesions_predicted",
        "Predicted lesions",
        "",
        0,
        "zero",
        "26-connected components of the mask",
        lambda case: float(case.lesions.predicted),
        protocols=_BOTH,
        section="lesions",
        averaged_over="none",
    ),
    Metric(
        "lesions_detected",
        "Detected lesions",
        "",
        0,
        "higher",
        "true lesions that share a voxel with the mask",
        lambda case: float(case.lesions.detected),
        protocols=_BOTH,
        section="lesions",
        averaged_over="none",
    ),
    Metric(
        "lesions_false",
        "False lesions",
        "",
        0,
        "lower",
        "predicted lesions that share no voxel with the label",
        lambda case: float(case.lesions.false),
        protocols=_BOTH,
        section="lesions",
        averaged_over="none",
    ),
    Metric(
        "lesion_sensitivity",
        "Lesion sensitivity",
        "",
        3,
        "higher",
        "detected over true lesions, pooled over all scans",
        rate=lambda cases: (cases["lesions_detected"], cases["lesions_truth"]),
        section="lesions",
        averaged_over="all",
        bounds=_SHARE,
    ),
    Metric(
        "lesion_precision",
        "Lesion precision",
        "",
        3,
        "higher",
        "predicted lesions that touch a true one, over all predicted, pooled over all scans",
        rate=lambda cases: (
            cases["lesions_predicted"] - cases["lesions_false"],
            cases["lesions_predicted"],
        ),
        section="lesions",
        averaged_over="all",
        bounds=_SHARE,
    ),
    Metric(
        "lesion_f1",
        "Lesion F1, pooled",
        "",
        3,
        "higher",
        "TP / (TP + (FN + FP) / 2) of the detected, undetected and false lesions of all scans "
        "together",
        rate=lambda cases: (
            cases["lesions_detected"],
            (cases["lesions_detected"] + cases["lesions_truth"] + cases["lesions_false"]) / 2,
        ),
        section="lesions",
        averaged_over="all",
        bounds=_SHARE,
    ),
    Metric(
        "lesion_f1_case",
        "Lesion F1, mean of scans",
        "",
        3,
        "higher",
        "the F1 of each scan's lesions; mean over the scans that have a true or predicted lesion",
        _case_f1,
        section="lesions",
        averaged_over="all",
        bounds=_SHARE,
    ),
)

OWN_TOLERANCE = Metric(
    "nsd_tolerance_mm",
    "Tolerance of the NSD",
    "mm",
    1,
    "zero",
    "of this scan, by its slice distance",
    lambda case: case.tolerance_mm,
    averaged_over="none",
)
"""The row that states each scan's tolerance, where it goes by slice distance."""
