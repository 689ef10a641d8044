"""Write a data set in nnU-Net's format, with our splits, and let nnU-Net plan and preprocess it."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.config.schema import NnunetConfig
from hemseg_cli.core.cases import Case
from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass
from hemseg_cli.core.errors import CaseError, HemsegError
from hemseg_cli.core.files import write_text
from hemseg_cli.imaging.nifti import Volume, read_header, read_volume, write_volume
from hemseg_cli.imaging.orientation import to_canonical

DATASET_ID = 1
DATASET_NAME = "Dataset001_hemseg"


def dataset_json(classes: Sequence[LabelClass]) -> dict[str, Any]:
    """Return nnU-Net's description of the data set; its labels count from 1 without a gap.

    HemsegError where the classes' values do not: nnU-Net reads the label files as they are.
    """
    values = [each.value for each in classes]
    if values != list(range(1, len(values) + 1)):
        shown = ", ".join(f"{each.key}={each.value}" for each in classes)
        raise HemsegError(
            f"nnU-Net takes label values 1, 2, 3 ... without a gap; the data set has {shown}",
            hint="hemseg import SOURCE --classes KEY=1,KEY=2   gives them such values",
        )
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{each.key: each.value for each in classes}},
        "file_ending": ".nii.gz",
    }


@dataclass(frozen=True)
class Workspace:
    """Name nnU-Net's three folders below one of ours."""

    root: Path

    @property
    def raw(self) -> Path:
        """Images and labels under nnU-Net's names."""
        return self.root / "raw" / DATASET_NAME

    @property
    def preprocessed(self) -> Path:
        """Fingerprint, plans, splits and preprocessed arrays."""
        return self.root / "preprocessed" / DATASET_NAME

    @property
    def log(self) -> Path:
        """The log of what nnU-Net printed."""
        return self.root / "nnunet.log"

    def use(self, *, workers: int) -> None:
        """Set the environment variables in which nnU-Net looks for its folders."""
        for variable, name in (
            ("nnUNet_raw", "raw"),
            ("nnUNet_preprocessed", "preprocessed"),
            ("nnUNet_results", "results"),
        ):
            (self.root / name).mkdir(parents=True, exist_ok=True)
            os.environ[variable] = str(self.root / name)
        os.environ.update({"nnUNet_n_proc_DA": str(workers), "nnUNet_compile": "false"})


def write_dataset(
    workspace: Workspace,
    folder: Path,
    *,
    train: Sequence[Case],
    val: Sequence[Case],
    classes: Sequence[LabelClass] = HEMORRHAGE_ONLY,
) -> None:
    """Write raw images, labels, `dataset.json` and our split.

    Files that lie on L-P-S axes are linked, others written anew. `folder`: the data set's, which
    the cases' paths are relative to. Raises CaseError naming a case without image or label.
    """
    files = {
        case.scan: (f"imagesTr/{case.scan}_0000.nii.gz", f"labelsTr/{case.scan}.nii.gz")
        for case in (*train, *val)
    }
    for case in (*train, *val):
        for path, name in zip((case.image, case.label), files[case.scan], strict=True):
            if not path or not (folder / path).is_file():
                raise CaseError(
                    f"scan {case.scan}: {folder / (path or 'its image')} is missing",
                    hint="hemseg convert   writes it",
                )
            _link_or_write(folder / path, workspace.raw / name)
    # With the files named nnU-Net does not look for them with a pool of forked processes, which our
    # signal handlers would outlive.
    named = {scan: {"images": [image], "label": label} for scan, (image, label) in files.items()}
    dataset = {**dataset_json(classes), "numTraining": len(files), "dataset": named}
    splits = [{"train": [case.scan for case in train], "val": [case.scan for case in val]}]
    write_text(workspace.raw / "dataset.json", json.dumps(dataset, indent=2))
    write_text(workspace.preprocessed / "splits_final.json", json.dumps(splits, indent=2))


def plan_and_preprocess(
    workspace: Workspace, config: NnunetConfig, *, workers: int
) -> dict[str, Any]:
    """Run nnU-Net's fingerprint extraction, planner and preprocessing; returns the plans.

    What is done and unchanged is kept.
    """
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    done = (
        workspace.preprocessed
        / f"{config.plans}-{config.configuration}-{config.memory_gb or 'default'}.done"
    )
    planner_class, plans_name = _planner(config)
    if not done.is_file():
        extractor = DatasetFingerprintExtractor(DATASET_ID, workers)
        extractor.show_progress_bar = False
        extractor.run(overwrite_existing=True)
        memory = {} if config.memory_gb is None else {"gpu_memory_target_in_gb": config.memory_gb}
        planner_class(DATASET_ID, **memory).plan_experiment()
        shutil.copyfile(workspace.raw / "dataset.json", workspace.preprocessed / "dataset.json")
        preprocessor = DefaultPreprocessor(verbose=False)
        preprocessor.show_progress_bar = False
        preprocessor.run(DATASET_ID, config.configuration, plans_name, num_processes=workers)
        write_text(done, "")
    plans: dict[str, Any] = json.loads((workspace.preprocessed / f"{plans_name}.json").read_text())
    return plans


def _planner(config: NnunetConfig) -> tuple[Any, str]:
    if config.plans == "default":
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
            ExperimentPlanner,
        )

        return ExperimentPlanner, "nnUNetPlans"
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
        residual_encoder_unet_planners as residual,
    )

    if config.plans == "resenc-m":
        return residual.nnUNetPlannerResEncM, "nnUNetResEncUNetMPlans"
    return residual.nnUNetPlannerResEncL, "nnUNetResEncUNetLPlans"


def _link_or_write(source: Path, target: Path) -> None:
    import nibabel as nib

    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    _, affine = read_header(source)
    if source.name.endswith(".nii.gz") and nib.aff2axcodes(affine) == ("L", "P", "S"):
        target.symlink_to(source.resolve())
        return
    canonical, _ = to_canonical(read_volume(source))
    to_lps = affine * 0
    to_lps[[0, 1, 2, 3], [0, 1, 2, 3]] = [-1, -1, 1, 1]
    to_lps[:2, 3] = [canonical.array.shape[0] - 1, canonical.array.shape[1] - 1]
    write_volume(target, Volume(canonical.array[::-1, ::-1], canonical.affine @ to_lps))
