import numpy as np
import pytest

from hemseg_cli.inference.confidence import Confidence, confidence_of, review_reason

SURE = Confidence(
    mean_probability=0.95, uncertain_share=0.1, disagreement=0.02, max_probability=1.0
)


def test_confidence_by_hand() -> None:
    probability = np.array([[[0.1, 0.3, 0.6, 0.9, 1.0]]], dtype=np.float32)
    mask = (probability > 0.5).astype(np.uint8)
    deviation = np.array([[[0.5, 0.1, 0.2, 0.1, 0.0]]], dtype=np.float32)
    got = confidence_of(probability, mask, deviation)
    assert got.mean_probability == pytest.approx((0.6 + 0.9 + 1.0) / 3)
    assert got.uncertain_share == pytest.approx(2 / 4)  # 0.3 and 0.6 of the four above 0.2
    assert got.disagreement == pytest.approx((0.1 + 0.2 + 0.1 + 0.0) / 4)
    assert got.max_probability == pytest.approx(1.0)


def test_empty_scan_has_no_confidence_to_speak_of() -> None:
    nothing = np.zeros((2, 2, 2), dtype=np.float32)
    assert confidence_of(nothing, nothing.astype(np.uint8)) == Confidence(0.0, 0.0, 0.0, 0.0)


def test_sure_prediction_needs_no_review() -> None:
    assert review_reason(SURE, predicted_ml=12.0, lesions=2, threshold=0.5, mean_hu=62.0) == ""


@pytest.mark.parametrize(
    ("confidence", "predicted_ml", "mean_hu", "reason"),
    [
        (
            Confidence(0.0, 1.0, 0.0, 0.45),
            0.0,
            None,
            "nothing above the threshold, but a probability of 0.45",
        ),
        (SURE, 0.4, 60.0, "small (0.40 mL)"),
        (Confidence(0.6, 0.1, 0.0, 0.9), 5.0, 60.0, "low mean probability (0.60)"),
        (Confidence(0.9, 0.7, 0.0, 0.9), 5.0, 60.0, "many uncertain voxels (70 %)"),
        (Confidence(0.9, 0.1, 0.3, 0.9), 5.0, 60.0, "the models disagree (0.30)"),
        (SURE, 5.0, 210.0, "density unlike fresh blood (210 HU)"),
    ],
)
def test_each_reason_is_named(
    confidence: Confidence, predicted_ml: float, mean_hu: float | None, reason: str
) -> None:
    assert reason in review_reason(
        confidence, predicted_ml=predicted_ml, lesions=1, threshold=0.5, mean_hu=mean_hu
    )


def test_warnings_of_the_input_are_reasons() -> None:
    assert (
        review_reason(
            SURE,
            predicted_ml=9.0,
            lesions=1,
            threshold=0.5,
            mean_hu=60.0,
            warnings=("no head found",),
        )
        == "no head found"
    )


def test_mask_in_many_pieces_is_a_reason() -> None:
    assert (
        review_reason(SURE, predicted_ml=48.6, lesions=225, threshold=0.5, mean_hu=60.0)
        == "many separate lesions (225)"
    )
