"""Preprocessing cache, patches, augmentation, the loop, checkpoints, nnU-Net."""
