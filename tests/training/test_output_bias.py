from typing import Any

import pytest
import torch

from hemseg_cli.models.registry import build_network, full_config
from hemseg_cli.training.output_bias import set_output_bias


@pytest.mark.parametrize(
    ("name", "arguments", "patch"),
    [
        ("unet", {"channels": [4, 8], "strides": [2]}, (16, 16, 8)),
        ("vnet", {}, (32, 32, 16)),
        ("segresnet", {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}, (16, 16, 8)),
        ("attention-unet", {"channels": [4, 8, 8], "strides": [2, 2]}, (16, 16, 8)),
        (
            "dynunet",
            {
                "channels": [4, 4, 8],
                "strides": [1, 2, 2],
                "kernels": [3, 3, 3],
                "supervised_levels": 1,
            },
            (16, 16, 8),
        ),
        (
            "unetr",
            {"feature_size": 4, "hidden_size": 12, "mlp_dim": 16, "num_heads": 2},
            (32, 32, 16),
        ),
        ("swin-unetr", {"feature_size": 12}, (64, 32, 32)),
    ],
)
def test_every_network_starts_from_the_prior(
    name: str, arguments: dict[str, Any], patch: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    network = build_network(name, full_config(name, arguments, patch), 2)
    image = torch.randn(1, 2, *patch)
    before = {key: value.clone() for key, value in network.named_buffers()}
    set_output_bias(network, 0.01, image.shape)
    assert all(torch.equal(value, before[key]) for key, value in network.named_buffers())
    with torch.no_grad():
        output = network.eval()(image)
    finest = output[0] if isinstance(output, list | tuple) else output
    assert 0.002 < float(torch.sigmoid(finest).mean()) < 0.1
    if name == "vnet":
        assert float(network.get_parameter("out_tr.conv2.weight").detach()) == 1.0
    if name == "attention-unet":  # its gates have biases of one number too, which are no output's
        closed = [
            value
            for key, value in network.named_parameters()
            if key.endswith("bias") and value.numel() == 1 and float(value.detach()) < -4
        ]
        assert len(closed) == 1
