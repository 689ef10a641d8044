import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.core.http import (
    HttpError,
    HttpSettings,
    announced_bytes,
    check_url,
    content_range,
    shown,
)
from hemseg_cli.dataset.labels.published import HashedFile
from hemseg_cli.dataset.slices.download import download, download_small, verify
from tests.dataset.loopback import Site, running

DATA = bytes(range(256)) * 40
SETTINGS = HttpSettings(timeout_s=0.3, retries=2, backoff_s=0.01)


def expected(data: bytes = DATA, name: str = "labels.zip") -> HashedFile:
    return HashedFile(name, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def site() -> Iterator[Site]:
    with running() as site:
        site.files["labels.zip"] = DATA
        yield site


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "labels.zip"


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_the_file_arrives_whole_and_alone(site: Site, target: Path) -> None:
    download(site.url("labels.zip"), target, expected(), SETTINGS)
    assert target.read_bytes() == DATA
    assert left(target) == ["labels.zip"]
    assert "Authorization" not in site.requests[0][1]


@pytest.mark.parametrize("trouble", ["stalls", "resets", "closes"])
def test_a_broken_download_is_asked_for_again(site: Site, target: Path, trouble: str) -> None:
    acts = {
        "stalls": site.stalls_after(3000),
        "resets": site.resets_after(3000),
        "closes": site.announces(len(DATA), DATA[:3000]),
    }
    site.script["labels.zip"] = [acts[trouble]]
    download(site.url("labels.zip"), target, expected(), SETTINGS)
    assert target.read_bytes() == DATA
    assert left(target) == ["labels.zip"]
    assert len(site.asked("labels.zip")) == 2


def test_a_server_that_stalls_for_ever_is_given_up(site: Site, target: Path) -> None:
    site.always["labels.zip"] = site.stalls_after(0)
    with pytest.raises(
        HemsegError, match=r"gave up after 3 attempts; the last one: the server stalled"
    ):
        download(site.url("labels.zip"), target, expected(), SETTINGS)
    assert len(site.requests) == 3
    assert not target.exists()


def test_a_server_that_drips_is_given_up(site: Site, target: Path) -> None:
    site.always["labels.zip"] = site.drips
    with pytest.raises(HemsegError, match="the server stalled"):
        download(
            site.url("labels.zip"), target, expected(), HttpSettings(timeout_s=0.15, retries=0)
        )
    assert not target.exists()


def test_a_server_that_resets_for_ever_is_given_up(site: Site, target: Path) -> None:
    site.always["labels.zip"] = site.resets_after(0)
    with pytest.raises(HemsegError, match="gave up after 3 attempts"):
        download(site.url("labels.zip"), target, expected(), SETTINGS)
    assert not target.exists()


def test_nobody_listening_is_given_up(target: Path) -> None:
    with pytest.raises(HemsegError, match="gave up after 1 attempts"):
        download(
            "http://127.0.0.1:9/labels.zip",
            target,
            expected(),
            HttpSettings(timeout_s=0.3, retries=0),
        )


def test_the_signature_of_a_link_stands_in_no_message(site: Site, target: Path) -> None:
    site.always["labels.zip"] = site.redirects("http://127.0.0.1:9/labels.zip?signature=canary")
    with pytest.raises(HemsegError, match="Connection refused") as caught:
        download(site.url("labels.zip"), target, expected(), HttpSettings(timeout_s=0.3, retries=0))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("length", [len(DATA) + 100, len(DATA) - 100])
def test_a_server_that_announces_another_length_is_refused(
    site: Site, target: Path, length: int
) -> None:
    site.always["labels.zip"] = site.announces(length, DATA[:length])
    with pytest.raises(
        HemsegError, match=f"the server sends {length:,} bytes, expected {len(DATA):,}"
    ):
        download(site.url("labels.zip"), target, expected(), SETTINGS)
    assert not target.exists()


def test_a_body_without_length_is_cut_at_the_size_that_is_expected(
    site: Site, target: Path
) -> None:
    site.always["labels.zip"] = site.announces(None, DATA + bytes(10_000_000))
    with pytest.raises(HemsegError, match=f"more than {len(DATA):,} bytes"):
        download(site.url("labels.zip"), target, expected(), SETTINGS)
    assert left(target) == []


def test_a_body_without_length_that_fits_is_taken(site: Site, target: Path) -> None:
    site.always["labels.zip"] = site.announces(None, DATA)
    download(site.url("labels.zip"), target, expected(), SETTINGS)
    assert target.read_bytes() == DATA


def test_a_wrong_hash_prints_both_and_leaves_nothing(site: Site, target: Path) -> None:
    site.files["labels.zip"] = DATA[::-1]
    with pytest.raises(FileFormatError) as caught:
        download(site.url("labels.zip"), target, expected(), SETTINGS)
    assert expected().sha256 in caught.value.message
    assert expected(DATA[::-1]).sha256 in caught.value.message
    assert left(target) == []


def test_a_wrong_file_prints_both_hashes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"other")
    with pytest.raises(FileFormatError) as caught:
        verify(tmp_path / "x", expected())
    assert all(
        text in caught.value.message
        for text in (expected().sha256, hashlib.sha256(b"other").hexdigest(), "5 bytes")
    )


