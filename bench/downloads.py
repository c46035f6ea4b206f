"""Downloads one file into the user's cache: resumed after a cut, checked before it gets its name.

Only HTTP and HTTPS, by urllib, which follows the proxy settings of the environment.
"""

from __future__ import annotations

import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bench
from bench import cache
from bench.errors import DiskFull, EnvironmentFault
from bench.files import explained

Report = Callable[[int, int, str], None]
"""Called as `report(done_bytes, total_bytes, note)`; `total_bytes` is 0 while it is not known."""

CHUNK = 1 << 18
PROGRESS_BYTES = 1 << 20
"""An attempt that got this far is no failed one: a bad line may be cut any number of times."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP codes after which trying again may help."""


class DownloadFailed(EnvironmentFault):
    """A file could not be fetched; the message says how to get it by hand."""

    kind = "download"


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        url: Where it lies.
        sha256: Hash of its content, 64 hex digits.
        size: Its length in bytes.
    """

    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        attempts: Attempts in a row that may fail without getting a mebibyte further.
        pause: Seconds before the second attempt; doubled each time.
        timeout: Seconds without a byte after which a connection counts as dead.
    """

    attempts: int = 4
    pause: float = 1.0
    timeout: float = 30.0


class _Passing(Exception):
    """An attempt failed in a way that another may not."""


def fetch(
    remote: RemoteFile,
    report: Report = lambda done, total, note: None,
    patience: Patience | None = None,
) -> Path:
    """The file's place in the cache; downloads it if it is not there.

    What an interrupted download left is gone on from. Of several processes that want the same file one
    downloads it and the others wait.

    Raises:
        DownloadFailed: It could not be fetched, or is not what it should be.
        ArtifactCorrupt: The cached file is damaged.
        DiskFull: There is no room for it.
    """
    patience = patience or Patience()
    path = cache.find(remote.sha256)
    if path is not None:
        return path
    target = cache.place_of(remote.sha256)
    part = target.with_name(target.name + ".part")

    def waiting() -> None:
        report(_length(part), remote.size, f"waiting for another process that downloads {remote.name}")

    with cache.lock(remote.sha256, waiting):
        path = cache.find(remote.sha256)
        if path is not None:  # the other process was done with it
            return path
        with explained(target, cache.PLACE):
            target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(remote, part)
        resumed = _length(part) > 0
        resumed |= _download(remote, part, report, patience)
        difference = _difference(remote, part)
        if difference and resumed:
            # What was gone on from may have been of another file: once more, from the start.
            part.unlink(missing_ok=True)
            _download(remote, part, report, patience)
            difference = _difference(remote, part)
        if difference:
            part.unlink(missing_ok=True)
            raise _failed(remote, difference)
        with explained(target, cache.PLACE):
            cache.settle(part, target)
    return target


def is_web_page(start: bytes) -> bool:
    """Whether a file that begins so is HTML: what servers send instead of a file that they do not give."""
    return start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _download(remote: RemoteFile, part: Path, report: Report, patience: Patience) -> bool:
    """Fills `part`, over as many attempts as it takes. Returns whether any of them went on from another."""
    failures, resumed = 0, False
    while True:
        before = _length(part)
        resumed |= before > 0
        try:
            _attempt(remote, part, report, patience.timeout)
            return resumed
        except _Passing as error:
            if _length(part) - before >= PROGRESS_BYTES:
                failures = 0
            failures += 1
            if failures >= patience.attempts:
                raise _failed(remote, str(error)) from error
            pause = patience.pause * 2 ** (failures - 1)
            report(_length(part), remote.size, f"{remote.name}: {error}; trying again in {pause:.0f} s")
            time.sleep(pause)


def _attempt(remote: RemoteFile, part: Path, report: Report, timeout: float) -> None:
    offset = _length(part)
    if offset == remote.size:
        return
    if offset > remote.size:
        part.unlink()
        offset = 0
    with _open(remote, part, offset, timeout) as response:
        if response.headers.get_content_type() == "text/html":
            raise _failed(remote, "the server answers with a web page")
        if response.status != 206:  # it ignores Range and sends everything
            offset = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            part.unlink(missing_ok=True)
            raise _Passing("the server resumes at another place")
        length = response.headers.get("Content-Length")
        if length is not None and length.isdigit() and offset + int(length) != remote.size:
            raise _failed(remote, f"it has {offset + int(length)} bytes there instead of {remote.size}")
        with explained(part, cache.PLACE), open(part, "ab" if offset else "wb") as stream:
            done = offset
            while chunk := _read(response):
                if not done and is_web_page(chunk):
                    raise _failed(remote, "the server answers with a web page")
                stream.write(chunk)
                done += len(chunk)
                report(done, remote.size, f"downloading {remote.name}")
                if done > remote.size:
                    break
    if done < remote.size:
        raise _Passing(f"the connection broke after {done} of {remote.size} bytes")


def _open(remote: RemoteFile, part: Path, offset: int, timeout: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"unseg-bench/{bench.__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        return urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"HTTP {error.code} {error.reason}"
        if error.code == 416:  # nothing lies behind what is here: it is of another file
            part.unlink(missing_ok=True)
            raise _Passing(reason) from error
        if error.code in PASSING:
            raise _Passing(reason) from error
        raise _failed(remote, reason) from error
    except urllib.error.URLError as error:
        raise _Passing(f"no connection: {_one_line(error.reason)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(f"no connection: {_one_line(error)}") from error


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(f"the connection broke: {_one_line(error)}") from error


def _difference(remote: RemoteFile, part: Path) -> str:
    """How the downloaded file differs from what it should be; empty if it does not."""
    found = cache.file_digest(part)
    return "" if found == remote.sha256 else f"what the server sends has sha256 {found}"


def _check_room(remote: RemoteFile, part: Path) -> None:
    needed = remote.size - _length(part)
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise DiskFull(
            f"{remote.name} needs {needed >> 20} MiB and {part.parent} has {free >> 20} free: free some, or "
            "name another cache folder with BENCH_CACHE"
        )


def _failed(remote: RemoteFile, reason: str) -> DownloadFailed:
    return DownloadFailed(
        f"cannot download {remote.url} ({reason}): get it by hand and save it as "
        f"{cache.place_of(remote.sha256)} (sha256 {remote.sha256})"
    )


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
