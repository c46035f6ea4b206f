"""The user's cache: files that come from outside the project, each under the sha256 of its content.

Layout, under `BENCH_CACHE`, else `XDG_CACHE_HOME/bench`, else `~/.cache/bench`:

    sha256/<hex>          a file, whatever its name was; `<hex>.part` is one that is being downloaded
    generators/<hex>/     a trained generator: weights and the options that describe them
    locks/<hex>.lock      held (flock) by the process that downloads the file

A name is a promise about the content, and it is checked whenever a file is taken from here: files may be
put here by hand, and a damaged one is found before it is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.errors import ArtifactCorrupt, EnvironmentFault
from bench.files import explained, sync_folder

PREFIX = "sha256:"
"""What a reference to a file by its content begins with."""
DIGEST = re.compile(r"[0-9a-f]{64}")
POLL_SECONDS = 0.5
PLACE = "cache folder with BENCH_CACHE"
"""What a user can name instead of a cache that cannot be written; see `bench.files.explained`."""


def cache_folder() -> Path:
    """Where the cache lies. It need not exist."""
    named = os.environ.get("BENCH_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    above = os.environ.get("XDG_CACHE_HOME")
    return (Path(above) if above else Path.home() / ".cache").expanduser().absolute() / "bench"


def is_reference(text: str) -> bool:
    """Whether `text` is `sha256:` with 64 lower-case hex digits."""
    return text.startswith(PREFIX) and DIGEST.fullmatch(text.removeprefix(PREFIX)) is not None


def place_of(digest: str) -> Path:
    """Where the file with this sha256 (hex) lies, or belongs if it is not there."""
    return cache_folder() / "sha256" / digest


def file_digest(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find(digest: str) -> Path | None:
    """The cached file with this sha256, its content checked; None if it is not there.

    Raises:
        ArtifactCorrupt: There is a file under that name, with another content.
    """
    path = place_of(digest)
    if not path.is_file():
        return None
    found = file_digest(path)
    if found != digest:
        raise ArtifactCorrupt(f"{path} is damaged (its sha256 is {found}): delete it and get the file again")
    return path


def import_file(path: Path) -> str:
    """Copies a file into the cache, if its content is not there yet, and returns its sha256.

    Raises:
        DiskFull: There is no room for it.
        EnvironmentFault: The file cannot be read, or the cache cannot be written.
    """
    try:
        digest = file_digest(path)
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path} ({error.strerror})") from error
    target = place_of(digest)
    if target.is_file() and target.stat().st_size == path.stat().st_size:
        return digest
    with explained(target, PLACE):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{digest[:16]}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        try:
            with open(path, "rb") as source, os.fdopen(handle, "wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
            settle(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return digest


def settle(temporary: Path, target: Path) -> None:
    """Gives a complete file its final name, durably, readable as the user's umask says."""
    with open(temporary, "rb") as stream:
        os.fsync(stream.fileno())
    os.chmod(temporary, 0o666 & ~umask())
    os.replace(temporary, target)
    sync_folder(target.parent)


def umask() -> int:
    """The permission bits that this process takes from what it creates."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def lock(digest: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Waits until this process is the one that makes a file of the cache; calls `on_wait` meanwhile."""
    path = cache_folder() / "locks" / f"{digest}.lock"
    with explained(path, PLACE):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                on_wait()
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
