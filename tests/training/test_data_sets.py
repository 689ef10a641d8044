import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hemseg_cli.config import Config
from hemseg_cli.core.cases import read_cases, write_cases
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.imaging.nifti import read_volume
from hemseg_cli.inference.predictor import Predictor
from hemseg_cli.training.class_channels import UNKNOWN, ClassChannels
from hemseg_cli.training.data_sets import check_contamination, data_set_cases, run_classes
from hemseg_cli.training.train import train
from tests.training.class_scans import class_data, draw_scan
from tests.training.scans import AFFINE, config_for
from tests.training.test_classes import NETWORK


def _config(root: Path, *assignments: str) -> Config:
    return config_for(
        root / "data",
        f"runs.root='{root / 'runs'}'",
        *NETWORK,
        "train.epochs=8",
        "train.validation_every=100",
        "train.choose=none",
        *assignments,
    )


def _dice_by_class(config: Config, run: str) -> dict[str, float]:
    """The mean Dice of each class on new scans with all of the drawn kinds."""
    from hemseg_cli.imaging.nifti import Volume
    from hemseg_cli.imaging.orientation import to_canonical

    best = config.runs.root / run / "checkpoints" / "best.pt"
    predictor = Predictor.load([best], config.predict, device="cpu")
    scores: dict[str, list[float]] = {}
    for seed in (900, 901):
        image, label = draw_scan(["IPH", "SDH"], seed=seed)
        found = predictor.infer(to_canonical(Volume(image, AFFINE))[0]).probability.full()
        truth = to_canonical(Volume(label, AFFINE))[0].array
        for channel, each in enumerate(predictor.classes):
            a, b = found[channel] >= 0.5, truth == each.value
            scores.setdefault(each.key, []).append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return {key: float(np.mean(values)) for key, values in scores.items()}


def _partial_data(root: Path) -> Config:
    # Both data sets have both kinds in their scans; each labels one of them.
    class_data(root, "one", drawn=["IPH", "SDH"], labelled=["IPH"], train=6, seed=0)
    class_data(root, "two", drawn=["IPH", "SDH"], labelled=["SDH"], train=3, seed=100)
    return _config(root, "data.train_on=['one', 'two']", "data.dataset=one")


def test_partial_labels_teach_each_class_from_the_data_set_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Patches from anywhere: twice as many scans without a label of SDH as with one.
    _partial_data(tmp_path)
    config = _config(
        tmp_path,
        "data.train_on=['one', 'two']",
        "data.dataset=one",
        "train.foreground_share=0",
        "train.loss.dice=0",
    )
    assert [each.key for each in run_classes(config)] == ["IPH", "SDH"]
    train(config, run="masked")
    masked = _dice_by_class(config, "masked")
    assert min(masked.values()) > 0.7

    # Without the mask, a class is background wherever its data set does not label it.
    def split(self: ClassChannels, label: torch.Tensor) -> torch.Tensor:
        channels = [
            torch.isin(label[0], torch.tensor(values or (-5,), dtype=label.dtype)).float()
            for values in self.values
        ]
        return torch.stack(channels)

    monkeypatch.setattr(ClassChannels, "split", split)
    monkeypatch.setattr(ClassChannels, "known", property(lambda self: (True,) * len(self.values)))
    train(config, run="unmasked")
    unmasked = _dice_by_class(config, "unmasked")
    assert unmasked["SDH"] < masked["SDH"] - 0.2


def test_unlabelled_classes_are_unknown_in_the_channels() -> None:
    channels = ClassChannels(((2,), None)).split(torch.tensor([[[[0.0, 2.0]]]]))
    assert channels[1].unique().tolist() == [UNKNOWN]


def test_values_that_two_data_sets_share_are_told_apart(tmp_path: Path) -> None:
    config = _partial_data(tmp_path)
    file = tmp_path / "data" / "two" / "classes.toml"
    file.write_text(file.read_text().replace("value = 5", "value = 2"))
    assert [(each.value, each.key) for each in run_classes(config)] == [(1, "SDH"), (2, "IPH")]


@pytest.mark.parametrize("renamed", [False, True])
def test_a_test_scan_of_another_data_set_is_not_trained_on(tmp_path: Path, renamed: bool) -> None:
    config = _partial_data(tmp_path)
    # A train scan of the first is a test scan of the second, under its own name or another.
    one, two = tmp_path / "data" / "one", tmp_path / "data" / "two"
    cases = read_cases(two / "cases.csv")
    source = next(case for case in read_cases(one / "cases.csv") if case.split == "train")
    scan = "other" if renamed else source.scan
    image = f"test/image/{scan}.nii.gz"
    (two / image).parent.mkdir(parents=True)
    shutil.copy(one / source.image, two / image)
    cases.append(type(source)(scan, split="test", image=image, label=cases[0].label))
    write_cases(two / "cases.csv", cases)
    assert read_volume(two / image).array.shape == (32, 32, 8)

    with pytest.raises(HemsegError, match=f"1 test scans would be trained on: {scan} of two"):
        check_contamination(config, data_set_cases(config))
    allowed = _config(tmp_path, "data.train_on=['one', 'two']", "data.allow_contamination=true")
    check_contamination(allowed, data_set_cases(allowed))


@pytest.mark.parametrize(("patient", "refused"), [("ID_0f1e2d3c", True), ("7", False)])
def test_another_scan_of_a_trained_rsna_patient_is_no_test_scan(
    tmp_path: Path, patient: str, refused: bool
) -> None:
    config = _partial_data(tmp_path)
    one, two = tmp_path / "data" / "one", tmp_path / "data" / "two"
    mine, other = read_cases(one / "cases.csv"), read_cases(two / "cases.csv")
    write_cases(one / "cases.csv", [replace(mine[0], patient=patient), *mine[1:]])
    # One of the second set's own scans becomes a test scan of that patient; no pixel is shared.
    tested = replace(other[-1], split="test", patient=patient)
    write_cases(two / "cases.csv", [*other[:-1], tested])
    if refused:
        with pytest.raises(HemsegError, match=f"1 test scans would be trained on: {tested.scan}"):
            check_contamination(config, data_set_cases(config))
    else:
        check_contamination(config, data_set_cases(config))
