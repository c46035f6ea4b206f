"""Unpacks archives from outside: nothing lands beside the folder, and the folder is whole or not there.

Zip (stored or deflated), tar and gzipped tar, told apart by their content. The names and declared sizes of
all members are checked before the first byte is written; the real bytes are counted while they are.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from bench.downloads import Report, is_web_page
from bench.errors import DiskFull, EnvironmentFault
from bench.files import explained

CHUNK = 1 << 20
MAX_PADDING = 1 << 26
"""Bytes behind the last file of a tar."""
MAX_MEMBERS = 2_000_000
"""An archive of more members fills a file system's tables though its bytes are few."""
LONGEST_NAME = 255
"""Bytes of one part of a path that Linux file systems take."""
WINDOWS_PATH = re.compile(r"[A-Za-z]:|.*\\", re.DOTALL)
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, struct.error)
"""What the standard library raises when it reads damaged archives, besides `ValueError` and its kin."""


class ArchiveError(EnvironmentFault):
    """An archive that is no archive, is damaged, or would do harm when unpacked."""

    kind = "archive"


@dataclass(frozen=True)
class _Member:
    """A file or folder of an archive; `name` is what stands there, `path` where it goes below the folder."""

    name: str
    path: PurePosixPath
    size: int
    is_folder: bool
    source: zipfile.ZipInfo | tarfile.TarInfo


class _Reader(Protocol):
    def members(self) -> Iterator[_Member]: ...

    def open(self, member: _Member) -> IO[bytes]: ...


class _Refused(Exception):
    """Why an archive is not unpacked."""


def unpack(
    archive: Path,
    destination: Path,
    *,
    max_bytes: int,
    report: Report = lambda done, total, note: None,
    name: str | None = None,
    keep: Callable[[PurePosixPath], bool] = lambda path: True,
) -> list[Path]:
    """Unpacks an archive into a new folder.

    The folder appears when all files are in it. What an attempt that was killed left beside it, called
    `.<folder>.unpacking`, is removed by the next one; that only one process unpacks to a folder at a time is
    up to the caller. Files get the permissions of new files; owners, times and modes are not taken over.

    Args:
        archive: The archive; its name says nothing about its format.
        destination: The folder; absent or empty.
        max_bytes: What all files together may have, unpacked.
        report: Called with the bytes that are written and that will be.
        name: What messages call the archive; None: the name of the file.
        keep: Whether a file is wanted; its argument is the path below `destination`.

    Returns:
        The files, in the order of the archive.

    Raises:
        ArchiveError: It is no archive; it is damaged, cut short, encrypted or empty; it holds links, devices,
            two files of one name (in any case) or names that lead out of the folder; it unpacks to more than
            `max_bytes`; or `destination` is not empty. A tar without gzip that was cut exactly between two
            files looks whole: only the hash of the download tells.
        DiskFull: There is no room for it.
    """
    name = name or archive.name
    destination = Path(os.path.realpath(destination))
    require_empty(destination)
    staging = destination.with_name(f".{destination.name}.unpacking")
    with explained(destination, "folder"), _explained(name), ExitStack() as stack:
        if staging.exists():
            shutil.rmtree(staging)
        reader = _opened(archive, stack)
        members = _checked(reader, max_bytes, keep)
        require_room(destination, sum(member.size for member in members), name)
        try:
            staging.mkdir(parents=True)
            _write(reader, members, staging, report, name)
            os.replace(staging, destination)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    return [destination / member.path for member in members if not member.is_folder]


def require_empty(folder: Path) -> None:
    """Raises an `ArchiveError` unless `folder` is absent or empty."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ArchiveError(f"{folder} is not empty; give a new folder, or empty this one")
    if os.path.lexists(folder) and not folder.is_dir():
        raise ArchiveError(f"{folder} is no folder; give a new folder")


def require_room(folder: Path, size: int, what: str) -> None:
    """Raises a `DiskFull` unless `size` bytes fit where `folder` lies or will lie."""
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise DiskFull(
            f"{what} needs {size >> 20} MiB in {folder} and {free >> 20} are free; free some, or choose a folder "
            "on another disk"
        )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns what goes wrong inside an archive into one line."""
    try:
        yield
    except _Refused as refused:
        reason, cause = str(refused), refused
    except (*DAMAGE, ValueError, NotImplementedError) as error:
        reason, cause = _damage(error), error
    except OSError as error:
        # A damaged offset is an invalid argument of seek, which names no file; others are faults of the disk.
        if error.errno != errno.EINVAL or error.filename is not None:
            raise
        reason, cause = _damage(error), error
    else:
        return
    raise ArchiveError(f"cannot unpack {name}: {reason}; get the archive again from its source") from cause


def _damage(error: Exception) -> str:
    return f"it is damaged or cut short ({' '.join(str(error).split()) or type(error).__name__})"


def _opened(archive: Path, stack: ExitStack) -> _Reader:
    """A reader for whatever the archive is; `stack` closes it."""
    try:
        stream = stack.enter_context(archive.open("rb"))
    except OSError as error:
        raise EnvironmentFault(f"cannot read {archive} ({error.strerror}); get the archive again") from error
    head = stream.read(512)
    stream.seek(0)
    if is_web_page(head):
        raise _Refused("it is a web page, no archive")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _Zip(stack.enter_context(zipfile.ZipFile(stream)))
    if head.startswith(b"\x1f\x8b"):
        return _Tar(stack.enter_context(gzip.GzipFile(fileobj=stream)))
    if tarfile.is_tarfile(archive):
        return _Tar(stream)
    raise _Refused("it is no zip, tar or gzipped tar")


