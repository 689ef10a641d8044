"""Augmentation of training patches, on the CPU, as they are cut from the memory maps."""

from hemseg_cli.training.augment.patches import augment

__all__ = ["augment"]
