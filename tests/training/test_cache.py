import contextlib
import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hemseg_cli.core import console
from hemseg_cli.core.cases import Case
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.imaging.preprocess import prepare_image, prepare_label
from hemseg_cli.training.cache import PreparedCase, prepared_cases, preprocess_of
from tests.training.scans import AFFINE, ball_scan, config_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tiny"


def _prepared(root: Path, cases: list[Case], *assignments: str) -> list[PreparedCase]:
    config = config_for(root, *assignments)
    return prepared_cases(config, cases, preprocess_of(config.train))


def test_the_cache_holds_what_preprocessing_gives(tmp_path, folder):
    cases = [ball_scan(folder, "b", seed=1), ball_scan(folder, "a", seed=2)]
    config = config_for(
        tmp_path,
        "train.stored_type=float32",
        "train.spacing_mm=[0.4, 0.4, 4.0]",
        "train.keep_spacing_within=1.0",
    )
    prepared = prepared_cases(config, cases, preprocess_of(config.train))
    assert [case.scan for case in prepared] == ["b", "a"]
    image, grid = prepare_image(read_volume(folder / cases[0].image), preprocess_of(config.train))
    mask = prepare_label(read_volume(folder / cases[0].label), preprocess_of(config.train))
    assert prepared[0].grid == grid
    assert isinstance(prepared[0].image, np.memmap)
    np.testing.assert_array_equal(prepared[0].image, image)
    np.testing.assert_array_equal(prepared[0].label, mask)
    np.testing.assert_array_equal(prepared[0].foreground, np.flatnonzero(mask))
    assert prepared[0].foreground_voxels == np.count_nonzero(mask)


def test_two_processes_give_the_same_cache_as_one(tmp_path, folder):
    cases = [ball_scan(folder, name, seed=seed) for seed, name in enumerate("abc")]
    here = [np.array(case.image) for case in _prepared(tmp_path, cases)]
    for entry in (folder / ".cache").glob("*/*"):
        for file in entry.iterdir():
            file.unlink()
        entry.rmdir()
    there = [np.array(case.image) for case in _prepared(tmp_path, cases, "compute.workers=2")]
    np.testing.assert_array_equal(here, there)


def test_what_is_there_is_not_made_again_and_what_changed_is(tmp_path, folder):
    case = ball_scan(folder, "a")
    first = _prepared(tmp_path, [case])[0].folder
    written = (first / "image.npy").stat().st_mtime_ns
    assert _prepared(tmp_path, [case])[0].folder == first
    assert (first / "image.npy").stat().st_mtime_ns == written

    other_settings = _prepared(tmp_path, [case], "train.windows=[[0, 100]]")[0].folder
    assert other_settings.parent != first.parent
    assert first.is_dir()

    ball_scan(folder, "a", seed=9)
    os.utime(folder / case.image, ns=(1, 1))
    changed = _prepared(tmp_path, [case])[0]
    assert changed.folder != first
    assert not first.exists(), "the entry of the file that is no more is removed"
    assert changed.folder.parent == first.parent


def test_a_damaged_entry_is_made_anew(tmp_path, folder):
    case = ball_scan(folder, "a")
    before = _prepared(tmp_path, [case])[0]
    expected = np.array(before.image)
    file = before.folder / "image.npy"
    file.write_bytes(file.read_bytes()[:300])
    np.testing.assert_array_equal(_prepared(tmp_path, [case])[0].image, expected)
    (before.folder / "grid.json").write_text("{")
    assert _prepared(tmp_path, [case])[0].grid.shape == (32, 28, 10)


def test_an_entry_travels_to_another_process_without_its_arrays(tmp_path, folder):
    case = _prepared(tmp_path, [ball_scan(folder, "a")])[0]
    expected = np.array(case.image)
    data = pickle.dumps(case)
    assert len(data) < 3000
    np.testing.assert_array_equal(pickle.loads(data).image, expected)


def _spoil(
    folder: Path,
    case: Case,
    *,
    image: NDArray[np.generic] | None = None,
    label: NDArray[np.generic] | None = None,
) -> None:
    for name, array in ((case.image, image), (case.label, label)):
        if array is not None:
            write_volume(folder / name, Volume(array, AFFINE))


