"""Write a network as an ONNX file, if ONNX Runtime gives torch's answer with it."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.files import atomic_path

TOLERANCE = 1e-4  # of the largest logit
_INSTALL_HINT = "pip install 'hemseg[onnx]'"


def write_onnx(
    path: Path, network: nn.Module, *, in_channels: int, patch: tuple[int, int, int]
) -> float:
    """Write `network` for inputs [1, c, i, j, k] of the patch's size and compare with torch.

    Returns the largest difference of the logits, relative to the largest logit. HemsegError where
    the extra is missing, the network cannot be exported, or the difference is above 1e-4 (no file
    is then written).
    """
    try:
        import onnxruntime
    except ImportError:
        raise HemsegError(
            "ONNX export needs onnx, onnxscript and onnxruntime", hint=_INSTALL_HINT
        ) from None
    example = torch.randn((1, in_channels, *patch), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(example).numpy()
    with atomic_path(path) as temporary:
        _export(network, example, temporary)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        [answer] = session.run(None, {"image": example.numpy()})
        difference = float(
            np.abs(answer - expected).max() / max(1.0, float(np.abs(expected).max()))
        )
        if not difference <= TOLERANCE:
            raise HemsegError(
                f"the ONNX model differs from torch by {difference:.1e} "
                f"(tolerated: {TOLERANCE:.0e})"
            )
    return difference


def _export(network: nn.Module, example: torch.Tensor, path: Path) -> None:
    import logging
    import warnings

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            torch.onnx.export(
                network,
                (example,),
                str(path),
                input_names=["image"],
                output_names=["logits"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, ImportError) as error:
        raise HemsegError(
            f"this network cannot be written as ONNX: {str(error).splitlines()[0]}",
            hint=_INSTALL_HINT,
        ) from None
