"""One class is what it was before there were several: weights, loss and steps as stored then.

The values are those of the last commit that knew one class alone. A whole training is not held to
it: patches are drawn in another order since rare classes are drawn as often as common ones.
"""

import pytest
import torch

from hemseg_cli.config.schema import LossConfig, TrainConfig
from hemseg_cli.models.registry import build_network
from hemseg_cli.training.losses import make_loss

NETWORK = {
    "spatial_dims": 3,
    "out_channels": 1,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
}
BOTH = LossConfig(dice=1.0, cross_entropy=1.0, dice_over_batch=True)


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn((2, 1, 16, 16, 8), generator=torch.Generator().manual_seed(1))
    label = torch.rand(images.shape, generator=torch.Generator().manual_seed(2)) > 0.8
    return images, label.float()


@pytest.mark.parametrize(
    ("settings", "loss", "gradient"),
    [
        (LossConfig(dice=1.0), 0.7086221575737, 1.2559906827719942),
        (BOTH, 1.675675630569458, 7.364998580024803),
        (LossConfig(dice=0.0, focal=1.0), 0.45830124616622925, 7.368837282882851),
    ],
    ids=["Dice", "Dice and cross-entropy", "focal"],
)
def test_loss_and_gradient_are_those_stored(
    settings: LossConfig, loss: float, gradient: float
) -> None:
    torch.manual_seed(0)
    network = build_network("unet", NETWORK, 1)
    images, label = _batch()
    value = make_loss(TrainConfig(loss=settings))(network(images), label)
    value.backward()
    total = sum(
        float(each.grad.abs().sum()) for each in network.parameters() if each.grad is not None
    )
    assert float(value.detach()) == pytest.approx(loss, rel=1e-6)
    assert total == pytest.approx(gradient, rel=1e-5)


def test_weights_and_probabilities_after_three_steps_are_those_stored() -> None:
    torch.manual_seed(0)
    network = build_network("unet", NETWORK, 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    images, label = _batch()
    loss = make_loss(TrainConfig(loss=BOTH))
    for _ in range(3):
        optimizer.zero_grad()
        loss(network(images), label).backward()
        optimizer.step()
    weights = sum(float(each.detach().double().abs().sum()) for each in network.parameters())
    with torch.inference_mode():
        probability = float(torch.sigmoid(network.eval()(images)).double().sum())
    assert weights == pytest.approx(112.10183583374601, rel=1e-4)
    assert probability == pytest.approx(2496.716002866626, rel=1e-5)
