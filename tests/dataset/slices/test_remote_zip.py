import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from hemseg_cli.core.errors import CaseError, FileFormatError, HemsegError
from hemseg_cli.dataset.slices.sources import open_source
from tests.dataset.converted import convert_config, slice_zip, slices
from tests.dataset.loopback import Site, running

FILES = slices(40, size=20_000)
IDS = list(FILES)
ARCHIVE = slice_zip(FILES)


@pytest.fixture
def site() -> Iterator[Site]:
    with running() as site:
        site.files["rsna.zip"] = ARCHIVE
        yield site


def kept(root: Path) -> set[str]:
    return {path.name for path in (root / "tiny" / ".cache" / "slices").glob("ID_*")}


def test_only_the_slices_asked_for_and_the_index_are_moved(site: Site, tmp_path: Path) -> None:
    site.files["rsna.zip"] = large = slice_zip(slices(200, size=20_000))
    with open_source(convert_config(tmp_path, site.url("rsna.zip"))) as source:
        index = site.sent
        assert source.read_many(IDS[:5]) == [FILES[name] for name in IDS[:5]]
        moved = site.sent - index
        assert sum(source.sizes(IDS[5:8]).values()) == pytest.approx(3 * 10_050, rel=0.01)
        assert source.sizes(IDS[:5]) == dict.fromkeys(IDS[:5], 0)
        assert source.missing([IDS[0], "fffffffff"]) == ["fffffffff"]
    assert moved < 5 * 11_000
    assert index < 66_000 < len(large) / 20


def test_the_index_is_read_once(site: Site, tmp_path: Path) -> None:
    config = convert_config(tmp_path, site.url("rsna.zip"))
    with open_source(config):
        first = len(site.requests)
    with open_source(config) as source:
        assert len(site.requests) == first + 1
        assert site.requests[-1][1]["Range"] == "bytes=0-0"
        assert source.missing(IDS) == []


def test_another_archive_at_the_same_address_has_another_index(site: Site, tmp_path: Path) -> None:
    config = convert_config(tmp_path, site.url("rsna.zip"))
    with open_source(config):
        pass
    site.files["rsna.zip"] = slice_zip(dict(list(FILES.items())[:7]))
    with open_source(config) as source:
        assert source.missing(IDS) == IDS[7:]


def test_slices_that_have_come_are_not_moved_again(site: Site, tmp_path: Path) -> None:
    config = convert_config(tmp_path, site.url("rsna.zip"))
    with open_source(config) as source:
        source.read_many(IDS[:6])
    sent = site.sent
    with open_source(config) as source:
        assert source.read_many(IDS[:6]) == [FILES[name] for name in IDS[:6]]
    assert site.sent == sent + 1  # the one byte that asks for the size


def test_a_kept_slice_that_was_damaged_is_moved_again(site: Site, tmp_path: Path) -> None:
    config = convert_config(tmp_path, site.url("rsna.zip"))
    with open_source(config) as source:
        source.read(IDS[0])
        file = tmp_path / "tiny" / ".cache" / "slices" / f"ID_{IDS[0]}.dcm"
        file.write_bytes(bytes(20_000))
        assert source.read(IDS[0]) == FILES[IDS[0]]
    assert file.read_bytes() == FILES[IDS[0]]


def test_several_slices_are_moved_at_once(site: Site, tmp_path: Path) -> None:
    both = threading.Barrier(3)
    met = threading.Event()

    def wait_for_others(handler: BaseHTTPRequestHandler) -> None:
        try:
            both.wait(5)
            met.set()
        except threading.BrokenBarrierError:
            pass
        site.answer(handler)

    with open_source(convert_config(tmp_path, site.url("rsna.zip"), connections=3)) as source:
        site.script["rsna.zip"] = [wait_for_others] * 3
        assert source.read_many(IDS[:9]) == [FILES[name] for name in IDS[:9]]
    assert met.is_set()


def test_connections_are_shared_out_among_the_workers(site: Site, tmp_path: Path) -> None:
    with open_source(
        convert_config(tmp_path, site.url("rsna.zip"), workers=4, connections=8)
    ) as source:
        assert source.__dict__["_connections"] == 2


@pytest.mark.parametrize("trouble", ["resets", "stalls", "busy"])
def test_a_broken_range_is_asked_for_again(site: Site, tmp_path: Path, trouble: str) -> None:
    acts = {"resets": site.resets_after(100), "stalls": site.drips, "busy": site.status(503)}
    with open_source(convert_config(tmp_path, site.url("rsna.zip"))) as source:
        site.script["rsna.zip"] = [
            acts["busy"] if trouble == "busy" else _partial(site, acts[trouble], trouble)
        ]
        assert source.read(IDS[2]) == FILES[IDS[2]]


