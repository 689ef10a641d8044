"""Sliding window, ensembling, post-processing, writing masks."""
