import csv
import gzip
import itertools
import json
import os
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from hemseg_cli.app import run as run_cli
from hemseg_cli.config import dump
from hemseg_cli.config.schema import ComputeConfig, PredictConfig
from hemseg_cli.core import console
from hemseg_cli.core.cases import Case, write_cases
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.inference.outputs import OutputFolder
from hemseg_cli.inference.predict import predict
from hemseg_cli.inference.predictor import Predictor
from hemseg_cli.models.checkpoint import read_checkpoint, write_checkpoint
from tests.inference.small_model import bright_box, config_in, make_run, scan, truth
from tests.sidecars import sidecar_of
from tests.torchrun import run_two

QUIET = PredictConfig(previews=False)


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def _inputs(folder: Path, count: int) -> Path:
    for number in range(count):
        write_volume(folder / "in" / f"s{number}.nii.gz", scan(seed=number))
    return folder / "in"


def _write_sidecar(path: Path, volume: Volume, *, voxel_volume_mm3: float) -> None:
    sidecar = sidecar_of(volume, voxel_volume_mm3=voxel_volume_mm3)
    path.write_text(json.dumps(sidecar.to_dict()))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, as the current one."""
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_split_is_predicted_without_any_label(work: Path) -> None:
    tilted = np.array([[-0.5, 0, 0, 0], [0, -0.45, 1.5, 0], [0, -0.2179, 5, 0], [0, 0, 0, 1]])
    volume = scan(affine=tilted)
    write_volume(work / "data/hemseg-200/test/image/a.nii.gz", volume)
    (work / "data/hemseg-200/test/label").mkdir()
    (work / "data/hemseg-200/test/label/a.nii.gz").write_bytes(b"not to be read")
    write_cases(
        work / "data/hemseg-200/cases.csv",
        [
            Case(
                "a",
                split="test",
                label="test/label/a.nii.gz",
                image="test/image/a.nii.gz",
                voxel_volume_mm3=1.25,
            ),
            Case("gone", split="test"),
            Case("b", split="val"),
        ],
    )
    result = predict(config_in(work))
    folder = work / "runs/run/predictions/test"
    assert "does not exist" in result.failures["gone"]
    np.testing.assert_array_equal(read_volume(folder / "a.nii.gz").array, truth(volume.array.shape))
    (row,) = csv.DictReader((folder / "volumes.csv").read_text().splitlines())
    assert float(row["predicted_ml"]) == pytest.approx(
        truth(volume.array.shape).sum() * 1.25 / 1000, rel=1e-3
    )
    assert (folder / "preview/a.png").read_bytes()[:4] == b"\x89PNG"


def test_another_data_set_has_predictions_of_its_own(work: Path) -> None:
    """Scans of two data sets may have one id: neither's masks are taken for the other's."""
    for name, seed in (("hemseg-200", 0), ("other", 1)):
        write_volume(work / f"data/{name}/test/image/a.nii.gz", scan(seed=seed))
        case = Case("a", split="test", image="test/image/a.nii.gz")
        write_cases(work / f"data/{name}/cases.csv", [case])

    (work / "runs/run/config.toml").write_text(
        f"[data]\nroot = '{work / 'data'}'\ndataset = 'hemseg-200'\n"
    )
    own = config_in(work, predict=QUIET)
    stated = own.data.model_copy(update={"dataset": "other"})
    stated.model_fields_set.add("dataset")
    predict(own)
    result = predict(own.model_copy(update={"data": stated}))
    assert (result.trained_on, result.data_set) == ("hemseg-200", "other")
    assert result.folder == work / "runs/run/predictions/external/other/test"
    assert (work / "runs/run/predictions/test/a.nii.gz").is_file()


@pytest.mark.parametrize("known", [False, True])
def test_oblique_input_is_measured_by_its_header_unless_a_sidecar_knows_better(
    work: Path, known: bool
) -> None:
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    affine = np.array(
        [[0.5, 0, 0, 0], [0, 0.5 * c, -5 * s, 0], [0, 0.5 * s, 5 * c, 0], [0, 0, 0, 1]]
    )
    volume = scan(affine=affine)
    write_volume(work / "in/t.nii.gz", volume)
    if known:
        _write_sidecar(work / "in/t.json", volume, voxel_volume_mm3=0.5 * 0.5 * 5 * c)
    result = predict(config_in(work, predict=QUIET), inputs=[work / "in"])
    (row,) = result.predicted
    by_hand_ml = truth((24, 20, 6)).sum() * 0.5 * 0.5 * 5 * (c if known else 1.0) / 1000
    assert row.predicted_ml == pytest.approx(by_hand_ml, rel=1e-3)
    told = [warning for warning in result.warnings["t"] if "without shear" in warning]
    assert bool(told) != known
    assert known or "1.25 mm3" in told[0]


def test_every_orientation_comes_back_on_its_own_grid(work: Path) -> None:
    base = scan((18, 14, 6))
    image = nib.Nifti1Image(base.array, base.affine)
    for number, (axes, flips) in enumerate(
        itertools.product(itertools.permutations(range(3)), itertools.product([1, -1], repeat=3))
    ):
        turned = image.as_reoriented(np.column_stack([axes, flips]))
        write_volume(
            work / f"in/o{number}.nii.gz", Volume(np.asarray(turned.dataobj), turned.affine)
        )
    result = predict(config_in(work, predict=QUIET), inputs=[work / "in"], out=work / "out")
    assert len(result.predicted) == 48
    for number in range(48):
        mask, source = (
            nib.load(work / f"out/o{number}_mask.nii.gz"),
            nib.load(work / f"in/o{number}.nii.gz"),
        )
        assert mask.shape == source.shape
        np.testing.assert_allclose(mask.affine, source.affine, atol=1e-6)
        np.testing.assert_array_equal(
            np.asarray(nib.as_closest_canonical(mask).dataobj), truth((18, 14, 6))
        )


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 3), (0, 0)])
def test_header_states_the_place_as_the_input_does(work: Path, sform: int, qform: int) -> None:
    volume = scan(affine=np.diag([-3.0, 3.0, 5.0, 1.0]))
    image = nib.Nifti1Image(volume.array, volume.affine)
    image.set_sform(volume.affine if sform else None, sform)
    image.set_qform(volume.affine if qform else None, qform)
    (work / "in").mkdir()
    nib.save(image, work / "in/h.nii")
    predict(config_in(work, predict=QUIET), inputs=[work / "in/h.nii"], out=work / "out")
    ours, source = nib.load(work / "out/h_mask.nii.gz"), nib.load(work / "in/h.nii")
    assert (ours.header["sform_code"], ours.header["qform_code"]) == (sform, qform)
    np.testing.assert_array_equal(ours.affine, source.affine)
    itk, itk_source = (
        sitk.ReadImage(str(work / "out/h_mask.nii.gz")),
        sitk.ReadImage(str(work / "in/h.nii")),
    )
    assert (itk.GetOrigin(), itk.GetSpacing(), itk.GetDirection()) == (
        itk_source.GetOrigin(),
        itk_source.GetSpacing(),
        itk_source.GetDirection(),
    )
    assert ours.get_data_dtype() == np.uint8


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((20, 20, 1), (5, 5, 5)), ((12, 12, 300), (9, 9, 0.6)), ((40, 36, 9), (0.3, 0.4, 10))],
)
def test_any_spacing_and_depth_keeps_the_grid(
    work: Path, shape: tuple[int, int, int], spacing: tuple[float, ...]
) -> None:
    make_run(work, spacing_mm=(2.0, 2.0, 4.0))
    write_volume(work / "in/x.nii.gz", scan(shape, np.diag([*spacing, 1.0])))
    result = predict(config_in(work, predict=QUIET), inputs=[work / "in"], out=work / "out")
    mask = read_volume(work / "out/x_mask.nii.gz")
    assert not result.failed
    assert mask.array.shape == shape
    np.testing.assert_allclose(mask.affine, np.diag([*spacing, 1.0]), atol=1e-6)
    middle = tuple(
        (part.indices(n)[0] + part.indices(n)[1] - 1) // 2
        for part, n in zip(bright_box(shape), shape, strict=True)
    )
    assert mask.array[middle] == 1


def test_each_bad_input_is_named_and_the_others_are_done(work: Path) -> None:
    folder = _inputs(work, 1)
    good, affine = scan(), np.diag([5.0, 5.0, 5.0, 1.0])
    (folder / "text.nii.gz").write_text("no image")
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8, 3), np.int16), affine), folder / "four.nii.gz")
    colour = np.zeros((8, 8, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, affine), folder / "rgb.nii.gz")
    write_volume(folder / "nan.nii.gz", Volume(np.full((8, 8, 8), np.nan, np.float32), affine))
    write_volume(folder / "air.nii.gz", Volume(np.full((8, 8, 8), -1000, np.int16), affine))
    whole = (folder / "s0.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    some = good.array.astype(np.float32)
    some[0, 0, :] = np.nan
    write_volume(folder / "some.nii.gz", Volume(some, affine))
    result = predict(
        config_in(work, predict=QUIET), inputs=[folder, work / "nowhere.nii"], out=work / "out"
    )
    errors = result.failures
    assert set(errors) == {"text", "four", "rgb", "nan", "air", "cut", "nowhere"}
    for name, words in [
        ("text", "a text file"),
        ("four", "dimensions"),
        ("rgb", "colour"),
        ("nan", "not numbers"),
        ("air", "but air"),
    ]:
        assert words in errors[name]
    assert {row.scan for row in result.predicted} == {"s0", "some"}
    assert any("6 voxels are not numbers" in warning for warning in result.warnings["some"])
    np.testing.assert_array_equal(
        read_volume(work / "out/some_mask.nii.gz").array, truth(good.array.shape)
    )


def test_a_gzip_bomb_costs_no_more_memory_than_an_honest_file(work: Path) -> None:
    folder = _inputs(work, 1)
    zeros = gzip.compress(bytes(2**20)) * 4000  # members of one stream: 4 GB from 4 MB
    huge = nib.Nifti1Header()
    huge.set_data_shape((1600, 1600, 1600))
    huge.set_data_dtype(np.uint8)
    huge.set_data_offset(352)
    (folder / "huge.nii.gz").write_bytes(gzip.compress(huge.binaryblock + bytes(4)) + zeros)
    (folder / "zeros.nii.gz").write_bytes(zeros)
    (folder / "appended.nii.gz").write_bytes((folder / "s0.nii.gz").read_bytes() + zeros)
    predict(config_in(work, predict=QUIET), inputs=[folder / "s0.nii.gz"], out=work / "out")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = predict(config_in(work, predict=QUIET), inputs=[folder], out=work / "out")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB
    assert set(result.failures) == {"huge", "zeros"}
    assert (
        "would unpack to 4,096,000,352 bytes: (1600, 1600, 1600) is larger than any head CT"
        in result.failures["huge"]
    )
    assert "a gzip file of no image" in result.failures["zeros"]
    np.testing.assert_array_equal(
        read_volume(work / "out/appended_mask.nii.gz").array, truth((24, 20, 6))
    )


def test_a_scan_that_memory_does_not_take_is_named_and_the_others_are_done(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _inputs(work, 1)
    write_volume(folder / "large.nii.gz", scan((120, 120, 60)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * 2**20))
    result = predict(
        config_in(work, predict=QUIET, compute=ComputeConfig(memory_mb=256)),
        inputs=[folder],
        out=work / "out",
    )
    assert "a scan of (120, 120, 60) voxels takes 0.0 GB of memory" in result.failures["large"]
    assert [row.scan for row in result.predicted] == ["s0"]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**20))
    failures = predict(
        config_in(work, predict=QUIET, compute=ComputeConfig(memory_mb=256)),
        inputs=[folder / "large.nii.gz"],
    ).failures
    assert (
        "would unpack to 1,728,352 bytes, and 1,048,576 bytes of memory are free"
        in failures["large"]
    )


def test_an_offset_of_1024_is_recognised_and_taken_off(work: Path) -> None:
    plain = scan()
    write_volume(
        work / "in/o.nii.gz", Volume((plain.array + 1024).clip(0).astype(np.uint16), plain.affine)
    )
    result = predict(config_in(work, predict=QUIET), inputs=[work / "in"], out=work / "out")
    assert any("1024 too high" in warning for warning in result.warnings["o"])
    np.testing.assert_array_equal(
        read_volume(work / "out/o_mask.nii.gz").array, truth(plain.array.shape)
    )


def test_a_scan_without_a_head_is_predicted_with_a_warning(work: Path) -> None:
    result = predict(config_in(work, predict=QUIET), inputs=[_inputs(work, 1)], out=work / "out")
    assert any("no head" in warning for warning in result.warnings["s0"])
    assert len(result.predicted) == 1


def test_inputs_are_never_overwritten(work: Path) -> None:
    folder = _inputs(work, 1)
    write_volume(folder / "s0_mask.nii.gz", scan(seed=5))
    before = {name: (folder / name).read_bytes() for name in ("s0.nii.gz", "s0_mask.nii.gz")}
    result = predict(
        config_in(work, predict=QUIET),
        inputs=[folder / "s0.nii.gz", folder / "s0_mask.nii.gz"],
        out=folder,
    )
    assert "is an input" in result.failures["s0"]
    assert {name: (folder / name).read_bytes() for name in before} == before
    again = predict(config_in(work, predict=QUIET), inputs=[folder / "s0.nii.gz"], out=folder)
    assert "not made by hemseg" in again.failures["s0"]


def test_output_folder_that_is_the_input_folder_is_left_to_inputs(work: Path) -> None:
    folder = _inputs(work, 2)
    first = predict(config_in(work, predict=QUIET), inputs=[folder], out=folder)
    second = predict(config_in(work, predict=QUIET), inputs=[folder], out=folder)
    assert len(first.predicted) == 2
    assert second.predicted == []
    assert second.already_done == ["s0", "s1"]


def test_two_inputs_of_one_name_get_their_folders_names(work: Path) -> None:
    write_volume(work / "a/x.nii.gz", scan(seed=1))
    write_volume(work / "b/x.nii.gz", scan(seed=2))
    predict(
        config_in(work, predict=QUIET),
        inputs=[work / "a", work / "b", work / "a/x.nii.gz"],
        out=work / "out",
    )
    assert {path.name for path in (work / "out").glob("*.nii.gz")} == {
        "a_x_mask.nii.gz",
        "b_x_mask.nii.gz",
    }
    predict(config_in(work, predict=QUIET), inputs=[work / "a"], out=work / "other")
    clash = predict(config_in(work, predict=QUIET), inputs=[work / "b"], out=work / "other")
    assert "is the mask of" in clash.failures["x"]


def test_second_call_does_only_what_is_missing_and_the_table_stays_whole(work: Path) -> None:
    folder, config = _inputs(work, 3), config_in(work, predict=QUIET)
    predict(config, inputs=[folder], out=work / "out")
    table, times = (
        (work / "out/volumes.csv").read_text(),
        (work / "out/s0_mask.nii.gz").stat().st_mtime_ns,
    )
    (work / "out/s1_mask.nii.gz").unlink()
    (work / "out/volumes.csv").unlink()
    result = predict(config, inputs=[folder], out=work / "out")
    assert [row.scan for row in result.predicted] == ["s1"]
    assert (work / "out/volumes.csv").read_text() == table
    assert (work / "out/s0_mask.nii.gz").stat().st_mtime_ns == times
    write_volume(folder / "s2.nii.gz", scan((20, 20, 8)))
    assert [row.scan for row in predict(config, inputs=[folder], out=work / "out").predicted] == [
        "s2"
    ]
    assert len(predict(config, inputs=[folder], out=work / "out", force=True).predicted) == 3


def test_killed_and_started_again_gives_the_same_outputs(work: Path) -> None:
    folder, config = _inputs(work, 5), config_in(work)
    predict(config, inputs=[folder], out=work / "whole")
    child = os.fork()
    if child == 0:
        predict(config, inputs=[folder], out=work / "killed")
        os._exit(0)
    while not list((work / "killed").glob("*_mask.nii.gz")) and os.waitpid(child, os.WNOHANG) == (
        0,
        0,
    ):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    predict(config, inputs=[folder], out=work / "killed")
    assert _files(work / "killed") == _files(work / "whole")
    for name in sorted(_files(work / "whole")):
        if not name.startswith(".cases"):
            assert (work / "killed" / name).read_bytes() == (work / "whole" / name).read_bytes(), (
                name
            )


def test_ensemble_is_the_mean_of_probabilities_across_spacings(work: Path) -> None:
    make_run(work, "second", spacing_mm=(4.0, 4.0, 5.0), shift=0.3)
    folder = _inputs(work, 1)
    config = config_in(work, predict=PredictConfig(previews=False, save_probabilities=True))
    single = {}
    for name in ("run", "second"):
        predict(config, runs=[name], inputs=[folder], out=work / name)
        single[name] = np.asarray(
            nib.load(work / name / "probability/s0_probability.nii.gz").dataobj
        )
    predict(config, runs=["run", "second"], inputs=[folder], out=work / "both")
    both = np.asarray(nib.load(work / "both/probability/s0_probability.nii.gz").dataobj)
    np.testing.assert_allclose(both, (single["run"] + single["second"]) / 2, atol=2 / 255)
    assert np.ptp(both) > 0.5


def test_run_with_folds_is_an_ensemble(work: Path) -> None:
    for number in range(2):
        make_run(work, f"cv/fold{number}", shift=0.3 * number)
    config = config_in(work, predict=PredictConfig(previews=False, save_probabilities=True))
    predict(config, runs=["cv"], inputs=[_inputs(work, 1)], out=work / "out")
    inside = np.asarray(nib.load(work / "out/probability/s0_probability.nii.gz").dataobj)[
        bright_box((24, 20, 6))
    ]
    expected = np.mean([1 / (1 + np.exp(-8 * (0.75 - 0.5 - shift))) for shift in (0.0, 0.3)])
    np.testing.assert_allclose(inside, expected, atol=1 / 255)


def test_ensemble_on_a_split_is_a_run_of_its_own(work: Path) -> None:
    make_run(work, "second")
    write_volume(work / "data/hemseg-200/test/image/a.nii.gz", scan())
    write_cases(work / "data/hemseg-200/cases.csv", [Case("a", split="test")])
    result = predict(config_in(work, predict=QUIET), runs=["run", "second"])
    assert (work / "runs" / result.run / "predictions/test/a.nii.gz").is_file()
    assert not (work / "runs/run/predictions").exists()


def test_name_of_a_cross_validation_is_the_ensemble_of_its_folds(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        make_run(work, f"cv-fold{number}", shift=0.2 * number)
        (work / f"runs/cv-fold{number}/config.toml").write_text(
            f"[train]\nfolds = 3\nfold = {number}\n"
        )
    volume = scan()
    write_volume(work / "data/hemseg-200/test/image/a.nii.gz", volume)
    write_volume(
        work / "data/hemseg-200/test/label/a.nii.gz",
        Volume(truth(volume.array.shape).astype(np.uint8), volume.affine),
    )
    write_cases(
        work / "data/hemseg-200/cases.csv",
        [Case("a", split="test", label="test/label/a.nii.gz", image="test/image/a.nii.gz")],
    )
    assert run_cli(["predict", "--run", "cv", "--save-probabilities", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "cv-ensemble"
    inside = np.asarray(
        nib.load(
            work / "runs/cv-ensemble/predictions/test/probability/a_probability.nii.gz"
        ).dataobj
    )
    expected = np.mean([1 / (1 + np.exp(-8 * (0.75 - 0.5 - shift))) for shift in (0.0, 0.2, 0.4)])
    np.testing.assert_allclose(inside[bright_box((24, 20, 6))], expected, atol=1 / 255)
    assert run_cli(["evaluate", "--run", "cv-ensemble", "--json", "--quiet"]) == 0
    capsys.readouterr()
    assert run_cli(["report", "cv-ensemble", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == ["cv-ensemble"]
    assert (
        run_cli(["predict", "--run", "cv-ensemble", "--save-probabilities", "--json", "--quiet"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["already_done"] == ["a"]
    assert "a,,test,1.0," in (work / "runs/cv-ensemble/evaluation/test/cases.csv").read_text()
    console.configure()


def test_fold_that_is_not_trained_is_named(work: Path) -> None:
    for number in (0, 2):
        make_run(work, f"cv-fold{number}")
    with pytest.raises(HemsegError, match="3 folds, and fold 1 is not trained") as caught:
        predict(config_in(work, predict=QUIET), runs=["cv"], inputs=[_inputs(work, 1)])
    assert "--fold all --folds 3 --resume --run cv " in caught.value.hint
    make_run(work, "cv-fold1")
    (work / "runs/cv-fold1/checkpoints/best.pt").unlink()
    with pytest.raises(HemsegError, match=r"cv-fold1 has no checkpoint best\.pt"):
        predict(config_in(work, predict=QUIET), runs=["cv"], inputs=[work / "in"])


def test_parts_and_ranks_share_the_scans_out(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, config = _inputs(work, 5), config_in(work, predict=QUIET)
    first = predict(config, inputs=[folder], out=work / "out", part="1/2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    others = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        others.append(
            [
                row.scan
                for row in predict(config, inputs=[folder], out=work / "out", part="2/2").predicted
            ]
        )
    assert [row.scan for row in first.predicted] == ["s0", "s2", "s4"]
    assert others == [["s1"], ["s3"]]
    assert len((work / "out/volumes.csv").read_text().splitlines()) == 6
    with pytest.raises(UsageError, match="K/N"):
        predict(config, inputs=[folder], part="3/2")


def test_two_processes_of_torchrun_predict_what_one_does(work: Path) -> None:
    folder, config = _inputs(work, 3), config_in(work, predict=QUIET)
    predict(config, inputs=[folder], out=work / "one")
    (work / "hemseg.toml").write_text(dump(config))
    run_two(
        "predict",
        str(folder),
        "--config",
        str(work / "hemseg.toml"),
        "--run",
        "run",
        "--out",
        str(work / "two"),
    )
    for name in ("s0_mask.nii.gz", "s1_mask.nii.gz", "s2_mask.nii.gz", "volumes.csv"):
        assert (work / "one" / name).read_bytes() == (work / "two" / name).read_bytes()


def test_worker_processes_give_the_same_masks(work: Path) -> None:
    folder = _inputs(work, 2)
    predict(config_in(work, predict=QUIET), inputs=[folder], out=work / "one")
    predict(
        config_in(work, predict=QUIET, compute=ComputeConfig(workers=2)),
        inputs=[folder],
        out=work / "two",
    )
    for name in ("s0_mask.nii.gz", "s1_mask.nii.gz", "volumes.csv"):
        assert (work / "one" / name).read_bytes() == (work / "two" / name).read_bytes()


def test_user_settings_win_over_those_of_the_run(work: Path) -> None:
    config = config_in(work, predict=PredictConfig(previews=False, threshold=0.95))
    (row,) = predict(config, inputs=[_inputs(work, 1)], out=work / "out").predicted
    assert row.predicted_ml == 0
    large = config_in(work, predict=PredictConfig(previews=False, min_component_ml=1000.0))
    assert predict(large, inputs=[work / "in"], out=work / "out2").predicted[0].lesions == 0


def test_too_little_memory_means_smaller_windows_and_is_said(work: Path) -> None:
    path = work / "runs/run/checkpoints/best.pt"
    write_checkpoint(path, {**read_checkpoint(path), "patch": [512, 512, 64]})
    config = config_in(work, predict=QUIET, compute=ComputeConfig(memory_mb=256))
    result = predict(config, inputs=[_inputs(work, 1)], out=work / "out")
    assert any(
        "windows smaller than its training patch" in warning for warning in result.warnings["s0"]
    )
    np.testing.assert_array_equal(
        read_volume(work / "out/s0_mask.nii.gz").array, truth((24, 20, 6))
    )


def test_run_without_checkpoint_says_what_to_type(work: Path) -> None:
    (work / "runs/empty").mkdir()
    with pytest.raises(HemsegError, match=r"no checkpoint best\.pt") as caught:
        predict(config_in(work), runs=["empty"], inputs=[_inputs(work, 1)])
    assert "hemseg train" in caught.value.hint
    with pytest.raises(HemsegError, match="no run nowhere"):
        predict(config_in(work), runs=["nowhere"])


def test_folder_without_images_is_a_usage_error(work: Path) -> None:
    (work / "bare").mkdir()
    with pytest.raises(UsageError, match="holds no"):
        predict(config_in(work), inputs=[work / "bare"])


def test_record_names_the_input(work: Path) -> None:
    predict(config_in(work, predict=QUIET), inputs=[_inputs(work, 1)], out=work / "out")
    record = json.loads(OutputFolder(work / "out", "_mask").record("s0").read_text())
    assert record["source"]["path"] == "../in/s0.nii.gz"


def test_mirrored_copies_are_those_of_the_axes_that_training_mirrored(work: Path) -> None:
    checkpoint = make_run(work, "left-right")
    write_checkpoint(checkpoint, {**read_checkpoint(checkpoint), "mirrored": [0]})
    plain = make_run(work, "plain")
    write_checkpoint(plain, {**read_checkpoint(plain), "mirrored": []})
    for path, calls_expected in ((checkpoint, 2), (plain, 1)):
        predictor = Predictor.load([path], PredictConfig(tta=True), device="cpu")
        calls: list[int] = []
        network = predictor.networks[0].network  # type: ignore[attr-defined]  # one of ours
        network.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        predictor.infer(scan((16, 16, 4)))
        assert len(calls) == calls_expected
