import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from hemseg_cli.core.errors import HemsegError
from hemseg_cli.models.onnx import TOLERANCE, write_onnx
from hemseg_cli.models.registry import build_network

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("onnxruntime") is None, reason="extra onnx is not installed"
    ),
    pytest.mark.filterwarnings("ignore"),  # the exporter's own deprecations
]


def test_onnx_gives_torchs_answer(tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    network = build_network(
        "unet",
        {
            "spatial_dims": 3,
            "out_channels": 1,
            "channels": [4, 8],
            "strides": [2],
            "num_res_units": 0,
        },
        2,
    ).eval()
    assert (
        write_onnx(tmp_path / "model.onnx", network, in_channels=2, patch=(16, 16, 8)) <= TOLERANCE
    )
    image = torch.randn(1, 2, 16, 16, 8)
    [answer] = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(
        None, {"image": image.numpy()}
    )
    with torch.inference_mode():
        assert np.allclose(answer, network(image).numpy(), atol=1e-4)


def test_answer_that_differs_is_not_written(tmp_path: Path) -> None:
    class Random(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image + torch.rand_like(image)

    with pytest.raises(HemsegError):
        write_onnx(tmp_path / "model.onnx", Random().eval(), in_channels=1, patch=(8, 8, 8))
    assert list(tmp_path.iterdir()) == []