@pytest.mark.parametrize(
    "location",
    [
        "http://[::1",
        "https://[nonsense]/x",
        "https://user:secret@raw.githubusercontent.com/x",
        "https://raw.githubusercontent.com:99999999/x",
        "https://",
        "file:///etc/passwd",
        "http://example.com/labels.zip",
        "ftp://127.0.0.1/x",
        "https://evil.example/labels.zip",
        "",
        "//example.com/x",
    ],
)
def test_a_redirect_off_the_list_is_refused_and_not_followed(
    site: Site, target: Path, location: str
) -> None:
    site.always["labels.zip"] = site.redirects(location)
    with pytest.raises(HemsegError, match="redirects to") as caught:
        download(site.url("labels.zip"), target, expected(), SETTINGS)
    assert caught.value.exit_code == 1
    assert "secret" not in str(caught.value)
    assert len(site.requests) == 1
    assert not target.exists()


def test_a_host_can_be_put_on_the_list_by_the_hint(site: Site, target: Path) -> None:
    site.always["labels.zip"] = site.redirects("https://mirror.example/labels.zip")
    with pytest.raises(HemsegError) as caught:
        download(site.url("labels.zip"), target, expected(), SETTINGS)
    assert caught.value.hint == "if you trust it: --set 'fetch.redirect_hosts=[\"mirror.example\"]'"


def test_a_redirect_on_the_same_machine_is_followed(site: Site, target: Path) -> None:
    site.always["moved.zip"] = site.redirects(site.url("labels.zip", host="localhost"))
    download(site.url("moved.zip"), target, expected(), SETTINGS)
    assert target.read_bytes() == DATA


def test_redirects_in_a_circle_end(site: Site, target: Path) -> None:
    site.always["labels.zip"] = site.redirects("/labels.zip")
    with pytest.raises(HemsegError, match="redirects more than 5 times"):
        download(site.url("labels.zip"), target, expected(), SETTINGS)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x.zip",
        "ftp://example.com/x",
        "file:///etc/passwd",
        "https:///x",
        "http://127.0.0.1.example.com/x",
    ],
)
def test_only_https_or_this_machine_is_asked(url: str) -> None:
    with pytest.raises(UsageError, match="only https://"):
        check_url(url)


def test_a_url_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        check_url("https://user:secret@example.com/x")
    assert "secret" not in str(caught.value)
    assert shown("https://u:p@example.com/x?signature=abc") == "https://example.com/x"


def test_a_port_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="is not a URL"):
        check_url("https://example.com:port/x")


def test_a_missing_file_is_not_asked_for_twice(site: Site, target: Path) -> None:
    with pytest.raises(HttpError, match="404") as caught:
        download(site.url("absent.zip"), target, expected(), SETTINGS)
    assert caught.value.status == 404
    assert len(site.requests) == 1


def test_a_busy_server_is_asked_again_after_the_time_it_names(
    site: Site, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.script["labels.zip"] = [site.status(503), site.status(429, Retry_After="0.05")]
    download(site.url("labels.zip"), target, expected(), SETTINGS)
    assert target.read_bytes() == DATA
    assert "429" in capsys.readouterr().err


def test_a_small_file_has_a_size_cap(site: Site) -> None:
    site.files["source.json"] = b"{}"
    assert download_small(site.url("source.json"), SETTINGS) == b"{}"
    site.files["source.json"] = bytes(2**20 + 1)
    with pytest.raises(HemsegError, match="larger than 1,048,576 bytes"):
        download_small(site.url("source.json"), SETTINGS)


def test_a_folder_that_cannot_be_written_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(HemsegError, match=r"cannot write .*labels\.zip: File exists"):
        download(site.url("labels.zip"), tmp_path / "cache" / "labels.zip", expected(), SETTINGS)


def drip(head: bytes, part: bytes, site: Site) -> Callable[[BaseHTTPRequestHandler], None]:
    """Send `head`, then `part` again and again, a byte every 20 ms, until the test is over."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(OSError):
            handler.wfile.write(head)
            for byte in itertools.cycle(part):
                if site.released.wait(0.02):
                    return
                handler.wfile.write(bytes([byte]))

    return act


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"", b"HTTP/1.1 200 " + b"O" * 60_000),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 60_000),
        (b"HTTP/1.1 200 OK\r\n", b"X-N: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 60_000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    ],
    ids=["status line", "one header", "headers", "100 Continue", "chunk size", "chunks", "body"],
)
def test_a_server_that_drips_any_part_of_its_answer_is_given_up(
    site: Site, target: Path, head: bytes, part: bytes
) -> None:
    site.always["labels.zip"] = drip(head, part, site)
    settings = HttpSettings(timeout_s=0.3, retries=1, backoff_s=0.01)
    started = time.monotonic()
    with pytest.raises(HemsegError, match=r"gave up after 2 attempts; .* the server stalled"):
        download(site.url("labels.zip"), target, expected(), settings)
    # The server would go on for ever: what ends it is the deadline, of each of two attempts.
    assert time.monotonic() - started < 10
    assert left(target) == []


@pytest.mark.parametrize(
    "text",
    ["bytes 0-9/*", "bytes 5-2/9", "bytes 0-9/5", f"bytes {'9' * 5000}-1/2", "x", "bytes -1-2/3"],
)
def test_a_content_range_that_makes_no_sense_is_none(text: str) -> None:
    response = requests.Response()
    response.headers["Content-Range"] = text
    response.headers["Content-Length"] = "9" * 5000
    assert content_range(response) is None
    assert announced_bytes(response) is None


@given(st.text(max_size=60))
def test_no_text_makes_the_url_functions_fail_otherwise_than_by_a_usage_error(text: str) -> None:
    for url in (text, f"https://{text}", f"https://host/{text}?token=canary"):
        assert "canary" not in shown(url)
        with contextlib.suppress(UsageError):
            check_url(url)
