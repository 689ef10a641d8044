"""Augmentation of training patches, on the CPU, as they are cut from the memory maps."""

from hemseg_cli.training.augmentation.patches import augmented_patch, mirrored_axes

__all__ = ["augmented_patch", "mirrored_axes"]
