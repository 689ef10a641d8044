"""What the recipes need beside their names on scans of a small matrix: sizes in proportion."""

import published

FULL_MATRIX = 512


def patch_at(model: str, scale: int) -> list[int]:
    """The patch of both recipes on a matrix of 512 / scale."""
    if model == "swin-unetr":  # takes multiples of 32, and more than one of them
        return [max(64, 128 // scale), max(64, 128 // scale), 32]
    return [256 // scale, 256 // scale, 16]


def recipe_keys(model: str, recipe: str, scale: int, *, letter: bool = False) -> list[str]:
    """Config keys of a recipe on a matrix of 512 / scale; for `paper` the published prediction.

    `letter`: the spacing and the patch of `paper` stay as they are published.
    """
    if recipe == "strong":
        return [f"train.patch={patch_at(model, scale)}"]

    keys = ["predict.overlap=0.25", "predict.weighting=constant", "predict.threshold=0.5"]
    if scale > 1 and not letter:
        i, j, k = published.SPACING_MM
        keys += [
            f"train.spacing_mm=[{i * scale}, {j * scale}, {k}]",
            f"train.patch={patch_at(model, scale)}",
        ]
        if model == "swin-unetr":
            keys.append(f"train.pad_to=[{FULL_MATRIX // scale}, {FULL_MATRIX // scale}, 32]")
    return keys