def _checked(reader: _Reader, max_bytes: int, keep: Callable[[PurePosixPath], bool]) -> list[_Member]:
    """All members that are wanted; refuses the archive if one of them must not be written."""
    members, names, total = [], _Names(), 0
    for count, member in enumerate(reader.members(), start=1):
        if count > MAX_MEMBERS:
            raise _Refused(f"it holds more than {MAX_MEMBERS} files")
        if member.is_folder and not member.path.parts:
            continue
        if not member.path.parts:
            raise _Refused(f"a file in it is called {member.name!r}")
        if member.size < 0:
            raise _Refused(f"the size of {member.name!r} is negative")
        names.add(member)
        # What is not wanted counts too: a gzipped tar is read through to its end.
        total += member.size
        if total > max_bytes:
            raise _Refused(f"it unpacks to more than the {max_bytes >> 20} MiB that are expected")
        if member.is_folder or keep(member.path):
            members.append(member)
    if all(member.is_folder for member in members):
        raise _Refused("it holds no file")
    return members


def _write(reader: _Reader, members: list[_Member], folder: Path, report: Report, name: str) -> None:
    """Writes all members below `folder`."""
    total, done = sum(member.size for member in members), 0
    made = set()
    for member in members:
        target = folder / member.path
        parent = target if member.is_folder else target.parent
        if parent not in made:
            parent.mkdir(parents=True, exist_ok=True)
            made.add(parent)
        if member.is_folder:
            continue
        written = 0
        with reader.open(member) as source, target.open("xb") as sink:
            while chunk := source.read(CHUNK):
                written += len(chunk)
                if written > member.size:
                    break
                sink.write(chunk)
                report(done + written, total, f"unpacking {name}")
        if written != member.size:
            raise _Refused(f"{member.name!r} has not the {member.size} bytes that its header says")
        done += written


class _Names:
    """The paths so far, as a file system sees them that ignores case and composes accents."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[PurePosixPath, bool]] = {}

    def add(self, member: _Member) -> None:
        """Refuses a member that would be written onto another, on whatever file system."""
        for path in (*reversed(member.path.parents[:-1]), member.path):
            is_folder = member.is_folder or path != member.path
            key = unicodedata.normalize("NFC", str(path)).casefold()
            other, other_is_folder = self._seen.setdefault(key, (path, is_folder))
            if other is path:
                continue
            if other != path:
                raise _Refused(
                    f"{str(other)!r} and {str(path)!r} in it are one name where case does not count"
                )
            if not (is_folder and other_is_folder):
                raise _Refused(f"{str(path)!r} is in it twice")


class _Zip:
    """A zip archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def members(self) -> Iterator[_Member]:
        """Members in the order of the directory."""
        for info in self._archive.infolist():
            name = info.orig_filename
            # The upper half holds the mode where the archive was made on Unix, and 0 elsewhere.
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _Refused(f"{name!r} is a link or device")
            if info.flag_bits & 1:
                raise _Refused(f"{name!r} is encrypted")
            # Python's readers of the other methods unpack a whole read at once, however much that gives.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _Refused(f"{name!r} is packed by method {info.compress_type}, which is not supported")
            yield _Member(name, _safe_path(name), info.file_size, name.endswith("/"), info)

    def open(self, member: _Member) -> IO[bytes]:
        """The content of a file; its checksum is verified at the end."""
        return self._archive.open(member.source)


class _Tar:
    """A tar archive in a seekable stream of its unpacked bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._archive = tarfile.TarFile(fileobj=stream)

    def members(self) -> Iterator[_Member]:
        """Members in the order of the archive, which is read to its end."""
        for info in self._archive:
            if info.issym() or info.islnk():
                raise _Refused(f"{info.name!r} is a link to {info.linkname!r}")
            if not (info.isreg() or info.isdir()):
                raise _Refused(f"{info.name!r} is a device, or something else that is no file")
            yield _Member(info.name, _safe_path(info.name), info.size, info.isdir(), info)
        # tarfile takes a damaged header for the end. A missing end mark is no damage: some programs write none.
        self._stream.seek(self._archive.offset)
        if self._stream.read(tarfile.BLOCKSIZE).strip(tarfile.NUL):
            raise _Refused(f"it is damaged or cut short (at byte {self._archive.offset})")
        # gzip's checksum stands behind the padding.
        for _ in range(MAX_PADDING // CHUNK):
            if not self._stream.read(CHUNK):
                return
        raise _Refused("its end lies far behind its last file")

    def open(self, member: _Member) -> IO[bytes]:
        """The content of a file."""
        return self._archive.extractfile(member.source)


def _safe_path(name: str) -> PurePosixPath:
    """Where a member goes below the folder; refuses names that lead elsewhere or cannot be file names."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or WINDOWS_PATH.match(name):
        raise _Refused(f"{name!r} in it leads out of the folder")
    try:
        is_name = "\0" not in name and all(len(os.fsencode(part)) <= LONGEST_NAME for part in parts)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise _Refused(f"{name!r} in it cannot be a file name")
    return PurePosixPath(*parts)
