"""Downloads over a real connection."""

from __future__ import annotations

import errno
import urllib.error
import urllib.request
from functools import partial

import pytest

from backbones.checkpoints import download as module
from backbones.checkpoints.download import download
from backbones.checkpoints.errors import WeightsError

BODY = bytes(range(256)) * 4000  # 1 MB


def fetch(url, path):
    download(url, path, progress=False, pause=0.01)


def test_whole(server, tmp_path):
    fetch(server.put("a.pth", BODY), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_progress_on_stderr(server, tmp_path, capsys):
    download(server.put("a.pth", BODY), tmp_path / "part")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a.pth" in captured.err


def test_goes_on_after_cuts(server, tmp_path):
    url = server.put("a.pth", BODY, cuts=[400_000, 300_000])
    fetch(url, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=400000-", "bytes=700000-"]


def test_goes_on_in_a_later_call(server, tmp_path):
    url = server.put("a.pth", BODY, cuts=[400_000] + [0] * 20)
    with pytest.raises(WeightsError, match=r"keeps breaking off .* run it again to go on"):
        fetch(url, tmp_path / "part")
    assert (tmp_path / "part").stat().st_size == 400_000
    server.resources["/a.pth"].cuts.clear()
    server.requests.clear()
    fetch(url, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY
    assert server.requests == [("/a.pth", "bytes=400000-")]


def test_starts_again_when_the_file_has_changed(server, tmp_path):
    url = server.put("a.pth", BODY, cuts=[400_000] + [0] * 20)
    with pytest.raises(WeightsError):
        fetch(url, tmp_path / "part")
    other = bytes(reversed(BODY))
    server.put("a.pth", other, etag='"2"')
    fetch(url, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == other


def test_starts_again_where_parts_cannot_be_asked_for(server, tmp_path):
    fetch(server.put("a.pth", BODY, cuts=[400_000], ranges=False), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY


def test_starts_again_without_a_version(server, tmp_path):
    """Nothing promises that the rest belongs to what is there."""
    fetch(server.put("a.pth", BODY, cuts=[400_000], etag=None), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY
    assert [asked for _, asked in server.requests] == [None, None]


def test_starts_again_when_another_part_comes(server, tmp_path):
    fetch(server.put("a.pth", BODY, cuts=[400_000], shift=100), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY
    assert [asked for _, asked in server.requests] == [None, "bytes=400000-", None]


def test_part_longer_than_the_file(server, tmp_path):
    url = server.put("a.pth", BODY, cuts=[400_000] + [0] * 20)
    with pytest.raises(WeightsError):
        fetch(url, tmp_path / "part")
    server.put("a.pth", BODY[:1000])  # the same version, shorter: a broken server
    fetch(url, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY[:1000]


def test_redirect(server, tmp_path):
    server.put("a.pth", BODY, cuts=[400_000])
    fetch(server.put("old.pth", location=server.url("a.pth")), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY
    assert ("/a.pth", "bytes=400000-") in server.requests


def test_redirect_away_from_the_web(server, tmp_path):
    (tmp_path / "secret").write_text("secret")
    url = server.put("a.pth", location=f"file://{tmp_path}/secret")
    with pytest.raises(WeightsError, match="not allowed"):
        fetch(url, tmp_path / "part")
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [("https", "http", False), ("http", "ftp", False), ("http", "https", True), ("http", "http", True)],
)
def test_redirect_to_less_safety(before, after, allowed):
    request = urllib.request.Request(f"{before}://a/x")
    follow = partial(module._Redirects().redirect_request, request, None, 302, "Found", {}, f"{after}://b/y")
    if allowed:
        assert follow().full_url == f"{after}://b/y"
    else:
        with pytest.raises(urllib.error.URLError, match="not safe"):
            follow()


def test_redirect_in_a_circle(server, tmp_path):
    with pytest.raises(WeightsError, match="answers with 302"):
        fetch(server.put("a.pth", location=server.url("a.pth")), tmp_path / "part")


@pytest.mark.parametrize("status", [403, 404, 410])
def test_refused(server, tmp_path, status):
    with pytest.raises(WeightsError, match=f"answers with {status}.* into the local store"):
        fetch(server.put("a.pth", status=status), tmp_path / "part")
    assert len(server.requests) == 1
    assert not list(tmp_path.iterdir())


def test_busy_server_is_asked_again(server, tmp_path):
    with pytest.raises(WeightsError, match="503"):
        fetch(server.put("a.pth", status=503), tmp_path / "part")
    assert len(server.requests) == module._ATTEMPTS


def test_web_page_instead_of_a_file(server, tmp_path):
    with pytest.raises(WeightsError, match="answers with a web page"):
        fetch(server.put("a.pth", b"<html>sign in</html>", kind="text/html; charset=utf-8"), tmp_path / "part")
    assert not list(tmp_path.iterdir())


def test_nobody_answers(server, tmp_path):
    url = server.url("a.pth")
    server.close()
    with pytest.raises(WeightsError, match=r"Cannot reach http://127.0.0.1.*check the network"):
        fetch(url, tmp_path / "part")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "a.pth"])
def test_other_addresses(tmp_path, url):
    with pytest.raises(WeightsError, match="only http and https"):
        fetch(url, tmp_path / "part")


def test_too_large_for_the_disk(server, tmp_path, monkeypatch):
    """The room is looked at before the first byte is written."""
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=len(BODY)))
    with pytest.raises(OSError, match=r"2.0 MB are needed and 1.0 MB are free"):
        fetch(server.put("a.pth", BODY), tmp_path / "part")
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_an_os_error(server, tmp_path):
    with pytest.raises(OSError) as caught:
        fetch(server.put("a.pth", BODY), tmp_path / "missing" / "part")
    assert caught.value.errno == errno.ENOENT
