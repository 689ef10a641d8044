import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hemseg_cli.app import run
from hemseg_cli.config import Config
from hemseg_cli.config.schema import FetchConfig, RunsConfig
from hemseg_cli.core.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.imaging.nifti import write_volume
from hemseg_cli.inference.export import export
from hemseg_cli.models.remote import cached_models, fetch_model
from tests.dataset.loopback import Site, running
from tests.inference.small_model import config_in, make_run, scan

ARCHIVE = b"archive" * 1000
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()
METRICS = {"metrics": {"dice": {"mean": 0.75, "n": 9}}}


@pytest.fixture
def site() -> Iterator[Site]:
    with running() as site:
        site.files["model.zip"] = ARCHIVE
        yield site


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        runs=RunsConfig(root=tmp_path / "runs", models=tmp_path / "models"),
        fetch=FetchConfig(retries=1, backoff_s=0),
    )


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*")) if folder.exists() else []


def test_archive_is_kept_under_its_hash_and_asked_for_once(config: Config, site: Site) -> None:
    address = site.url("model.zip")
    first = fetch_model(config, f"{address}?token=secret#sha256={SHA256.upper()}")
    assert first.file.read_bytes() == ARCHIVE
    assert first.file.name == f"{SHA256}.zip"
    assert first.name == f"model-{SHA256[:8]}"

    # By its hash, from anywhere, and by its address alone: no further request.
    again = fetch_model(config, f"https://nowhere.invalid/other.zip#sha256={SHA256}")
    assert fetch_model(config, address) == again == first
    assert len(site.requests) == 1
    assert "secret" not in first.file.with_suffix(".json").read_text()


def test_other_file_is_refused_with_both_hashes_and_not_kept(config: Config, site: Site) -> None:
    wanted = "0" * 64
    with pytest.raises(FileFormatError) as caught:
        fetch_model(config, f"{site.url('model.zip')}#sha256={wanted}")
    assert wanted in str(caught.value)
    assert SHA256 in str(caught.value)
    assert _files(config.runs.models or Path()) == []


def test_kept_archive_that_was_changed_is_refused(config: Config, site: Site) -> None:
    model = fetch_model(config, f"{site.url('model.zip')}#sha256={SHA256}")
    model.file.write_bytes(ARCHIVE + b"!")
    with pytest.raises(FileFormatError, match="refused"):
        fetch_model(config, site.url("model.zip"))


@pytest.mark.parametrize(
    "name",
    [
        "{site}/model.zip",
        "{site}/model.zip#" + SHA256,
        "{site}/model.zip#sha256=" + SHA256[:-1],
        "http://example.org/model.zip#sha256=" + SHA256,
        "ftp://127.0.0.1/model.zip#sha256=" + SHA256,
        "https://me:secret@example.org/model.zip#sha256=" + SHA256,
        "hf:owner/name#sha256=" + SHA256,
        "hf:owner@v1#sha256=" + SHA256,
        "hf:owner/../name@v1#sha256=" + SHA256,
    ],
)
def test_address_without_hash_revision_or_tls_is_a_usage_error(
    name: str, config: Config, site: Site
) -> None:
    with pytest.raises(UsageError) as caught:
        fetch_model(config, name.format(site=site.url("").rstrip("/")))
    assert "secret" not in str(caught.value)
    assert site.requests == []


def test_connection_that_ends_early_is_tried_again(config: Config, site: Site) -> None:
    site.script["model.zip"] = [site.announces(len(ARCHIVE), ARCHIVE[:100])]
    model = fetch_model(config, f"{site.url('model.zip')}#sha256={SHA256}")
    assert model.file.read_bytes() == ARCHIVE


def test_missing_file_and_foreign_redirect_are_named(config: Config, site: Site) -> None:
    with pytest.raises(HemsegError, match="404"):
        fetch_model(config, f"{site.url('other.zip')}#sha256={SHA256}")
    site.always["model.zip"] = site.redirects("https://example.org/model.zip")
    with pytest.raises(HemsegError, match=r"example\.org"):
        fetch_model(config, f"{site.url('model.zip')}#sha256={SHA256}")


def test_hub_repository_is_asked_at_its_revision(
    config: Config, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url(""))
    site.files["owner/name/resolve/v1.2/model.zip"] = ARCHIVE
    model = fetch_model(config, f"hf:owner/name@v1.2#sha256={SHA256}")
    assert model.file.read_bytes() == ARCHIVE
    assert fetch_model(config, "hf:owner/name@v1.2") == model
    with pytest.raises(UsageError, match="SHA-256"):
        fetch_model(config, "hf:owner/name@v1.3")


def test_damaged_note_counts_as_no_model(config: Config, site: Site) -> None:
    model = fetch_model(config, f"{site.url('model.zip')}#sha256={SHA256}")
    for text in ("{", "[]", '{"address": 1}', ""):
        model.file.with_suffix(".json").write_text(text)
        assert cached_models(model.file.parent) == []


def test_predict_with_a_model_of_a_server_then_models_lists_it(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "author")
    summary = tmp_path / "author/runs/run/evaluation/test/summary.json"
    summary.parent.mkdir(parents=True)
    summary.write_text(json.dumps(METRICS))
    archive = export(config_in(tmp_path / "author"), run="run", out=tmp_path / "a.zip").archive
    site.files["model.zip"] = archive.read_bytes()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    image = tmp_path / "head.nii.gz"
    write_volume(image, scan())

    options = ["--set", f"runs.models={tmp_path / 'models'}", "--json"]
    name = f"{site.url('model.zip')}#sha256={digest}"
    assert run(["predict", str(image), "--run", name, "--out", "there", *options]) == 0
    assert run(["predict", str(image), "--run", str(archive), "--out", "here", *options]) == 0
    masks = [(tmp_path / out / "head_mask.nii.gz").read_bytes() for out in ("there", "here")]
    assert masks[0] == masks[1]

    capsys.readouterr()
    assert run(["models", *options]) == 0
    [listed] = json.loads(capsys.readouterr().out)["models"]
    assert listed["sha256"] == digest
    assert listed["address"] == site.url("model.zip")
    assert (listed["dice"], listed["scans"]) == (0.75, 9)
    assert listed["classes"] == ["hemorrhage"]
    assert "Research use only" in listed["licence"]

    (tmp_path / "models" / f"{digest}.zip").write_bytes(b"PK")
    assert run(["models", *options]) == 1
