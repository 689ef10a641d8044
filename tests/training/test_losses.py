import pytest
import torch
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from torch.nn import functional

from hemseg_cli.config import load
from hemseg_cli.config.schema import TrainConfig
from hemseg_cli.training.losses import dice_loss, make_loss


def _batch(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    label = (torch.rand((n, 1, 8, 6, 4), generator=random) > 0.8).float()
    label[0] = 0
    return torch.randn((n, 1, 8, 6, 4), generator=random), label


def _train(**loss: float) -> TrainConfig:
    return TrainConfig.model_validate({"loss": {"dice": 0.0, **loss}})


@pytest.mark.parametrize(
    "model", ["unet", "vnet", "segresnet", "attention-unet", "unetr", "swin-unetr"]
)
def test_paper_loss_is_monais_dice_loss(model):
    logits, label = _batch()
    loss = make_loss(
        load(assignments=["train.recipe=paper", f"train.model={model}"], environ={}).train
    )
    torch.testing.assert_close(loss(logits, label), DiceLoss(sigmoid=True)(logits, label))


def test_dice_over_the_batch_is_monais():
    logits, label = _batch()
    expected = DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)(logits, label)
    torch.testing.assert_close(dice_loss(logits, label, smooth=1.0, over_batch=True), expected)


def test_focal_loss_is_monais():
    logits, label = _batch()
    torch.testing.assert_close(
        make_loss(_train(focal=1.0, focal_gamma=1.5))(logits, label),
        FocalLoss(gamma=1.5)(logits, label),
    )


def test_parts_add_up_by_their_weights():
    logits, label = _batch()
    entropy = functional.binary_cross_entropy_with_logits(
        logits, label, pos_weight=torch.tensor(3.0)
    )
    expected = 0.5 * DiceLoss(sigmoid=True)(logits, label) + 2 * entropy
    torch.testing.assert_close(
        make_loss(_train(dice=0.5, cross_entropy=2.0, positive_weight=3.0))(logits, label), expected
    )


def test_deep_supervision_weighs_each_level_half_of_the_one_before():
    logits, label = _batch()
    coarse, coarser = torch.randn(3, 1, 4, 3, 4), torch.randn(3, 1, 2, 3, 2)
    loss = make_loss(_train(cross_entropy=1.0, deep_supervision=0.5))
    parts = [
        functional.binary_cross_entropy_with_logits(
            output, functional.adaptive_avg_pool3d(label, tuple(output.shape[2:]))
        )
        for output in (logits, coarse, coarser)
    ]
    torch.testing.assert_close(
        loss([logits, coarse, coarser], label), (4 * parts[0] + 2 * parts[1] + parts[2]) / 7
    )
    finest_only = make_loss(_train(cross_entropy=1.0, deep_supervision=0.0))
    torch.testing.assert_close(finest_only([logits, coarse], label), parts[0])


def test_a_perfect_answer_costs_nothing_and_its_gradient_is_finite():
    _logits, label = _batch()
    label[1:, :, 0] = 1
    logits = ((label * 2 - 1) * 40).requires_grad_()
    loss = make_loss(
        TrainConfig.model_validate(
            {"loss": {"dice": 1.0, "cross_entropy": 1.0, "focal": 1.0, "dice_over_batch": True}}
        )
    )(logits, label)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-5)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_half_precision_outputs_are_scored_in_float32():
    logits, label = _batch()
    scored = make_loss(_train(cross_entropy=1.0))(logits.bfloat16(), label)
    assert scored.dtype == torch.float32


def _exclusive_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and labels of three classes, and the map of class numbers, 0 the background."""
    random = torch.Generator().manual_seed(3)
    numbers = torch.randint(0, 4, (2, 6, 5, 4), generator=random)
    label = functional.one_hot(numbers, 4).movedim(-1, 1)[:, 1:].float()
    return 2 * torch.randn((2, 3, 6, 5, 4), generator=random), label, numbers


def _with_background(logits: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


def _softmax(**loss: float) -> TrainConfig:
    return TrainConfig.model_validate({"activation": "softmax", "loss": {"dice": 0.0, **loss}})


def test_softmax_has_torchs_cross_entropy() -> None:
    logits, label, numbers = _exclusive_batch()
    found = make_loss(_softmax(cross_entropy=1.0))(logits, label)
    expected = functional.cross_entropy(_with_background(logits), numbers)
    torch.testing.assert_close(found, expected)

    weighted = make_loss(_softmax(cross_entropy=1.0, positive_weight=3.0))(logits, label)
    each = functional.cross_entropy(_with_background(logits), numbers, reduction="none")
    torch.testing.assert_close(weighted, (each * (1 + 2 * (numbers > 0))).mean())


def test_softmax_has_monais_dice_and_focal_loss() -> None:
    logits, label, numbers = _exclusive_batch()
    whole = functional.one_hot(numbers, 4).movedim(-1, 1).float()
    dice = DiceLoss(softmax=True, include_background=False)(_with_background(logits), whole)
    torch.testing.assert_close(make_loss(_softmax(dice=1.0))(logits, label), dice)

    focal = FocalLoss(gamma=1.5, use_softmax=True, reduction="none")(
        _with_background(logits), whole
    )
    found = make_loss(_softmax(focal=1.0, focal_gamma=1.5))(logits, label)
    torch.testing.assert_close(found, focal.sum(1).mean())


def test_softmax_of_one_class_has_the_losses_of_the_sigmoid() -> None:
    logits, label = _batch()
    parts = {"dice": 1.0, "cross_entropy": 1.0, "focal": 1.0, "positive_weight": 2.0}
    torch.testing.assert_close(
        make_loss(_softmax(**parts))(logits, label), make_loss(_train(**parts))(logits, label)
    )


def test_softmax_takes_a_class_that_is_not_labelled_for_background_too() -> None:
    logits, label, numbers = _exclusive_batch()
    label[0, 2] = -1  # what the first scan calls background may be the third class
    joined = _with_background(logits[:1])
    joined = torch.cat(
        [torch.logsumexp(joined[:, [0, 3]], dim=1, keepdim=True), joined[:, 1:3]], dim=1
    )
    first = functional.cross_entropy(joined, torch.where(numbers[:1] == 3, 0, numbers[:1]))
    second = functional.cross_entropy(_with_background(logits[1:]), numbers[1:])
    found = make_loss(_softmax(cross_entropy=1.0))(logits, label)
    torch.testing.assert_close(found, (first + second) / 2)

    logits.requires_grad_()
    make_loss(_softmax(cross_entropy=1.0, dice=1.0, focal=1.0))(logits, label).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("over_batch", [True, False])
def test_dice_of_several_classes_is_of_those_that_are_drawn(over_batch: bool) -> None:
    logits, label, _ = _exclusive_batch()
    label[:, 2] = 0
    found = dice_loss(logits, label, smooth=1.0, over_batch=over_batch)
    monai = DiceLoss(sigmoid=True, batch=over_batch, smooth_nr=1.0, smooth_dr=1.0)
    torch.testing.assert_close(found, monai(logits[:, :2], label[:, :2]))
    # Where nothing is drawn at all, the cross-entropy alone has to say so.
    assert dice_loss(logits, torch.zeros_like(label), smooth=1.0, over_batch=over_batch) == 0
