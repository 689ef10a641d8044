"""What the names of image and label files have in common, and what only marks their kind."""

import re
from collections.abc import Iterable

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr")
"""A file of such a name, in any case of its letters, was meant to be an image."""

# What label files and images carry behind the name that they share.
_LABEL_ENDINGS = (
    "mask",
    "masks",
    "seg",
    "segmentation",
    "label",
    "labels",
    "gt",
    "ich_mask",
    "roi",
)
_IMAGE_ENDINGS = ("0000", "ct", "image", "img")


def is_image_name(name: str) -> bool:
    """Tell whether a file is called like an image, and is not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def stem(name: str) -> str:
    """Return a file's name without its suffix of an image, whatever the case of the letters."""
    for suffix in sorted(IMAGE_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def image_name(name: str) -> str:
    """Return the name of an image file that its label shares."""
    return _without_ending(stem(name), _IMAGE_ENDINGS)


def label_name(name: str) -> str:
    """Return the name of a label file that its image shares."""
    return _without_ending(stem(name), _LABEL_ENDINGS)


def _without_ending(name: str, endings: Iterable[str]) -> str:
    for ending in sorted(endings, key=len, reverse=True):
        match = re.fullmatch(rf"(.+)[_\-. ]{re.escape(ending)}", name, flags=re.IGNORECASE)
        if match:
            return match[1]
    return name
