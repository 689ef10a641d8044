"""Public data sets by name: which layout each has, its classes, licence and citation.

Where `seen` is false the layout is known from papers and other people's code alone, not from files
that were opened here.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hemseg_cli.dataset.imports.case_folders import CaseFoldersLayout
from hemseg_cli.dataset.imports.folders import FoldersLayout
from hemseg_cli.dataset.imports.layout import Findings, ImportRequest, Layout, source_folder
from hemseg_cli.dataset.imports.nnunet import NnunetLayout

_FIVE_KINDS = {1: "EDH", 2: "IPH", 3: "IVH", 4: "SAH", 5: "SDH"}
_RSNA_NAME = re.compile(r"(?P<patient>ID_[0-9a-f]{8,9})_(?P<scan>ID_[0-9a-f]{10})")


@dataclass(frozen=True)
class NamedSet:
    """A public data set, as a layout of its own over one of the common ones.

    `class_names`: value in its labels -> class, None where every label is binary. `below`: folders
    of its archive in which the scans lie. `patient_from`: pattern of the patient in a scan's name.
    """

    key: str
    title: str
    layout: Layout
    licence: str
    citation: str
    class_names: Mapping[int, str] | None
    below: tuple[str, ...] = ()
    patient_from: str = ""
    seen: bool = False

    def recognises(self, source: Path) -> bool:
        """Never: another folder may look the same; a named set is asked for (`--layout`)."""
        del source
        return False

    def find(self, request: ImportRequest) -> Findings:
        """Find the scans as the common layout does, with what is known of this set."""
        folder = source_folder(request)
        for name in self.below:
            if (folder / name).is_dir():
                folder = folder / name
        findings = self.layout.find(dataclasses.replace(request, source=folder))
        names = self.class_names if self.class_names is not None else findings.class_names

        pattern = re.compile(self.patient_from) if self.patient_from else None
        scans = []
        for scan in findings.scans:
            match = pattern.match(scan.name) if pattern else None
            patient = match["patient"] if match else scan.patient
            scans.append(dataclasses.replace(scan, patient=patient))
        rules = (*findings.rules, *([f"patients by {self.patient_from}"] if pattern else []))
        return Findings(tuple(scans), findings.left_out, rules, names)


class _BhsdLayout:
    """Both forms in which BHSD is passed on: nnU-Net's folders, or images and ground truths."""

    def recognises(self, source: Path) -> bool:
        return NnunetLayout().recognises(source) or FoldersLayout().recognises(source)

    def find(self, request: ImportRequest) -> Findings:
        folder = source_folder(request)
        training = (folder / "imagesTr").is_dir()
        return NnunetLayout().find(request) if training else FoldersLayout().find(request)


NAMED_SETS = (
    NamedSet(
        "bhsd",
        "BHSD: Brain Hemorrhage Segmentation Dataset (192 labelled volumes)",
        _BhsdLayout(),
        "as its page says (its repository names MIT); the scans are RSNA's, of that challenge's "
        "terms",
        "Wu et al., BHSD: A 3D Multi-class Brain Hemorrhage Segmentation Dataset, MLMI 2023, "
        "doi 10.1007/978-3-031-45673-2_15",
        _FIVE_KINDS,
        ("label_192",),
        _RSNA_NAME.pattern,
    ),
    NamedSet(
        "mbh-seg",
        "MBH-Seg: Multi-class Brain Hemorrhage Segmentation challenge (several raters)",
        CaseFoldersLayout(),
        "as the challenge's page says; the scans are RSNA's, of that challenge's terms",
        "MBH-Seg challenge, mbh-seg.com; Wu et al., BHSD, MLMI 2023, "
        "doi 10.1007/978-3-031-45673-2_15",
        _FIVE_KINDS,
        (),
        _RSNA_NAME.pattern,
    ),
    NamedSet(
        "instance22",
        "INSTANCE 2022: intracranial hemorrhage segmentation (100 training scans)",
        FoldersLayout(),
        "as the challenge's signed agreement says; not to be passed on",
        "Li et al., The state-of-the-art 3D anisotropic intracranial hemorrhage segmentation on "
        "non-contrast head CT: The INSTANCE challenge, arXiv 2301.03281",
        {1: "hemorrhage"},
        ("train_2",),
    ),
    NamedSet(
        "ct-ich",
        "PhysioNet CT-ICH 1.3.1 (75 scans)",
        FoldersLayout(),
        "PhysioNet Restricted Health Data License 1.5.0",
        "Hssayeni et al., Intracranial Hemorrhage Segmentation Using A Deep Convolutional Model, "
        "Data 2020, 5(1), 14; doi 10.13026/4nae-zg36",
        None,
    ),
    NamedSet(
        "hemorica",
        "Hemorica (372 scans; file layout not published in print)",
        CaseFoldersLayout(),
        "as its page says",
        "Davoodi et al., Hemorica: A Comprehensive CT Scan Dataset for Automated Brain Hemorrhage "
        "Classification, Segmentation, and Detection, arXiv 2509.22993",
        None,
    ),
    NamedSet(
        "seg-cq500",
        "Seg-CQ500 (51 scans of CQ500)",
        CaseFoldersLayout(),
        "CC BY-NC-SA 4.0 (CQ500)",
        "Spahr et al., Frontiers in Neuroimaging 2023, doi 10.5281/zenodo.8063221; "
        "Chilamkurthy et al., The Lancet 2018",
        None,
        ("data", "volumes"),
    ),
)