def test_every_bad_scan_is_named_with_its_reason(tmp_path, folder):
    names = ("good", "nan", "shape", "values", "moved", "cut", "gone", "none")
    cases = {name: ball_scan(folder, name) for name in names}
    image = read_volume(folder / cases["nan"].image).array.astype(np.float32)
    label = read_volume(folder / cases["values"].label).array
    image[3, 4, 5] = np.nan
    _spoil(folder, cases["nan"], image=image)
    _spoil(folder, cases["shape"], label=np.zeros((32, 28, 9), np.uint8))
    _spoil(folder, cases["values"], label=label * 2)
    write_volume(folder / cases["moved"].label, Volume(label, AFFINE + np.diag([0.01, 0, 0, 0])))
    data = (folder / cases["cut"].image).read_bytes()
    (folder / cases["cut"].image).write_bytes(data[: len(data) // 2])
    (folder / cases["gone"].image).unlink()
    bad = [
        *(case for name, case in cases.items() if name != "none"),
        Case("none", split="train", label=cases["none"].label),
    ]
    with pytest.raises(HemsegError) as caught:
        _prepared(tmp_path, bad)
    for reason in (
        "7 scans cannot be preprocessed",
        "nan: image train/image/nan.nii.gz has 1 voxels that are not numbers",
        "shape: the label is 32 x 28 x 9 voxels",
        "values: label train/label/values.nii.gz has the values 0, 2, not 0 and 1 alone",
        "moved: the label lies up to 0.31 mm off the image",
        "image/cut.nii.gz is cut off or damaged",
        "gone.nii.gz: No such file",
        "none: no image in the case table",
    ):
        assert reason in caught.value.message
    assert "train.skip_bad_scans=true" in caught.value.hint
    assert [case.scan for case in _prepared(tmp_path, bad, "train.skip_bad_scans=true")] == ["good"]
    with pytest.raises(HemsegError, match="6 scans"):
        _prepared(tmp_path, bad[1:-1], "train.skip_bad_scans=true")


def test_a_label_without_hemorrhage_is_kept_and_spoken_of(tmp_path, folder, capsys):
    cases = [ball_scan(folder, "a"), ball_scan(folder, "b")]
    _spoil(folder, cases[1], label=np.zeros((32, 28, 10), np.uint8))
    prepared = _prepared(tmp_path, cases)
    assert [len(case.foreground) > 0 for case in prepared] == [True, False]
    assert "1 labels have no hemorrhage: b" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(tmp_path, folder):
    case = ball_scan(folder, "a")
    (folder / ".cache").write_text("a file where the folder should be")
    with pytest.raises(HemsegError, match=r"cannot write .*/\.cache/.*: Not a directory"):
        _prepared(tmp_path, [case])


def test_a_scan_whose_id_begins_as_another_s_keeps_its_entry(tmp_path, folder):
    names = ("a", "a-1", "a-0123456789ab", "a-1-b")
    cases = [ball_scan(folder, name, seed=seed) for seed, name in enumerate(names)]
    first = [case.folder for case in _prepared(tmp_path, cases)]
    ball_scan(folder, "a", seed=9)
    os.utime(folder / cases[0].image, ns=(1, 1))
    again = [case.folder for case in _prepared(tmp_path, cases)]
    assert again[0] != first[0]
    assert not first[0].exists()
    assert again[1:] == first[1:]
    assert all(entry.is_dir() for entry in again)


def test_the_cache_lies_where_the_key_says_apart_for_each_data_set(tmp_path, folder):
    case = ball_scan(folder, "a")
    other = ball_scan(tmp_path / "second" / "tiny", "a", seed=5)
    key = f"data.cache='{tmp_path / 'scratch'}'"
    here = _prepared(tmp_path, [case], key)[0]
    there = _prepared(tmp_path / "second", [other], key)[0]
    assert here.folder.is_relative_to(tmp_path / "scratch")
    assert there.folder.is_relative_to(tmp_path / "scratch")
    assert here.folder.parent.parent != there.folder.parent.parent
    assert not (folder / ".cache").exists()


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Without the rights of root, who may write anywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(user)


def test_a_read_only_data_set_is_cached_for_the_user(monkeypatch, capsys):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to others
        root, home = Path(name), Path(name) / "home"
        case = ball_scan(root / "tiny", "a")
        home.mkdir()
        for path, mode in ((root, 0o755), (home, 0o777), (root / "tiny", 0o555)):
            path.chmod(mode)
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        console.configure()
        with _as_nobody():
            prepared = _prepared(root, [case])
            assert prepared[0].foreground_voxels == int(prepared[0].label.sum()) > 0
        assert prepared[0].folder.is_relative_to(home / "hemseg")
        said = capsys.readouterr().err
        assert said.count("cannot be written to: preprocessed scans go to") == 1
        (root / "tiny").chmod(0o755)


def test_arrays_leave_no_file_open(tmp_path, folder):
    cases = [ball_scan(folder, f"s{n}", seed=n) for n in range(5)]
    prepared = _prepared(tmp_path, cases)
    before = len(os.listdir("/proc/self/fd"))
    sums = [float(case.image.sum()) + float(case.label.sum()) for case in prepared]
    assert len(sums) == 5
    assert len(os.listdir("/proc/self/fd")) == before