def _partial(site: Site, _act: object, trouble: str):
    """206 with the right headers whose body ends too early or never comes."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        low, _, high = handler.headers["Range"].removeprefix("bytes=").partition("-")
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {low}-{high}/{len(ARCHIVE)}")
        handler.send_header("Content-Length", str(int(high) - int(low) + 1))
        handler.end_headers()
        handler.wfile.write(b"x" * 100)
        if trouble == "stalls":
            site.released.wait(5)
        handler.close_connection = True

    return act


def test_a_run_that_breaks_off_goes_on_with_the_slice_at_which_it_stopped(
    site: Site, tmp_path: Path
) -> None:
    config = convert_config(tmp_path, site.url("rsna.zip"), connections=1)
    with open_source(config) as source:
        site.script["rsna.zip"] = [site.answer] * 4 + [site.status(500)] * 3
        with pytest.raises(CaseError, match=f"slice {IDS[4]}: .*gave up after 3 attempts.* 500"):
            source.read_many(IDS[:10])
    already = kept(tmp_path)
    assert {f"ID_{name}.dcm" for name in IDS[:4]} <= already
    before = len(site.requests)
    with open_source(config) as source:
        assert source.read_many(IDS[:10]) == [FILES[name] for name in IDS[:10]]
    assert len(site.requests) - before == 1 + 10 - len(already)


class Signed:
    """An address that redirects to a signed link, which is good for `uses` requests."""

    def __init__(self, site: Site, uses: int) -> None:
        self.site, self.uses, self.issued = site, uses, 0
        self.left: dict[str, int] = {}
        site.files["storage/rsna.zip"] = ARCHIVE
        site.always["latest/rsna.zip"] = self.issue
        site.always["storage/rsna.zip"] = self.serve

    def issue(self, handler: BaseHTTPRequestHandler) -> None:
        self.issued += 1
        self.left[str(self.issued)] = self.uses
        self.site.redirects(f"/storage/rsna.zip?signature={self.issued}")(handler)

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        signature = handler.path.rpartition("=")[2]
        self.left[signature] -= 1
        if self.left[signature] < 0:
            self.site.status(403)(handler)
        else:
            self.site.answer(handler)


def test_an_expired_link_is_renewed_from_the_address_that_gave_it(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signed = Signed(site, uses=5)
    with open_source(
        convert_config(tmp_path, site.url("latest/rsna.zip"), connections=1)
    ) as source:
        assert source.read_many(IDS[:12]) == [FILES[name] for name in IDS[:12]]
        assert signed.issued == 3  # size, index and 12 slices, five requests to a link
        assert len(site.asked("latest/rsna.zip")) == 3
        assert "signature" not in source.place
    assert "signature" not in caplog.text


def test_an_address_that_refuses_altogether_is_not_asked_for_ever(
    site: Site, tmp_path: Path
) -> None:
    signed = Signed(site, uses=0)
    with pytest.raises(HemsegError, match="403"):
        open_source(convert_config(tmp_path, site.url("latest/rsna.zip")))
    assert signed.issued == 1


def test_a_server_without_ranges_is_said_and_nothing_large_is_moved(
    site: Site, tmp_path: Path
) -> None:
    site.always["rsna.zip"] = site.announces(len(ARCHIVE), ARCHIVE)
    with pytest.raises(HemsegError, match="sends no byte ranges") as caught:
        open_source(convert_config(tmp_path, site.url("rsna.zip")))
    assert "--dicom FILE.zip" in caught.value.hint


def test_an_archive_that_changes_under_way_is_refused(site: Site, tmp_path: Path) -> None:
    with open_source(convert_config(tmp_path, site.url("rsna.zip"))) as source:
        site.files["rsna.zip"] = ARCHIVE + b"more"
        with pytest.raises(CaseError, match="changed while it was read"):
            source.read(IDS[0])


def test_damaged_bytes_are_found_and_not_kept(site: Site, tmp_path: Path) -> None:
    with open_source(convert_config(tmp_path, site.url("rsna.zip"))) as source:
        damaged = bytearray(ARCHIVE)
        damaged[600] ^= 0xFF
        site.files["rsna.zip"] = bytes(damaged)
        with pytest.raises(CaseError, match=f"slice {IDS[0]} is damaged"):
            source.read(IDS[0])
    assert kept(tmp_path) == set()


def test_what_is_no_zip_is_said(site: Site, tmp_path: Path) -> None:
    site.files["rsna.zip"] = b"hello" * 100
    with pytest.raises(FileFormatError, match="not a zip archive"):
        open_source(convert_config(tmp_path, site.url("rsna.zip")))
    site.files["rsna.zip"] = slice_zip({})
    with pytest.raises(FileFormatError, match="holds no slices"):
        open_source(convert_config(tmp_path, site.url("rsna.zip")))


def test_a_source_can_be_sent_to_a_worker_and_asks_nothing_on_arrival(
    site: Site, tmp_path: Path
) -> None:
    with open_source(convert_config(tmp_path, site.url("rsna.zip"))) as source:
        source.read(IDS[0])
        before = len(site.requests)
        with pickle.loads(pickle.dumps(source)) as copy:
            assert copy.read(IDS[0]) == FILES[IDS[0]]
            assert len(site.requests) == before
            assert copy.read(IDS[1]) == FILES[IDS[1]]
