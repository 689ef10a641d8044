"""Map the labels of a data set onto the classes of a run, one channel each.

A data set that does not label a class (partial labels) says nothing about it: its channel is
`UNKNOWN`, which the loss, the sampling and the validation leave out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemseg_cli.core.classes import LabelClass

UNKNOWN = -1.0
"""The value of every voxel in the channel of a class that the data set does not label."""


@dataclass(frozen=True)
class ClassChannels:
    """For each class of a run, the voxel values that mean it in one data set; None: unknown."""

    values: tuple[tuple[int, ...] | None, ...] = ((1,),)

    @property
    def known(self) -> tuple[bool, ...]:
        """Whether the data set labels each class."""
        return tuple(values is not None for values in self.values)

    def split(self, label: Tensor) -> Tensor:
        """Return float32 [c, i, j, k] (0, 1 or UNKNOWN) of a label map float32 [1, i, j, k]."""
        if self.values == ((1,),):
            return label  # one class, whose map is its channel

        channels = label.new_full((len(self.values), *label.shape[1:]), UNKNOWN)
        for channel, values in zip(channels, self.values, strict=True):
            if values is not None:
                channel[:] = torch.isin(label[0], label.new_tensor(values))
        return channels

    def masks(self, label: NDArray[Any]) -> list[NDArray[np.bool_] | None]:
        """Return one mask [i, j, k] of a label map for each class, None where it is unknown."""
        return [None if values is None else np.isin(label, values) for values in self.values]


ONE_CLASS = ClassChannels()
"""One class of voxel value 1, as HemSeg's labels have it."""


def channels_of(run: Sequence[LabelClass], data_set: Sequence[LabelClass]) -> ClassChannels:
    """Match the classes of a data set with those of a run, by key.

    A class of the run that the data set has only as its kinds (`parent`) is their union, if the
    data set labels every kind that the run tells apart: else what is not labelled might be it.
    """
    values_of = {each.key: each.value for each in data_set}

    def values(wanted: LabelClass) -> tuple[int, ...] | None:
        if wanted.key in values_of:
            return (values_of[wanted.key],)
        kinds = {each.key for each in run if each.parent == wanted.key}
        if kinds and kinds <= values_of.keys():
            return tuple(sorted(values_of[key] for key in kinds))
        return None

    return ClassChannels(tuple(values(each) for each in run))
