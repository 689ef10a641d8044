"""Published labels: sources, archive, manifest, splits."""
