"""Downloads that show progress, go on after an interruption, and never leave half a file under a final name."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from backbones._version import __version__
from backbones.checkpoints.errors import WeightsError

_ATTEMPTS = 5  # in a row without a new byte
_TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 18
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the web only, and never from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and not (scheme == "http" and urlsplit(req.full_url).scheme == "http"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, path: Path, *, progress: bool = True, pause: float = 1.0) -> None:
    """Fetch `url` to `path`, going on where an earlier call was cut off if the server still has the same file.

    An interrupted transfer leaves `path` and a note `<path>.json` to go on from; every other failure removes both.

    Args:
        url: http or https address; environment proxies are used.
        path: File to write; its folder must exist.
        progress: Show a progress bar on stderr.
        pause: Seconds before the first repetition; doubles with each.

    Raises:
        WeightsError: The address does not answer with a file, or the connection keeps breaking.
        OSError: The file cannot be written.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise WeightsError(f"{url} is not a web address: only http and https are fetched.")
    note = path.with_name(f"{path.name}.json")
    opener = urllib.request.build_opener(_Redirects)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not progress)
    failures, most = 0, 0
    try:
        with bar:
            task = bar.add_task(url.rpartition("/")[2][:60], total=None)
            while True:
                try:
                    _transfer(opener, url, path, note, bar, task)
                    break
                except (urllib.error.HTTPError, _Cut) as error:
                    if isinstance(error, urllib.error.HTTPError) and error.code not in _TRANSIENT:
                        raise _refused(url, error) from error
                    size = path.stat().st_size if path.exists() else 0
                    failures, most = (0, size) if size > most else (failures + 1, most)
                    if failures >= _ATTEMPTS:
                        raise _Interrupted(
                            f"The download of {url} keeps breaking off ({error}): run it again to go on from there."
                        ) from error
                    time.sleep(pause * 2**failures)
    except (_Interrupted, KeyboardInterrupt):
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
        raise
    note.unlink(missing_ok=True)


class _Cut(Exception):
    """The connection broke in the middle of the transfer."""


class _Interrupted(WeightsError):
    """Given up for now; what has arrived is kept."""


def _refused(url: str, error: urllib.error.HTTPError) -> WeightsError:
    gone = " it is not there any more;" if error.code in (404, 410) else ""
    return WeightsError(
        f"{url} answers with {error.code} {error.reason}:{gone} put a copy of the file into the local store instead."
    )


def _read_note(note: Path, url: str) -> dict[str, Any]:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("url") == url and found.get("version") else {}


def _transfer(opener, url: str, path: Path, note: Path, bar: Progress, task) -> None:
    """One request: everything, or the rest of what an unbroken note says was begun."""
    known = _read_note(note, url)
    have = path.stat().st_size if known and path.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": f"backbones/{__version__}"})
    if have:
        # With If-Range a server sends the whole file where it is no longer the same.
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known["version"])
    try:
        response = opener.open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send, or the file has become shorter
            path.unlink(missing_ok=True)
            raise _Cut("the part that was there does not fit") from error
        raise
    except urllib.error.URLError as error:
        if have:
            raise _Cut(error.reason) from error
        raise WeightsError(f"Cannot reach {url} ({error.reason}): check the network or the proxy settings.") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(error) from error
    with response:
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise WeightsError(f"{url} answers with a web page instead of a file: fetch it with a browser.")
        start = _start_of(response) if response.status == 206 else 0
        if start != have and response.status == 206:
            path.unlink(missing_ok=True)
            raise _Cut("the server sent another part than was asked for")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        # Weak entity tags do not promise the same bytes.
        tag = response.headers.get("ETag") or ""
        version = tag if tag.startswith('"') else response.headers.get("Last-Modified")
        note.write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")
        if total is not None:
            free = shutil.disk_usage(path.parent).free + start
            if free < 2 * total:  # the download and its conversion
                raise OSError(f"{2 * total / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free")
        bar.update(task, total=total, completed=start)
        with open(path, "r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            done = start
            while True:
                try:
                    block = response.read(_BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    raise _Cut(error) from error
                if not block:
                    break
                file.write(block)
                done += len(block)
                bar.update(task, completed=done)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise _Cut(f"{done} of {total} bytes arrived")


def _start_of(response) -> int:
    """First byte of a partial answer; -1 where it does not say."""
    value = (response.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
    return int(value) if value.isdigit() else -1
