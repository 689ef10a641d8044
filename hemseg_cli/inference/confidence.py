"""Judge how far a mask can be trusted, and say why a person should look at it (`review`)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A voxel between these probabilities is uncertain; below the lower one nobody would take it for
# hemorrhage.
UNCERTAIN = (0.2, 0.8)
MAX_UNCERTAIN_SHARE = 0.5
MIN_MEAN_PROBABILITY = 0.75
MAX_DISAGREEMENT = 0.15
SMALL_ML = 1.0
MANY_LESIONS = 10
FRESH_BLOOD_HU = (40.0, 90.0)


@dataclass(frozen=True)
class Confidence:
    """What the probabilities of one scan say of its mask.

    `mean_probability` inside the mask (0 where empty), `uncertain_share` of the voxels above the
    lower bound, `disagreement` of an ensemble (mean standard deviation over those voxels; 0 for one
    model), `max_probability` anywhere in the scan.
    """

    mean_probability: float
    uncertain_share: float
    disagreement: float
    max_probability: float


def confidence_of(
    probability: NDArray[np.float32],
    mask: NDArray[np.uint8],
    deviation: NDArray[np.float32] | None = None,
) -> Confidence:
    """Return the confidence of one scan from its probabilities [i, j, k] and its mask.

    `deviation`: the networks' standard deviation, where there are several.
    """
    low, high = UNCERTAIN
    candidate = probability > low
    inside = mask.astype(bool)
    count = int(candidate.sum())
    return Confidence(
        mean_probability=float(probability[inside].mean()) if inside.any() else 0.0,
        uncertain_share=float((probability[candidate] < high).mean()) if count else 0.0,
        disagreement=float(deviation[candidate].mean()) if deviation is not None and count else 0.0,
        max_probability=float(probability.max(initial=0.0)),
    )


def review_reason(
    confidence: Confidence,
    *,
    predicted_ml: float,
    lesions: int,
    threshold: float,
    mean_hu: float | None,
    warnings: tuple[str, ...] = (),
) -> str:
    """Say why a person should look at this scan, `;` between reasons; empty where nothing does.

    `mean_hu`: of the whole mask, None where it is empty. `warnings`: what was said of the input.
    """
    low, high = FRESH_BLOOD_HU
    reasons = list(warnings)
    if predicted_ml == 0 and confidence.max_probability > threshold / 2:
        reasons.append(
            f"nothing above the threshold, but a probability of {confidence.max_probability:.2f}"
        )
    if 0 < predicted_ml < SMALL_ML:
        reasons.append(f"small ({predicted_ml:.2f} mL)")
    if lesions > MANY_LESIONS:
        reasons.append(f"many separate lesions ({lesions})")
    if predicted_ml and confidence.mean_probability < MIN_MEAN_PROBABILITY:
        reasons.append(f"low mean probability ({confidence.mean_probability:.2f})")
    if confidence.uncertain_share > MAX_UNCERTAIN_SHARE:
        reasons.append(f"many uncertain voxels ({100 * confidence.uncertain_share:.0f} %)")
    if confidence.disagreement > MAX_DISAGREEMENT:
        reasons.append(f"the models disagree ({confidence.disagreement:.2f})")
    if mean_hu is not None and not low <= mean_hu <= high:
        reasons.append(f"density unlike fresh blood ({mean_hu:.0f} HU)")
    return "; ".join(reasons)
