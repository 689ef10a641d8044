"""One folder a scan: an image beside one or several labels."""

import re
from dataclasses import replace
from pathlib import Path

from hemseg_cli.core.classes import PREDEFINED
from hemseg_cli.core.errors import UsageError
from hemseg_cli.core.names import first_few
from hemseg_cli.dataset.imports.class_map import known_class
from hemseg_cli.dataset.imports.layout import (
    Findings,
    FoundScan,
    ImportRequest,
    nifti_files,
    source_folder,
    walk_folders,
)
from hemseg_cli.imaging.file_names import stem

MAJORITY = "majority"

_IMAGE = re.compile(r"(.*[_\-. ])?(image|ct|img|scan|volume)", re.IGNORECASE)
_LABEL = re.compile(
    r"(?:.*[_\-. ])?(?:label|mask|seg|segmentation|gt)s?"
    r"(?:[_\-. ]?(?:annot[_\-. ]?)?(?P<which>.+))?",
    re.IGNORECASE,
)
_ICH_MASK = re.compile(r"(.*[_\-. ])?ich[_\-. ]mask", re.IGNORECASE)


class CaseFoldersLayout:
    """Every folder with one image and at least one label; its name is the scan's.

    Several labels that are all called after classes of the field (`label_IPH`, `IVH_mask`) are one
    class each. Others of one scan are several raters' (`label_annot_1`, `label_smith`): `--rater`
    picks one, `majority` (the default) takes what more than half of them drew.
    """

    def recognises(self, source: Path) -> bool:
        """Tell whether a folder below holds an image beside a label."""
        folders = (folder for folder in sorted(source.iterdir()) if folder.is_dir())
        return any(_sort_files(folder)[0] and _sort_files(folder)[1] for folder in folders)

    def find(self, request: ImportRequest) -> Findings:
        """Find the folders of scans and the labels that were asked for."""
        source = source_folder(request)
        scans: list[FoundScan] = []
        left_out: dict[str, str] = {}
        for folder in walk_folders(source):
            images, labels = _sort_files(folder)
            if len(images) == 1 and labels:
                raters = tuple(rater for rater, _ in labels)
                name = folder.name if folder != source else stem(images[0].name)
                files = tuple(path for _, path in labels)
                scans.append(FoundScan(name, images[0], files, raters if len(raters) > 1 else ()))
            elif images:
                why = "no label" if len(images) == 1 else f"{len(images)} images in one folder"
                left_out |= {str(path): why for path in images}
        findings = Findings(tuple(scans), left_out, ("one folder a scan",))
        return pick_raters(_one_file_a_class(findings), request.rater)


def _one_file_a_class(findings: Findings) -> Findings:
    """Read the labels as one class each where every scan's are called after different classes.

    The classes are numbered from 1 in the order of the field, over all scans.
    """
    keys = [tuple(known_class(path.name) for path in scan.labels) for scan in findings.scans]
    named = all(None not in of_scan and len(set(of_scan)) == len(of_scan) for of_scan in keys)
    present = {key for of_scan in keys for key in of_scan}
    if not named or len(present) < 2:
        return findings

    order = [each.key for each in PREDEFINED if each.key in present]
    scans = [
        replace(scan, raters=(), label_values=tuple(order.index(key) + 1 for key in of_scan if key))
        for scan, of_scan in zip(findings.scans, keys, strict=True)
    ]
    rules = (*findings.rules, f"one label file a class ({', '.join(order)})")
    return Findings(tuple(scans), findings.left_out, rules, dict(enumerate(order, start=1)))


def pick_raters(findings: Findings, rater: str | None) -> Findings:
    """Keep the labels of one rater, or of all for a majority."""
    several = sorted({name for scan in findings.scans for name in scan.raters})
    if not several:
        if rater not in (None, MAJORITY):
            raise UsageError(f"--rater {rater}: the scans have one label each")
        return findings
    if rater in (None, MAJORITY):
        rule = f"majority of the raters ({first_few(several)}); --rater NAME picks one"
        return Findings(findings.scans, findings.left_out, (*findings.rules, rule))

    if rater not in several:
        raise UsageError(f"--rater {rater}: no such rater", hint=f"there are {first_few(several)}")
    scans, left_out = [], dict(findings.left_out)
    for scan in findings.scans:
        chosen = dict(zip(scan.raters, scan.labels, strict=True)) or {rater: scan.labels[0]}
        if rater in chosen:
            scans.append(FoundScan(scan.name, scan.image, (chosen[rater],)))
        else:
            left_out[str(scan.image)] = f"no label of rater {rater}"
    return Findings(tuple(scans), left_out, (*findings.rules, f"labels of rater {rater}"))


def _sort_files(folder: Path) -> tuple[list[Path], list[tuple[str, Path]]]:
    """Return the images and (rater, label) of one folder."""
    images, labels = [], []
    for path in nifti_files(folder):
        name = stem(path.name)
        match = _LABEL.fullmatch(name)
        if match is not None or _ICH_MASK.fullmatch(name):
            labels.append((match["which"] or "1" if match else "1", path))
        elif _IMAGE.fullmatch(name) or name.lower() == folder.name.lower():
            images.append(path)
    return images, labels
