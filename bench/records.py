"""Records: one JSON file per evaluated cell, complete or absent, that a reader can check for itself."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.errors import ArtifactCorrupt
from bench.files import explained, write_json
from bench.keys import canonical
from bench.machine import code_revision
from bench.plan import PlannedCell
from bench.spec import identity_of
from bench.store import Store

SCHEMA_VERSION = 1
RECORD_FILE = "record.json"
TABLES = ("per_image.parquet", "per_class.parquet")
CURVE = "curve.json"
"""Of a training: its loss; of an evaluation: its score, both over the iterations."""
LOSS_CURVE = "loss_curve.json"


def write_done(store: Store, cell: PlannedCell) -> dict[str, Any]:
    """Writes the record of a cell whose stages are all done, and returns it.

    An existing record of the same stages is left as it is: the repeat of a run changes no file.
    """
    if existing := finished_records(store, [cell.key]):
        return existing[cell.key]
    infos = {
        role: store.stage_info(*stage_id) for role, stage_id in zip(cell.stages, cell.stage_ids, strict=True)
    }
    evaluated = infos["evaluate"]
    source = store.stage_folder("evaluate", cell.key)
    target = store.record_folder(cell.key)
    with explained(target):
        target.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            shutil.copyfile(source / name, target / name)
        shutil.copyfile(store.stage_folder("train", cell.stages["train"]) / CURVE, target / LOSS_CURVE)
    record = {
        **_head(cell, "done"),
        "scores": evaluated["summary"],
        "curve": json.loads((source / CURVE).read_text(encoding="utf-8")),
        "protection": infos["protect"]["summary"],
        "training": infos["train"]["summary"],
        "files": {name: _sha256(target / name) for name in (*TABLES, LOSS_CURVE)},
        "cost": {role: info["cost"] for role, info in infos.items()},
        "device": infos["train"]["device"],
        "threads": infos["train"]["threads"],
        "machine": infos["train"]["machine"],
        "versions": infos["train"]["versions"],
    }
    return _write(store, record)


def write_unfinished(store: Store, cell: PlannedCell, status: str, reason: str) -> dict[str, Any]:
    """Writes the record of a cell that failed, was skipped or interrupted. It never counts as a result.

    A result that another runner recorded meanwhile stays, and is returned.
    """
    if existing := finished_records(store, [cell.key]):
        return existing[cell.key]
    return _write(store, {**_head(cell, status), "reason": reason})


def read_record(store: Store, key: str) -> dict[str, Any]:
    """Reads and checks a record.

    Raises:
        ArtifactCorrupt: It is no JSON, its checksum differs, or a newer version of `bench` wrote it.
    """
    path = store.record_folder(key) / RECORD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        body = {k: v for k, v in record.items() if k != "sha256"}
        whole = record["sha256"] == _digest(body)
        schema = record["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactCorrupt(f"{path} is no record ({error}): remove it and run again") from error
    if not whole:
        raise ArtifactCorrupt(f"{path} was changed after it was written: remove it and run again")
    if schema > SCHEMA_VERSION:
        raise ArtifactCorrupt(f"{path} was written by a newer bench (schema {schema}): update bench")
    return record


def finished_records(store: Store, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The records of those of `keys` that are done, with all files that belong to them, by key.

    Raises:
        ArtifactCorrupt: As for `read_record`.
    """
    found = {
        key: read_record(store, key) for key in keys if (store.record_folder(key) / RECORD_FILE).is_file()
    }
    return {
        key: record
        for key, record in found.items()
        if record["status"] == "done"
        and all((store.record_folder(key) / name).is_file() for name in record["files"])
    }


def read_records(store: Store, keys: list[str] | None = None) -> list[dict[str, Any]]:
    """All records of a store, or those of `keys` that exist, in the order of the keys."""
    known = store.record_keys()
    return [read_record(store, key) for key in (known if keys is None else [k for k in keys if k in known])]


def _head(cell: PlannedCell, status: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "key": cell.key,
        "status": status,
        "label": cell.label,
        "cell": identity_of(cell.cell),
        "stages": cell.stages,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "code": code_revision(),
    }


def _write(store: Store, record: dict[str, Any]) -> dict[str, Any]:
    # Through JSON and back, so that what is hashed is what a reader will see.
    record = json.loads(json.dumps(record, allow_nan=False))
    record["sha256"] = _digest(record)
    write_json(store.record_folder(record["key"]) / RECORD_FILE, record)
    return record


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
