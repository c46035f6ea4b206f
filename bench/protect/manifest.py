"""The manifest of a protected folder: a line per image, appended as images finish, by which a run is resumed.

    protect.json     everything that can change a protected file; another request is refused
    manifest.jsonl   one JSON object per line; of several lines for one image the last one counts

A line is only believed if the file that it names still has the hash that it states, and the source still
has the hash that it had. So nothing has to be synced, and a line that was cut off is as good as none.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bench.errors import SpecError, UsageError
from bench.files import write_json
from bench.protect.output import Row, file_sha256

MANIFEST = "manifest.jsonl"
IDENTITY = "protect.json"
HASHES = ("sha256", "source_sha256", "annotation_sha256")
MISSING = object()


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept in memory of a line: the file, and its three hashes as bytes."""

    file: str
    hashes: bytes


class Manifest:
    """The manifest of `folder`, held by one process at a time.

    Args:
        folder: The output folder; made if it is missing.
        identity: Plain JSON values that decide what protected files look like.
        force: Forget what was done before.

    Raises:
        SpecError: The folder was protected with another identity.
        UsageError: It holds something else, or another process is writing to it.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], force: bool = False) -> None:
        self.folder = folder
        self.path = folder / MANIFEST
        self._entries: dict[str, Entry] = {}
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--output {folder} is a file; name a folder")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder, os.O_RDONLY)
        try:
            self._claim(identity, force)
            self._stream = _append_to(self.path)
            self._read()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()
        os.close(self._lock)

    def is_done(self, name: str, hashes: Callable[[], dict[str, str]]) -> bool:
        """Whether an image is protected already, by what is on the disk.

        Args:
            name: Name of the image.
            hashes: Gives `source_sha256` and `annotation_sha256`; called if there is a line at all.
        """
        entry = self._entries.get(name)
        if entry is None:
            return False
        try:
            found = {"sha256": file_sha256(self.folder / entry.file), **hashes()}
        except OSError:
            return False
        return _packed(found) == entry.hashes

    def file_of(self, name: str) -> Path:
        """The protected file of an image that has a line."""
        return self.folder / self._entries[name].file

    def append(self, row: Row) -> None:
        """Adds a line; what is in it is there for a later run even if this one is killed."""
        self._stream.write(_line(row))
        self._stream.flush()
        self._remember(row)

    def rows(self, names: Iterable[str] | None = None) -> Iterator[Row]:
        """The lines that count, of `names` in that order (those without one are left out), or of all."""
        places: dict[str, int] = {}
        with open(self.path, "rb") as stream:
            place = 0
            for line in stream:
                row = _parsed(line)
                if row is not None:
                    places[row["image"]] = place
                place += len(line)
            for name in sorted(places) if names is None else names:
                if name in places:
                    stream.seek(places[name])
                    row = _parsed(stream.readline())
                    assert row is not None
                    yield row

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Replaces all lines by `rows`, which may be read from the manifest meanwhile, atomically."""
        temporary = self.path.with_name(f".{MANIFEST}.part")
        entries, self._entries = self._entries, {}
        try:
            with open(temporary, "wb") as stream:
                for row in rows:
                    stream.write(_line(row))
                    self._remember(row)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            self._entries = entries
            temporary.unlink(missing_ok=True)
            raise
        self._stream.close()
        self._stream = _append_to(self.path)

    def _claim(self, identity: dict[str, Any], force: bool) -> None:
        """Makes sure that this process may write to the folder, and says with what."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another bench protect is writing to {self.folder}; wait for it") from None
        stated = self.folder / IDENTITY
        if not stated.exists() and any(self.folder.iterdir()):
            raise UsageError(
                f"--output {self.folder} holds files that bench protect did not write; name a new folder"
            )
        if force:
            self.path.unlink(missing_ok=True)
        elif self.path.exists() and self.path.stat().st_size:
            _require_same(_stated(stated), identity, self.folder)
        write_json(stated, identity)

    def _read(self) -> None:
        last = b"\n"
        with open(self.path, "rb") as stream:
            for last in stream:
                row = _parsed(last)
                if row is not None:
                    self._remember(row)
        if not last.endswith(b"\n"):  # a run was killed while it wrote this line
            self._stream.write(b"\n")
            self._stream.flush()

    def _remember(self, row: Row) -> None:
        if all(isinstance(row.get(name), str) for name in ("file", *HASHES)):
            self._entries[row["image"]] = Entry(row["file"], _packed(row))
        else:
            self._entries.pop(row["image"], None)


def _append_to(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), "ab")


def _stated(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _require_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    if before == now:
        return
    before, now = _flat(before), _flat(now)
    names = sorted(key for key in {*before, *now} if before.get(key, MISSING) != now.get(key, MISSING))
    changes = ", ".join(
        f"{name} {before.get(name, 'unset')!s:.80} -> {now.get(name, 'unset')!s:.80}" for name in names
    )
    raise SpecError(
        f"{folder} was protected with other options ({changes}): name another folder, or do all again with --force"
    )


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return flat


def _packed(values: dict[str, str]) -> bytes:
    return b"".join(bytes.fromhex(values[name]) for name in HASHES)


def _line(row: Row) -> bytes:
    return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _parsed(line: bytes) -> Row | None:
    """A row, or None where a line was cut off or damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("image"), str) else None
