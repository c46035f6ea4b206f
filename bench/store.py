"""The content-addressed store: finished stages by key, records by key, nothing half-written.

Layout of a store (default `results/`):

    stages/<kind>/<key>/            a finished stage: `stage.json` and what it made
    stages/<kind>/<key>.partial/    a stage that is running, or was interrupted; its checkpoints are in here
    records/<key>/record.json       one evaluated cell, with per_image.parquet and per_class.parquet
    locks/<kind>-<key>.lock         held (flock) by the process that works on the stage
    fingerprints/                   remembered hashes of unchanged dataset files

A stage is worked on in `<key>.partial` and renamed when it is complete, so a folder without that suffix
is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import ArtifactCorrupt, EnvironmentFault
from bench.files import explained, sync_folder, write_json

STAGE_FILE = "stage.json"
REQUEST_FILE = "request.json"
FAILURE_FILE = "failure.json"


class Store:
    """A folder of stages and records."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def prepare(self) -> None:
        """Creates the store's folder and makes sure that it can be written.

        Raises:
            EnvironmentFault: It is no folder, or cannot be written.
        """
        if self.root.exists() and not self.root.is_dir():
            raise EnvironmentFault(f"{self.root} is a file: name a folder with --store")
        with explained(self.root):
            (self.root / "stages").mkdir(parents=True, exist_ok=True)
            probe = self.root / f".writable-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()

    def stage_folder(self, kind: str, key: str) -> Path:
        """Where a finished stage lies."""
        return self.root / "stages" / kind / key

    def partial_folder(self, kind: str, key: str) -> Path:
        """Where a stage is being made."""
        return self.root / "stages" / kind / f"{key}.partial"

    def record_folder(self, key: str) -> Path:
        """Where the record of a cell lies."""
        return self.root / "records" / key

    def is_done(self, kind: str, key: str) -> bool:
        """Whether the stage is complete."""
        return (self.stage_folder(kind, key) / STAGE_FILE).is_file()

    def stage_info(self, kind: str, key: str) -> dict[str, Any]:
        """The `stage.json` of a finished stage.

        Raises:
            ArtifactCorrupt: It is missing or no JSON.
        """
        path = self.stage_folder(kind, key) / STAGE_FILE
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise ArtifactCorrupt(
                f"{path} cannot be read ({error}): remove {path.parent} and run again"
            ) from error

    def failure(self, kind: str, key: str) -> dict[str, Any] | None:
        """What the last worker of an unfinished stage said when it failed."""
        path = self.partial_folder(kind, key) / FAILURE_FILE
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None

    def open_partial(self, kind: str, key: str, request: dict[str, Any]) -> Path:
        """Creates, or finds again, the folder in which a stage is made."""
        folder = self.partial_folder(kind, key)
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FAILURE_FILE).unlink(missing_ok=True)
        write_json(folder / REQUEST_FILE, request)
        return folder

    def finish(self, kind: str, key: str, info: dict[str, Any]) -> Path:
        """Writes `stage.json` and renames the partial folder into place."""
        partial, final = self.partial_folder(kind, key), self.stage_folder(kind, key)
        write_json(partial / STAGE_FILE, info)
        with explained(final):
            if final.exists():  # only a folder without stage.json: `is_done` said no
                shutil.rmtree(final)
            os.rename(partial, final)
            sync_folder(final.parent)
        return final

    def discard(self, kind: str, key: str) -> None:
        """Removes a stage, finished or not."""
        for folder in (self.stage_folder(kind, key), self.partial_folder(kind, key)):
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, kind: str, key: str) -> Iterator[bool]:
        """Tries to be the one process that works on a stage; yields whether it is.

        The lock is the operating system's: it goes with its holder, however that ends.
        """
        path = self.root / "locks" / f"{kind}-{key}.lock"
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    def record_keys(self) -> list[str]:
        """Keys of all records, sorted."""
        folder = self.root / "records"
        return sorted(p.parent.name for p in folder.glob("*/record.json")) if folder.is_dir() else []
