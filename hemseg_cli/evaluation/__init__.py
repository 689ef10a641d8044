"""Metrics, lesions, bootstrap, comparison; the paper's protocol."""
