"""BIDS: `sub-X/[ses-Y/]ct|anat/*_ct.nii.gz`, the masks below `derivatives/`."""

import re
from pathlib import Path

from hemseg_cli.dataset.imports.layout import (
    Findings,
    FoundScan,
    ImportRequest,
    nifti_files,
    source_folder,
    walk_folders,
)
from hemseg_cli.imaging.file_names import stem

_IMAGE = re.compile(r"(?P<entities>sub-[a-zA-Z0-9]+(_[a-z]+-[a-zA-Z0-9]+)*)_ct", re.IGNORECASE)
_ENTITY = re.compile(r"([a-z]+)-([a-zA-Z0-9]+)", re.IGNORECASE)
_MASK_SUFFIXES = ("mask", "dseg", "seg", "label", "probseg")
_OF_THE_MASK = ("desc", "space", "label", "res")  # entities that only a derivative has


class BidsLayout:
    """CT scans by subject and session; a mask belongs to the scan with the same entities."""

    def recognises(self, source: Path) -> bool:
        """Tell whether there are subjects and derivatives."""
        subjects = any(path.is_dir() for path in source.glob("sub-*"))
        return subjects and (source / "derivatives").is_dir()

    def find(self, request: ImportRequest) -> Findings:
        """Find the CT scans and the mask of each below `derivatives/`."""
        source = source_folder(request)
        masks: dict[tuple[tuple[str, str], ...], list[Path]] = {}
        for folder in walk_folders(source / "derivatives"):
            for path in nifti_files(folder):
                if stem(path.name).rpartition("_")[2].lower() in _MASK_SUFFIXES:
                    masks.setdefault(_entities(path, mask=True), []).append(path)

        scans: list[FoundScan] = []
        left_out: dict[str, str] = {}
        for image in _images(source):
            found = masks.get(_entities(image), [])
            subject = dict(_entities(image)).get("sub", "")
            if len(found) == 1:
                name = stem(image.name).removesuffix("_ct")
                scans.append(FoundScan(name, image, (found[0],), patient=f"sub-{subject}"))
            else:
                names = ", ".join(path.name for path in found[:4])
                left_out[str(image)] = f"more than one mask: {names}" if found else "no label"
        rules = ("patients are the subjects; masks have the scan's entities, below derivatives/",)
        return Findings(tuple(scans), left_out, rules)


def _images(source: Path) -> list[Path]:
    folders = [
        folder
        for subject in sorted(source.glob("sub-*"))
        for folder in walk_folders(subject)
        if folder.name in ("ct", "anat")
    ]
    return [
        path
        for folder in folders
        for path in nifti_files(folder)
        if _IMAGE.fullmatch(stem(path.name))
    ]


def _entities(path: Path, *, mask: bool = False) -> tuple[tuple[str, str], ...]:
    """Return the key-value pairs of a name, without those that only a mask has."""
    pairs = [
        (match[1], match[2])
        for match in map(_ENTITY.fullmatch, stem(path.name).split("_"))
        if match
    ]
    return tuple(pair for pair in pairs if not (mask and pair[0] in _OF_THE_MASK))
