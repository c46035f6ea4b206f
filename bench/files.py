"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import DiskFull, EnvironmentFault


def atomic_write(path: Path, data: bytes | str) -> None:
    """Writes `data` to `path` through a temporary file in the same folder.

    The file and its folder are synced, so what is there after a power cut is whole. If `path` cannot be
    written the old content stays.

    Raises:
        DiskFull: No space is left.
        EnvironmentFault: The folder cannot be written to.
    """
    if isinstance(data, str):
        data = data.encode()
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Atomically writes `value` as indented JSON; NaN is refused."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_ACCESS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EBUSY})


@contextlib.contextmanager
def explained(path: Path, another: str = "place with --store", afterwards: str = "") -> Iterator[None]:
    """Turns the operating system's errors about `path` into one line that says how to mend them.

    Args:
        path: What is written.
        another: What the user can name instead.
        afterwards: What to do about a full disk, where it is more than that.

    Raises:
        DiskFull: No space is left.
        EnvironmentFault: It cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            mend = afterwards or f"free some, or name another {another}"
            raise DiskFull(f"no space left where {path} lies: {mend}") from error
        if error.errno in NO_ACCESS:
            raise EnvironmentFault(
                f"cannot write {error.filename or path} ({error.strerror}): make it writable, or name another {another}"
            ) from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
