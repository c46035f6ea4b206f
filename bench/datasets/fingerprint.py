"""The fingerprint of a dataset: what its bytes are, wherever its folder lies."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.datasets.base import Dataset
from bench.datasets.layout import normalised
from bench.errors import DatasetError

RACY_SECONDS = 2.0
"""A file that changed this recently is hashed again next time: a second change within the same tick of the
file system's clock would leave size and time as they are."""


def fingerprint(dataset: Dataset, cache: Path | None = None) -> str:
    """sha256 over the sorted (relative path, size, sha256 of the content) of `dataset.files()`.

    Args:
        dataset: A dataset whose `check` passes.
        cache: A json file outside the dataset that remembers hashes by path, size, modification time and
            inode, so that an unchanged folder is not read again. Written atomically; a damaged one is
            ignored. None: read everything.

    Returns:
        64 hexadecimal digits.

    Raises:
        DatasetError: A file of the dataset is missing or cannot be read.
    """
    known = _read_cache(cache)
    remembered: dict[str, list[Any]] = {}
    lines = []
    root = os.path.realpath(dataset.root)
    for relative in dataset.files():
        path = dataset.root / relative
        try:
            status = path.stat()
            # Asked before hashing: a file that changes meanwhile is not remembered under its new time.
            now = time.time()
            key, stamp = os.path.join(root, relative), [status.st_size, status.st_mtime_ns, status.st_ino]
            digest = known[key][3] if known.get(key, [])[:3] == stamp else _sha256(path)
        except OSError as error:
            raise DatasetError(
                f"cannot read {path}: {error.strerror or error}; restore it or take it out of the dataset"
            ) from None
        if now - status.st_mtime > RACY_SECONDS:
            remembered[key] = [*stamp, digest]
        lines.append(f"{normalised(relative.as_posix())}\0{status.st_size}\0{digest}\n")
    if cache is not None and remembered != known:
        _write_cache(cache, remembered)
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_cache(cache: Path | None) -> dict[str, list[Any]]:
    try:
        content = json.loads(cache.read_text(encoding="utf-8")) if cache is not None else {}
        return {str(key): [int(a), int(b), int(c), str(d)] for key, (a, b, c, d) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_cache(cache: Path, content: dict[str, list[Any]]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=cache.parent, prefix=cache.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(temporary, cache)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
