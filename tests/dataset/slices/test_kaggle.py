import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from hemseg_cli.config import Config
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.dataset.slices.kaggle import archive_url, authorization
from hemseg_cli.dataset.slices.sources import open_source
from tests.dataset.converted import convert_config, slice_zip, slices
from tests.dataset.loopback import Site, running

FILES = slices()
PATH = "api/v1/competitions/data/download-all/rsna-intracranial-hemorrhage-detection"
TOKEN = "KGAT_canary_of_a_token"


@pytest.fixture
def site() -> Iterator[Site]:
    """A stand-in: the API redirects to a storage host, here the same machine under another name."""
    with running() as site:
        site.files["storage/archive.zip"] = slice_zip(
            FILES, folder="rsna-intracranial-hemorrhage-detection/stage_2_train/"
        )
        site.always[PATH] = site.redirects(
            site.url("storage/archive.zip?signature=abc", host="localhost")
        )
        yield site


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's real token is found."""
    monkeypatch.delenv("KAGGLE_API_TOKEN", raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    return tmp_path / "kaggle"


def write_json(home: Path, text: str, *, mode: int = 0o600) -> None:
    home.mkdir()
    (home / "kaggle.json").write_text(text)
    (home / "kaggle.json").chmod(mode)


def config_of(site: Site, tmp_path: Path) -> Config:
    return convert_config(tmp_path, "kaggle", kaggle_url=site.url("").rstrip("/"))


def test_slices_come_by_range_and_only_kaggle_sees_the_token(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    with open_source(config_of(site, tmp_path)) as source:
        assert source.read_many(list(FILES)) == list(FILES.values())
    assert {headers["Authorization"] for headers in site.asked(PATH)} == {f"Bearer {TOKEN}"}
    assert len(site.asked("storage/archive.zip")) >= 12
    assert all("Authorization" not in headers for headers in site.asked("storage/archive.zip"))
    output = capsys.readouterr()
    assert TOKEN not in output.out + output.err
    assert all(
        TOKEN.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )


def test_kaggle_json_becomes_basic_authorization(site: Site, tmp_path: Path, home: Path) -> None:
    write_json(home, json.dumps({"username": "ann", "key": "k3y"}))
    with open_source(config_of(site, tmp_path)) as source:
        assert source.missing(list(FILES)) == []
    kind, _, secret = site.asked(PATH)[0]["Authorization"].partition(" ")
    assert (kind, base64.b64decode(secret)) == ("Basic", b"ann:k3y")


def test_a_netrc_is_not_used_instead(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login eve password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    with open_source(config_of(site, tmp_path)):
        assert site.asked(PATH)[0]["Authorization"] == f"Bearer {TOKEN}"


def test_403_says_that_the_rules_must_be_accepted_and_where(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    site.always[PATH] = site.status(403)
    with pytest.raises(HemsegError) as caught:
        open_source(config_of(site, tmp_path))
    assert (
        "rules of the competition rsna-intracranial-hemorrhage-detection must be accepted"
        in caught.value.message
    )
    assert (
        "https://www.kaggle.com/competitions/rsna-intracranial-hemorrhage-detection/rules"
        in caught.value.hint
    )
    assert len(site.requests) == 1
    assert TOKEN not in str(caught.value)


def test_401_says_how_to_make_a_token(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    site.always[PATH] = site.status(401)
    with pytest.raises(HemsegError, match="does not accept the token") as caught:
        open_source(config_of(site, tmp_path))
    assert "KAGGLE_API_TOKEN" in caught.value.hint


def test_429_waits_as_long_as_it_is_told_and_says_so(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    site.script[PATH] = [site.status(429, Retry_After="0.1"), site.status(429, Retry_After="0.1")]
    with open_source(config_of(site, tmp_path)) as source:
        assert source.missing(list(FILES)) == []
    said = capsys.readouterr().err
    assert said.count("Kaggle asks for fewer requests (429); waiting 0.1 s as the server asks") == 2


def test_429_for_ever_is_given_up(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    site.always[PATH] = site.status(429)
    with pytest.raises(HemsegError, match=r"gave up after 3 attempts.*429"):
        open_source(config_of(site, tmp_path))


def test_no_token_names_both_places(home: Path) -> None:
    with pytest.raises(
        HemsegError, match=r"KAGGLE_API_TOKEN is not set and .*kaggle\.json does not exist"
    ):
        authorization()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"username": "ann"}',
        '{"username": 5, "key": "canary"}',
        '{"username": "a b", "key": "canary"}',
    ],
)
def test_a_bad_kaggle_json_is_named_and_its_key_is_not_repeated(home: Path, text: str) -> None:
    write_json(home, text)
    with pytest.raises(FileFormatError) as caught:
        authorization()
    assert "kaggle.json" in caught.value.message
    assert "canary" not in str(caught.value)


def test_a_token_with_a_line_break_cannot_add_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "abc\r\nX-Evil: 1")
    with pytest.raises(HemsegError, match="spaces or control characters"):
        authorization()


def test_a_token_file_that_others_can_read_is_warned_of(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(home, json.dumps({"username": "ann", "key": "k3y"}), mode=0o644)
    assert authorization().startswith("Basic ")
    assert "chmod 600" in capsys.readouterr().err


def test_the_address_is_kaggles_by_default() -> None:
    assert archive_url(Config().convert.kaggle_url) == f"https://www.kaggle.com/{PATH}"


def test_a_token_does_not_stand_in_what_is_logged(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    site.script[PATH] = [site.status(500)]
    with caplog.at_level(logging.DEBUG), open_source(config_of(site, tmp_path)) as source:
        assert TOKEN not in repr(source.__dict__["_reader"].__dict__)
    assert TOKEN not in caplog.text
