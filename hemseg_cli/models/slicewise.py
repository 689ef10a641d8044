"""Build a 2-D network that segments slice by slice and sees the neighbouring slices as channels.

A SegResNet of this kind had the best Dice of the INSTANCE 2022 challenge (Siddiquee et al.,
Automated segmentation of intracranial hemorrhages from 3D CT, 2022): slices of 5 mm say little
about each other, and 2-D kernels spend nothing on what they say.
"""

from collections.abc import Sequence

import torch
from monai.networks.nets.segresnet import SegResNet


class SlicewiseNetwork(torch.nn.Module):
    """Run a 2-D network on every slice of a patch, with its `neighbours` on both sides.

    [n, c, i, j, k] -> logits [n, classes, i, j, k]. The slices stand in order of k, all channels
    of each together; at the ends of the patch its last slice is repeated. A patch may have any
    number of slices.
    """

    def __init__(self, network: torch.nn.Module, neighbours: int) -> None:
        super().__init__()
        self.network, self.neighbours = network, neighbours

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits of x [n, c, i, j, k]."""
        n, _, i, j, k = x.shape

        # [n, c, i, j, k] -> [n, k, (2 neighbours + 1) c, i, j]: each slice with those around it.
        below, above = x[..., :1], x[..., -1:]
        padded = torch.cat([below] * self.neighbours + [x] + [above] * self.neighbours, dim=-1)
        width = 2 * self.neighbours + 1
        stacked = torch.cat([padded[..., shift : shift + k] for shift in range(width)], dim=1)
        slices = stacked.permute(0, 4, 1, 2, 3).reshape(n * k, -1, i, j)

        logits: torch.Tensor = self.network(slices)
        return logits.reshape(n, k, -1, i, j).permute(0, 2, 3, 4, 1).contiguous()


def segresnet_2d(
    *,
    in_channels: int,
    out_channels: int = 1,
    neighbours: int = 1,
    init_filters: int = 32,
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] = (1, 1, 1),
    dropout_prob: float | None = None,
) -> SlicewiseNetwork:
    """Build MONAI's SegResNet in 2-D over each slice and `neighbours` slices on both sides.

    ValueError where `neighbours` is negative.
    """
    if neighbours < 0:
        raise ValueError(f"neighbours = {neighbours}: 0 or more slices on each side")
    network = SegResNet(
        spatial_dims=2,
        init_filters=init_filters,
        in_channels=in_channels * (2 * neighbours + 1),
        out_channels=out_channels,
        dropout_prob=dropout_prob,
        blocks_down=tuple(blocks_down),
        blocks_up=tuple(blocks_up),
    )
    return SlicewiseNetwork(network, neighbours)
