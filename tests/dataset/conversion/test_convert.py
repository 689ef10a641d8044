"""Phantom scans through `convert`, against SimpleITK and dcm2niix."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hemseg_cli.config import Config, load
from hemseg_cli.core.cases import read_cases
from hemseg_cli.dataset.conversion.convert import convert
from hemseg_cli.dataset.labels.fetch import fetch_labels
from hemseg_cli.dataset.labels.manifest import read_manifest
from hemseg_cli.dataset.phantom.dataset import PhantomScan, make_phantom
from hemseg_cli.dataset.phantom.gantry import Gantry
from hemseg_cli.dataset.phantom.scanner import draw_head
from hemseg_cli.imaging.geometry import header_voxel_volume_mm3, lps_to_ras
from hemseg_cli.imaging.nifti import Volume, read_volume
from hemseg_cli.imaging.sidecar import read_sidecar
from hemseg_cli.imaging.upright import image_on, label_on, upright_grid


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config, list[PhantomScan]]:
    root = tmp_path_factory.mktemp("phantom")
    scans = make_phantom(
        root / "source", seed=0, patients=6, matrix=32, slices=(8, 10), smallest_ml=3.0
    )
    source = str(root / "source")
    options = {
        "data.root": str(root / "data"),
        "data.dataset": "phantom",
        "fetch.source": source,
        "convert.dicom": source,
        "compute.workers": 0,
    }
    config = load(None, options=options, environ={})
    fetch_labels(config)
    assert convert(config).converted == len(scans)
    return root, config, scans


def test_every_scan_has_simpleitks_grid_and_its_voxels_where_it_is_right(
    phantom: tuple[Path, Config, list[PhantomScan]], tmp_path: Path
) -> None:
    import SimpleITK as sitk

    root, config, scans = phantom
    slices = {row.scan: row.slices for row in read_manifest(config.data.folder / "manifest.jsonl")}
    formats = {scan.scan: scan.pixels for scan in scans}
    compared = 0
    for case in read_cases(config.data.cases_file):
        folder = tmp_path / case.scan
        folder.mkdir()
        for name in slices[case.scan]:
            shutil.copy(root / "source" / "stage_2_train" / f"ID_{name}.dcm", folder)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        ours = read_volume(config.data.folder / case.image)
        np.testing.assert_allclose(ours.affine, lps_to_ras(affine), atol=1e-3)
        theirs = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
        if "wrapped" in formats[case.scan]:
            continue  # SimpleITK leaves the rollover in
        tissue = theirs >= -1200  # below: padding, which it leaves in too
        np.testing.assert_array_equal(ours.array[tissue], theirs[tissue])
        compared += 1
    assert compared >= 6


def test_case_table_states_the_phantoms_truth(
    phantom: tuple[Path, Config, list[PhantomScan]],
) -> None:
    _root, config, scans = phantom
    known = {scan.scan: scan for scan in scans}
    cases = read_cases(config.data.cases_file)
    assert {case.scan for case in cases} == set(known)
    for case in cases:
        scan = known[case.scan]
        assert case.voxel_volume_mm3 == pytest.approx(scan.voxel_volume_mm3, rel=1e-5)
        assert case.tilt_deg == pytest.approx(scan.tilt_deg, abs=0.01)
        label = read_volume(config.data.folder / case.label).array
        assert case.truth_ml == pytest.approx(
            np.count_nonzero(label) * scan.voxel_volume_mm3 / 1000, rel=1e-4
        )


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_true_voxel_volume_is_dcm2niixs(
    phantom: tuple[Path, Config, list[PhantomScan]], tmp_path: Path
) -> None:
    root, config, scans = phantom
    chosen = [
        next(scan for scan in scans if scan.tilt_deg == 0),
        max(scans, key=lambda scan: abs(scan.tilt_deg)),
    ]
    for scan in chosen:
        folder, out = tmp_path / scan.scan, tmp_path / f"{scan.scan}-out"
        folder.mkdir()
        out.mkdir()
        for name in scan.slices:
            shutil.copy(root / "source" / "stage_2_train" / f"ID_{name}.dcm", folder)
        run = subprocess.run(
            ["dcm2niix", "-z", "n", "-f", "x", "-o", str(out), str(folder)],
            capture_output=True,
            text=True,
            check=True,
        )
        image = nib.load(out / "x.nii")
        # It reports the distance between slice origins as ITK does, and says the tilt beside it.
        tilt = re.search(r"gantry tilt of (-?[0-9.]+) degrees", run.stdout)
        cosine = np.cos(np.radians(float(tilt[1]))) if tilt else 1.0
        assert (tilt is None) == (scan.tilt_deg == 0)
        sidecar = read_sidecar(config.data.folder / scan.split / "image" / f"{scan.scan}.nii.gz")
        assert sidecar is not None
        assert sidecar.voxel_volume_mm3 == pytest.approx(
            abs(np.linalg.det(image.affine[:3, :3])) * cosine, rel=1e-3
        )


@pytest.mark.parametrize("tilt", [0.0, 22.0, -22.0, 30.0])
def test_known_volume_stays_through_an_upright_grid(tilt: float) -> None:
    scan = draw_head(
        4,
        gantry=Gantry(matrix=96, slices=36, slice_distance_mm=4.5, tilt_deg=tilt),
        volumes_ml=(45.0, 20.0),
    )
    i, j, k = scan.label.array.shape
    grid = upright_grid((i, j, k), scan.true_affine)
    label = label_on(grid, Volume((scan.label.array > 0).astype(np.uint8), scan.true_affine))
    assert np.count_nonzero(label) * header_voxel_volume_mm3(grid.affine) / 1000 == pytest.approx(
        65.0, rel=0.01
    )
    image = image_on(grid, Volume(scan.image.array, scan.true_affine), outside=-1000)
    # The middle of the blood stays at the same millimetre.
    before = scan.true_affine @ [*np.argwhere(scan.label.array > 0).mean(axis=0), 1.0]
    after = grid.affine @ [*np.argwhere(label > 0).mean(axis=0), 1.0]
    np.testing.assert_allclose(after, before, atol=0.6)
    assert image[label > 0].mean() == pytest.approx(
        scan.image.array[scan.label.array > 0].mean(), abs=3
    )


def test_upright_data_set_stands_by_itself(phantom: tuple[Path, Config, list[PhantomScan]]) -> None:
    _root, config, scans = phantom
    true = config.model_copy(
        update={"convert": config.convert.model_copy(update={"geometry": "true"})}
    )
    assert convert(true).converted == len(scans)
    folder = config.data.folder.with_name("phantom-true")
    truth = {case.scan: case.truth_ml for case in read_cases(config.data.cases_file)}
    for case in read_cases(folder / "cases.csv"):
        image, label = read_volume(folder / case.image), read_volume(folder / case.label)
        assert image.array.shape == label.array.shape
        assert case.truth_ml == pytest.approx(truth[case.scan], rel=0.01, abs=0.02)
        assert np.count_nonzero(label.array) * header_voxel_volume_mm3(
            label.affine
        ) / 1000 == pytest.approx(case.truth_ml, rel=1e-4)
    assert len(read_manifest(folder / "manifest.jsonl")) == len(scans)
    assert (
        json.loads(
            (
                folder
                / "train"
                / "image"
                / f"{next(s.scan for s in scans if s.split == 'train')}.json"
            ).read_text()
        )["geometry"]
        == "true"
    )
