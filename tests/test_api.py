"""The Python API: typed, lazy, silent, and with the commands' own results."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import hemseg_cli as hemseg
from hemseg_cli.app import run
from tests.inference.small_model import make_run, scan


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run of a small network and one scan, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path)
    drawn = scan()
    nib.save(nib.Nifti1Image(drawn.array.astype(np.int16), drawn.affine), tmp_path / "scan.nii.gz")
    return tmp_path


def test_model_gives_the_mask_of_the_command(place: Path) -> None:
    assert run(["predict", "scan.nii.gz", "--run", "runs/run", "--out", "out", "--quiet"]) == 0
    command = nib.load(place / "out" / "scan_mask.nii.gz")

    model = hemseg.Model.load("runs/run")
    image = nib.load(place / "scan.nii.gz")
    array = np.asarray(image.dataobj)
    found = [
        model.segment("scan.nii.gz"),
        model.segment(image),
        model.segment(sitk.ReadImage("scan.nii.gz")),
        model.segment(array, affine=image.affine),
    ]
    for one in found:
        assert np.array_equal(one.mask, np.asarray(command.dataobj))
        assert np.allclose(one.affine, command.affine, atol=1e-4)
        assert one.probability.shape == one.mask.shape
        voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
        assert one.volume_ml == pytest.approx(one.mask.sum() * voxel_ml, abs=1e-3)


def test_what_cannot_be_segmented_is_an_error_with_its_reason(place: Path) -> None:
    model = hemseg.Model.load("runs/run")
    (place / "text.nii").write_text("no image")
    with pytest.raises(hemseg.HemsegError, match=r"text\.nii"):
        model.segment("text.nii")
    with pytest.raises(hemseg.HemsegError, match="affine"):
        model.segment(np.zeros((4, 4, 4)))
    with pytest.raises(hemseg.HemsegError, match="nowhere"):
        hemseg.Model.load("nowhere")


def test_nothing_is_printed(place: Path) -> None:
    code = "import hemseg_cli as h; h.Model.load('runs/run').segment('scan.nii.gz')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=place
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, hemseg_cli; dir(hemseg_cli); "
        "print({'torch', 'monai', 'pandas', 'numpy', 'SimpleITK', 'scipy', 'typer', 'pydantic'} "
        "& set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_name_of_the_api_can_be_loaded_and_has_an_example() -> None:
    for name in hemseg.__all__:
        assert getattr(hemseg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'segmant'"):
        hemseg.segmant  # noqa: B018


def test_metrics_have_the_values_of_a_hand_calculation() -> None:
    a = np.zeros((6, 6, 6), bool)
    a[1:3, 1:3, 1:3] = True
    b = np.roll(a, 1, axis=2)
    assert hemseg.dice(a, b) == pytest.approx(0.5)
    assert hemseg.iou(a, b) == pytest.approx(1 / 3)
    assert hemseg.hd95_mm(a, b, spacing_mm=(1, 1, 5)) == pytest.approx(5.0)
    assert hemseg.nsd(a, a, spacing_mm=(1, 1, 5), tolerance_mm=2) == 1.0


def test_settings_and_config_give_the_commands_config(place: Path) -> None:
    (place / "hemseg.toml").write_text("[train]\nepochs = 7\n")
    assert hemseg.load_config().train.epochs == 7
    assert hemseg.load_config(settings={"train.epochs": 3}).train.epochs == 3
    with pytest.raises(hemseg.HemsegError, match=r"train\.epohs"):
        hemseg.load_config(settings={"train.epohs": 3})


def test_a_users_type_checker_sees_types(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import hemseg_cli as hemseg\n"
        "reveal_type(hemseg.Model.load('x').segment('scan.nii.gz').volume_ml)\n"
        "hemseg.Model.load(3)\n"
    )
    checker = pytest.importorskip("mypy.api")
    out, _, status = checker.run([str(script), "--cache-dir", str(tmp_path / "cache")])
    assert 'Revealed type is "float"' in out or 'Revealed type is "builtins.float"' in out
    assert 'has incompatible type "int"' in out
    assert status == 1
