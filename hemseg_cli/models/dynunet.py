"""Build nnU-Net's topology from MONAI's DynUNet.

Anisotropic kernels and strides, instance norm, leaky ReLU, deep supervision.

Isensee et al., nnU-Net, Nature Methods 18 (2021): an axis keeps its size and a kernel of 1 until
the others' spacing has come within a factor of two of it. For 0.5 x 0.5 x 5 mm those are the first
three levels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.dynunet import DynUNet


class DeeplySupervisedDynUNet(DynUNet):
    """MONAI's DynUNet that returns its deep-supervision outputs at their own resolutions.

    MONAI's own upsamples and stacks them. `train()` gives [logits at full resolution, at the next
    level, ...], `eval()` the logits [n, 1, i, j, k]. State-dict keys are MONAI's. Inside, slices
    come first, as in nnU-Net: convolutions within a slice then run along long rows of memory,
    several times faster on a CPU.
    """

    def forward(self, x: torch.Tensor) -> Any:
        """Compute the logits of x [n, c, i, j, k]."""
        output = self.output_block(self.skip_layers(_slices_first(x)))
        if not self.deep_supervision:
            return _slices_last(output)
        heads = list(self.heads)
        # The skip layers keep their heads' outputs in this list: holding them would hold the graph,
        # and forbid a deep copy.
        self.heads[:] = [torch.empty(0)] * len(heads)
        return (
            [_slices_last(logits) for logits in (output, *heads)]
            if self.training
            else _slices_last(output)
        )


def dynunet(
    *,
    in_channels: int,
    channels: Sequence[int],
    strides: Sequence[Any],
    kernels: Sequence[Any],
    supervised_levels: int,
    residual: bool = False,
    dropout: float | None = None,
    out_channels: int = 1,
) -> DeeplySupervisedDynUNet:
    """Build a network with one level per entry of `channels`, `strides` and `kernels`.

    A stride or kernel is one number, or three along i, j, k. `supervised_levels`: lower levels that
    get a loss of their own (0: none), at most two fewer than there are levels. ValueError where the
    three differ in length.
    """
    if not len(channels) == len(strides) == len(kernels):
        raise ValueError(
            f"channels, strides and kernels have {len(channels)}, {len(strides)} and "
            f"{len(kernels)} levels"
        )
    return DeeplySupervisedDynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[_turned(size) for size in kernels],
        strides=[_turned(size) for size in strides],
        upsample_kernel_size=[_turned(size) for size in strides[1:]],
        filters=list(channels),
        dropout=dropout,
        norm_name=("INSTANCE", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        deep_supervision=supervised_levels > 0,
        deep_supr_num=max(1, supervised_levels),
        res_block=residual,
    )


def _slices_first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 1, 4, 2, 3).contiguous()


def _slices_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 1, 3, 4, 2).contiguous()


def _turned(size: Any) -> Any:
    """A kernel or stride along i, j, k as one along k, i, j; a single number holds for all axes."""
    return size if isinstance(size, int) else (size[2], size[0], size[1])
