"""Puts a data set of the catalog onto the user's disk: downloaded, checked, unpacked, and opened once.

Downloads lie in the user's cache. Archives are unpacked beside the destination, in
`.<folder>.obtaining-<name>`, which an attempt that was interrupted leaves and the next one goes on from; the
destination appears when everything is in it. A receipt there names the archives that it was made of.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from bench import cache, registry
from bench.archives import ArchiveError, require_room, unpack
from bench.datasets.base import Dataset
from bench.datasets.catalog import CATALOG, find
from bench.datasets.catalog_entry import Archive, CatalogEntry
from bench.downloads import DownloadFailed, Patience, Report, fetch
from bench.errors import BenchError, EnvironmentFault
from bench.files import explained, write_json

RECEIPT = ".bench_receipt.json"
"""In the destination: which archives it was made of."""
MAX_RATIO = 20
"""How many times its own size an archive may unpack to. Images hardly shrink and jsons several times; a bomb grows a
thousandfold."""


class NotObtained(EnvironmentFault):
    """A data set that has to be got by hand; the message holds the steps, in several lines."""

    kind = "download"


@dataclass(frozen=True)
class Obtained:
    """A data set on the disk.

    Attributes:
        entry: What the catalog says about it.
        root: The folder to give as the dataset's folder.
        unpacked: Names of the archives that this call unpacked; empty if everything was there.
    """

    entry: CatalogEntry
    root: Path
    unpacked: tuple[str, ...]


def obtain(
    name: str,
    destination: Path,
    report: Report = lambda done, total, note: None,
    patience: Patience | None = None,
    *,
    keep_archives: bool = True,
    catalog: Mapping[str, CatalogEntry] = CATALOG,
) -> Obtained:
    """Downloads and unpacks a data set, and checks its layout; what is there already is left as it is.

    A folder that already holds the data set, got by hand, is checked and nothing else.

    Args:
        name: Its name in the catalog.
        destination: The folder for it: absent, empty, or one that an earlier call made. Data sets
            with archives in common (COCO's two) may share a folder.
        report: Called with done and total bytes and what is being done.
        patience: How long servers are waited for.
        keep_archives: Whether the downloads stay in the cache.
        catalog: The data sets by name.

    Raises:
        UnknownName: The catalog does not have it.
        NotObtained: It is to be got by hand: there is no automatic download, the download failed, or
            `destination` holds something else.
        ArchiveError: An archive cannot be unpacked.
        DiskFull: There is no room for it.
        DatasetError: What was unpacked does not pass the adapter's check.
    """
    entry = find(name, catalog)
    adapter = registry.load("dataset", entry.adapter)
    destination = Path(os.path.realpath(destination))

    def waiting() -> None:
        report(0, 0, f"waiting for another process that writes to {destination}")

    with cache.lock(hashlib.sha256(os.fsencode(destination)).hexdigest(), waiting):
        receipt = _receipt(destination)
        shared = [archive for archive in entry.archives if archive.remote.sha256 in receipt]
        if _holds_something(destination) and not shared:
            return _got_by_hand(entry, adapter, destination)
        if not entry.archives:
            raise NotObtained(f"{entry.title} is not downloaded automatically.\n\n{entry.instructions()}")
        missing = [archive for archive in entry.archives if archive not in shared]
        _add(missing, entry, receipt, destination, report, patience, keep_archives)
    report(0, 0, f"checking {entry.title}")
    dataset = _opened(entry, adapter, destination)
    dataset.check()
    return Obtained(entry, dataset.root, tuple(archive.remote.name for archive in missing))


def _add(
    missing: list[Archive],
    entry: CatalogEntry,
    receipt: dict[str, str],
    destination: Path,
    report: Report,
    patience: Patience | None,
    keep_archives: bool,
) -> None:
    """Makes the destination, or completes it, and clears up."""
    staging = destination.with_name(f".{destination.name}.obtaining-{entry.name}")
    if not missing:
        shutil.rmtree(staging, ignore_errors=True)
        return
    _check_room(missing, destination, staging)
    with explained(destination, "folder"):
        try:
            parts = [_part(archive, entry, staging, report, patience) for archive in missing]
            _assemble(entry, parts, staging, destination, receipt, report)
        finally:
            with contextlib.suppress(OSError):
                staging.rmdir()
    if not keep_archives:
        for archive in missing:
            cache.place_of(archive.remote.sha256).unlink(missing_ok=True)


def _got_by_hand(entry: CatalogEntry, adapter: type[Dataset], destination: Path) -> Obtained:
    """A folder that was made by somebody else, if it is the data set."""
    try:
        dataset = _opened(entry, adapter, destination)
        dataset.check()
    except BenchError as error:
        raise NotObtained(
            f"{destination} is not empty and not {entry.title}: {error}.\n"
            f"Give another folder, or mend this one.\n\n{entry.instructions()}"
        ) from error
    return Obtained(entry, dataset.root, ())


def _opened(entry: CatalogEntry, adapter: type[Dataset], destination: Path) -> Dataset:
    return adapter(destination, adapter.resolve_options("paper", dict(entry.options)))


def _receipt(destination: Path) -> dict[str, str]:
    """Names of the archives that a folder was made of, by sha256; empty where there is no receipt."""
    try:
        return dict(json.loads((destination / RECEIPT).read_text(encoding="utf-8"))["archives"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _holds_something(folder: Path) -> bool:
    return os.path.lexists(folder) and not (folder.is_dir() and next(folder.iterdir(), None) is None)


def _check_room(missing: list[Archive], destination: Path, staging: Path) -> None:
    """Raises `DiskFull` where there is clearly no room: images, which hardly shrink, unpack to their archive's size."""
    unpacked = [archive for archive in missing if not (staging / archive.remote.sha256).is_dir()]
    absent = [a.remote.size for a in unpacked if not cache.place_of(a.remote.sha256).is_file()]
    download = sum(absent)
    content = sum(archive.remote.size for archive in unpacked)
    if _device(cache.cache_folder()) == _device(destination):
        require_room(destination, download + content, "the data set, packed and unpacked,")
    else:
        require_room(cache.cache_folder(), download, "the download (BENCH_CACHE names another place for it)")
        require_room(destination, content, "the data set")


def _device(folder: Path) -> int:
    return next(place.stat().st_dev for place in (folder, *folder.parents) if place.exists())


def _part(
    archive: Archive, entry: CatalogEntry, staging: Path, report: Report, patience: Patience | None
) -> Path:
    """The folder with an archive's files where they will lie in the data set; made unless it is there."""
    part = staging / archive.remote.sha256
    if part.is_dir():
        return part
    source = _fetched(archive, entry, report, patience)
    unfinished = staging / f"{archive.remote.sha256}.unfinished"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    _unpack(source, unfinished / archive.into, archive.remote.name, report, archive.wants)
    for inner in archive.nested:
        packed = unfinished / inner
        if not packed.is_file():
            raise ArchiveError(
                f"{archive.remote.name} has no {inner}; report this as a defect of the catalog"
            )
        unpacked = packed.with_name(f"{packed.name}.unpacked")
        _unpack(packed, unpacked, packed.name, report, archive.wants)
        _move_into(unpacked, packed.parent)
        shutil.rmtree(unpacked)
        packed.unlink()
    os.replace(unfinished, part)
    return part


def _fetched(archive: Archive, entry: CatalogEntry, report: Report, patience: Patience | None) -> Path:
    """The archive in the cache, from the first server that has it."""
    failures = []
    for url in (archive.remote.url, *archive.mirrors):
        try:
            return fetch(replace(archive.remote, url=url), report, patience)
        except DownloadFailed as error:
            failures.append(error)
    lines = "\n".join(str(error) for error in failures)
    raise NotObtained(f"{lines}\n\n{entry.instructions()}") from failures[-1]


def _unpack(
    source: Path, folder: Path, name: str, report: Report, keep: Callable[[PurePosixPath], bool]
) -> None:
    unpack(source, folder, max_bytes=MAX_RATIO * source.stat().st_size, report=report, name=name, keep=keep)


def _assemble(
    entry: CatalogEntry,
    parts: list[Path],
    staging: Path,
    destination: Path,
    receipt: dict[str, str],
    report: Report,
) -> None:
    """Moves the parts into one folder, which becomes the destination unless that is to be completed.

    Interrupted anywhere, it does the rest the next time: moved files are gone from their part, whose folder
    stays until the end.
    """
    whole = destination if receipt else staging / "whole"
    whole.mkdir(exist_ok=True)
    for part in parts:
        _move_into(part, whole)
    if entry.finish:
        entry.finish(whole, report)
    # The receipt must not be on the disk before what it vouches for.
    os.sync()
    names = {archive.remote.sha256: archive.remote.name for archive in entry.archives}
    # Its own temporary file, if this is where the process ends, goes with the staging folder.
    write_json(staging / RECEIPT, {"archives": {**receipt, **names}})
    os.replace(staging / RECEIPT, whole / RECEIPT)
    if whole != destination:
        os.replace(whole, destination)
    shutil.rmtree(staging)


def _move_into(source: Path, target: Path) -> None:
    """Moves what lies in `source` into `target`; folders of one name are merged."""
    for path in sorted(source.iterdir()):
        goal = target / path.name
        if path.is_dir() and goal.is_dir():
            _move_into(path, goal)
        elif os.path.lexists(goal):
            raise ArchiveError(f"{goal} is in the way of a file of the data set; move it elsewhere")
        else:
            os.replace(path, goal)
