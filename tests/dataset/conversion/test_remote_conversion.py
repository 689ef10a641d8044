"""From the phantom's slices behind a server to images, by the command.

The same as from a folder.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hemseg_cli.app import run
from hemseg_cli.dataset.phantom.dataset import make_phantom
from tests.dataset.label_files import zip_bytes
from tests.dataset.loopback import Site, running


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    make_phantom(folder, patients=3, matrix=32, slices=(6, 7), smallest_ml=3.0)
    return folder


@pytest.fixture
def site(phantom: Path) -> Iterator[Site]:
    with running() as site:
        files = {
            f"stage_2_train/{path.name}": path.read_bytes()
            for path in sorted((phantom / "stage_2_train").iterdir())
        }
        site.files["rsna.zip"] = zip_bytes(files)
        yield site


def hemseg(command: str, root: Path, *options: str) -> int:
    settings = [
        "data.dataset=phantom",
        f"data.root={root}",
        "fetch.retries=1",
        "fetch.backoff_s=0.01",
        "fetch.timeout_s=2",
        "compute.workers=0",
    ]
    return run(
        [command, *(part for text in settings for part in ("--set", text)), "--json", *options]
    )


def images(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.glob("phantom/*/image/*.nii.gz"))
    }


def test_a_remote_zip_gives_the_images_that_a_folder_gives(
    site: Site, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for root, dicom in ((tmp_path / "a", str(phantom)), (tmp_path / "b", site.url("rsna.zip"))):
        assert hemseg("fetch-labels", root, "--source", str(phantom)) == 0
        capsys.readouterr()
        assert hemseg("convert", root, "--dicom", dicom) == 0
        payload = json.loads(capsys.readouterr().out)
    assert payload["converted"] == len(images(tmp_path / "a")) > 1
    assert images(tmp_path / "a") == images(tmp_path / "b")


def test_a_dry_run_counts_what_would_be_moved(
    site: Site, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hemseg("fetch-labels", tmp_path, "--source", str(phantom)) == 0
    capsys.readouterr()
    assert hemseg("convert", tmp_path, "--dicom", site.url("rsna.zip"), "--dry-run") == 0
    need = json.loads(capsys.readouterr().out)
    assert need["slices_missing"] == 0
    assert 0 < need["bytes_to_move"] < len(site.files["rsna.zip"])
    assert need["slices"] == len(list((phantom / "stage_2_train").iterdir()))


def test_rules_that_were_not_accepted_stop_the_command_once(
    site: Site,
    phantom: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_canary")
    site.always["api/v1/competitions/data/download-all/rsna-intracranial-hemorrhage-detection"] = (
        site.status(403)
    )
    assert hemseg("fetch-labels", tmp_path, "--source", str(phantom)) == 0
    capsys.readouterr()
    assert (
        hemseg(
            "convert",
            tmp_path,
            "--dicom",
            "kaggle",
            "--set",
            f"convert.kaggle_url={site.url('').rstrip('/')}",
        )
        == 1
    )
    said = capsys.readouterr()
    assert said.err.count("must be accepted first") == 1
    assert "/competitions/rsna-intracranial-hemorrhage-detection/rules" in said.err
    assert "canary" not in said.err + said.out


@pytest.mark.parametrize("keep", [False, True])
def test_the_slices_of_a_scan_that_is_written_go_unless_they_are_to_be_kept(
    site: Site, phantom: Path, tmp_path: Path, keep: bool
) -> None:
    assert hemseg("fetch-labels", tmp_path, "--source", str(phantom)) == 0
    options = ("--set", f"convert.keep_slices={str(keep).lower()}")
    assert hemseg("convert", tmp_path, "--dicom", site.url("rsna.zip"), *options) == 0
    kept = list((tmp_path / "phantom" / ".cache" / "slices").glob("*.dcm"))
    used = len(list((phantom / "stage_2_train").iterdir()))
    assert len(kept) == (used if keep else 0)
