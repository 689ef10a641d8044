"""Two folders, one of images and one of labels, joined by name."""

from pathlib import Path

from hemseg_cli.core.errors import UsageError
from hemseg_cli.core.printable import printable
from hemseg_cli.dataset.imports.layout import (
    Findings,
    FoundScan,
    ImportRequest,
    nifti_files,
    source_folder,
)
from hemseg_cli.dataset.imports.pairing import RULE, join_by_name

# Pairs of folder names that people use, the first that both exist.
_NAMES = (
    ("images", "labels"),
    ("images", "masks"),
    ("image", "label"),
    ("image", "mask"),
    ("images", "ground truths"),
    ("ct_scans", "masks"),
    ("data", "label"),
    ("imagesTr", "labelsTr"),
)
_SPLITS = ("train", "val", "test")


class FoldersLayout:
    """`images/` and `labels/` in the source (or `--images DIR --labels DIR`), split or not.

    Splits are folders around them (`train/images`) or below them (`images/train`), as in a data
    set of ours: `train/image`, `train/label`.
    """

    def recognises(self, source: Path) -> bool:
        """Tell whether there is a folder of images beside one of labels."""
        return any(_folder_pairs(source))

    def find(self, request: ImportRequest) -> Findings:
        """Join images and labels of each pair of folders."""
        if request.images is not None or request.labels is not None:
            pairs = [("", *_named_folders(request))]
        else:
            pairs = _folder_pairs(source_folder(request))
        if not pairs:
            raise UsageError(
                f"{request.source} has no folder of images beside one of labels",
                hint="--images DIR --labels DIR names them",
            )

        scans: list[FoundScan] = []
        left_out: dict[str, str] = {}
        for split, images, labels in pairs:
            joined = join_by_name(nifti_files(images), nifti_files(labels))
            scans += [
                FoundScan(name, image, (label,), split=split) for name, image, label in joined.pairs
            ]
            left_out |= joined.left_out
        folders = "; ".join(f"{images.name} with {labels.name}" for _, images, labels in pairs[:1])
        return Findings(tuple(scans), left_out, (f"{folders}, {RULE}",))


def _named_folders(request: ImportRequest) -> tuple[Path, Path]:
    images, labels = request.images, request.labels
    if images is None or labels is None:
        raise UsageError("--images and --labels go together", hint="--images DIR --labels DIR")
    for option, folder in (("--images", images), ("--labels", labels)):
        if not folder.is_dir():
            raise UsageError(f"{option} {printable(str(folder))} is not a folder")
    return images, labels


def _folder_pairs(source: Path) -> list[tuple[str, Path, Path]]:
    """Find (split, images, labels); the split is empty where the folders do not tell one."""
    for images, labels in _NAMES:
        around = [(split, source / split / images, source / split / labels) for split in _SPLITS]
        below = [(split, source / images / split, source / labels / split) for split in _SPLITS]
        for pairs in (around, below, [("", source / images, source / labels)]):
            there = [pair for pair in pairs if pair[1].is_dir() and pair[2].is_dir()]
            if there:
                return there
    return []
