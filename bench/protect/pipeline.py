"""From files to protected files, with the network at work while other files are read and written.

Images go in batches of consecutive files through three steps: threads read them, the calling thread runs the
protector, threads add the noise, encode, check and measure. Results come in the order of the files. What is on
the way is bounded by its pixels, so memory does not grow with the number of files.

A batch is made of consecutive files, by their order and the size in their headers alone. So neither the number
of threads nor an interruption changes a byte. Another `batch_size` may: a network may round the last bit of its
noise in another way, and a few channel values in ten million then fall on the other side of a rounding.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from bench.protect.output import Row, check_protected, checksum, write_protected
from bench.protect.protection import Computed, Loaded, Protection, Result
from bench.protector import within_budget

PIXELS_UNDER_WAY = 32_000_000
"""Pixels of the images between reading and writing; a larger image is alone. One takes about 25 bytes."""
BATCH_PIXELS = 16_000_000
"""A batch ends before it has more pixels than this."""
FILES_AHEAD = 4
"""Files that are under way for each thread, unless that is less than `BATCHES_AHEAD`."""
BATCHES_AHEAD = 3
"""Batches that are under way: one is read, one computed, one written."""


class Item(Protocol):
    """One image to protect."""

    @property
    def name(self) -> str:
        """What it is called in the manifest, and what its randomness is derived from."""

    @property
    def target(self) -> Path:
        """The file that is written, with the suffix of the codec."""


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True)
class Source(Generic[ItemT]):
    """How items are read.

    Attributes:
        load: Reads one; called in threads.
        pixels: Its number of pixels from the header; 0 if that cannot be read.
        is_done: Whether a protected file of it is there already and is to be left alone; called in threads.
    """

    load: Callable[[ItemT], Loaded]
    pixels: Callable[[ItemT], int]
    is_done: Callable[[ItemT], bool] = lambda item: False


@dataclass(frozen=True)
class Outcome(Generic[ItemT]):
    """What became of an item: protected (`row`), failed (`error`), or left alone (neither).

    Attributes:
        item: The item.
        row: What `write_protected` returned.
        error: Why there is no protected file.
        protected_share: Share of the pixels where `epsilon` applies.
        seconds: Time for reading, network and writing, without waiting.
        notes: What was done to the file to read it.
        hashes: Those of `Loaded`.
    """

    item: ItemT
    row: Row | None = None
    error: Exception | None = None
    protected_share: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)


def protect_items(
    protection: Protection,
    items: Iterable[ItemT],
    source: Source[ItemT],
    *,
    workers: int = 0,
    batch_size: int = 1,
) -> Iterator[Outcome[ItemT]]:
    """Protects images; what is wrong with one of them is its outcome, and the others go on.

    Args:
        protection: What is done.
        items: What it is done to.
        source: How it is read.
        workers: Threads for reading and writing; 0 does everything in the calling thread.
        batch_size: Images that the protector sees at once.

    Returns:
        An outcome for each item, in order. Closing it early waits for what is being written, and no more.

    Raises:
        EnvironmentFault: The device has too little memory.
        OSError: A protected file cannot be written.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="protect") if workers else _Immediate()
    ahead = max(FILES_AHEAD * workers, BATCHES_AHEAD * batch_size)
    waiting = _batches(items, source, batch_size)
    loading: deque[_Batch[ItemT]] = deque()
    finishing: deque[tuple[int, Future[Outcome[ItemT]]]] = deque()
    upcoming = next(waiting, None)
    pixels = files = 0
    try:
        while upcoming or loading or finishing:
            while upcoming and (
                not files or (files < ahead and pixels + upcoming.pixels <= PIXELS_UNDER_WAY)
            ):
                upcoming.start(pool, source)
                pixels, files = pixels + upcoming.pixels, files + len(upcoming.items)
                loading.append(upcoming)
                upcoming = next(waiting, None)
            if loading:
                finishing.extend(_compute(protection, loading.popleft(), source, pool))
            while finishing and (finishing[0][1].done() or not loading):
                size, future = finishing.popleft()
                pixels, files = pixels - size, files - 1
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class _Batch(Generic[ItemT]):
    """Consecutive items that the protector sees together, and the pixels of each."""

    items: list[ItemT] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    reading: list[Future[_Read]] = field(default_factory=list)

    @property
    def pixels(self) -> int:
        return sum(self.sizes)

    def start(self, pool: Any, source: Source[ItemT]) -> None:
        self.reading = [pool.submit(_read, item, source) for item in self.items]


@dataclass(frozen=True)
class _Read:
    """What reading an item came to: an image, an error, or neither, where the item is done already."""

    loaded: Loaded | None = None
    error: Exception | None = None
    checksum: int = 0
    seconds: float = 0.0


def _batches(items: Iterable[ItemT], source: Source[ItemT], size: int) -> Iterator[_Batch[ItemT]]:
    batch: _Batch[ItemT] = _Batch()
    for item in items:
        pixels = source.pixels(item)
        if batch.items and (len(batch.items) == size or batch.pixels + pixels > BATCH_PIXELS):
            yield batch
            batch = _Batch()
        batch.items.append(item)
        batch.sizes.append(pixels)
    if batch.items:
        yield batch


def _read(item: ItemT, source: Source[ItemT], again: bool = False) -> _Read:
    started = time.perf_counter()
    try:
        if not again and source.is_done(item):
            return _Read()
        loaded = source.load(item)
    except Exception as error:  # whatever is wrong with a file, the others must go on
        return _Read(error=error)
    return _Read(loaded, None, checksum(loaded.image), time.perf_counter() - started)


def _compute(
    protection: Protection, batch: _Batch[ItemT], source: Source[ItemT], pool: Any
) -> Iterator[tuple[int, Future[Outcome[ItemT]]]]:
    """Runs the protector on a batch and hands each image on as soon as it has its noise; with its pixels."""
    reads = [future.result() for future in batch.reading]
    is_done = [read.loaded is None and read.error is None for read in reads]
    if any(read.loaded for read in reads):
        # A batch that was interrupted is computed whole again: its noise must be what it would have been.
        reads = [
            _read(item, source, again=True) if skip else read
            for item, skip, read in zip(batch.items, is_done, reads, strict=True)
        ]
    present = [(item.name, read.loaded) for item, read in zip(batch.items, reads, strict=True) if read.loaded]
    computed = Computed(protection, present)
    for item, size, skip, read in zip(batch.items, batch.sizes, is_done, reads, strict=True):
        started = time.perf_counter()
        result = None if read.loaded is None else computed.take()
        seconds = read.seconds + time.perf_counter() - started
        if skip:
            yield size, _finished(Outcome(item))
        elif result is None or isinstance(result, Exception):
            yield size, _finished(Outcome(item, error=result or read.error))
        else:
            yield size, pool.submit(_finish, protection, item, read, result, seconds)


def _finish(
    protection: Protection, item: ItemT, read: _Read, result: Result, seconds: float
) -> Outcome[ItemT]:
    """Adds the noise and writes the file; runs in a thread."""
    assert read.loaded is not None
    started = time.perf_counter()
    image, foreground = read.loaded.image, result.annotation.foreground
    try:
        protected = result.protected
        if result.noise is not None:
            protected = within_budget(image, result.noise, protection.budget, foreground)
        check_protected(protection.protector.name, item.name, image, read.checksum, protected)
        row = write_protected(
            protection.protector,
            item.name,
            image,
            protected,
            result.annotation,
            protection.budget,
            protection.codec,
            item.target,
            read.loaded.extras,
            protection.quick,
        )
    except OSError as error:
        if error.errno is not None:  # the disk, not the image
            raise
        return Outcome(item, error=error)
    except Exception as error:
        return Outcome(item, error=error)
    seconds += time.perf_counter() - started
    return Outcome(
        item,
        row,
        protected_share=float(foreground.mean()),
        seconds=round(seconds, 4),
        notes=read.loaded.notes,
        hashes=read.loaded.hashes,
    )


def _finished(outcome: Outcome[ItemT]) -> Future[Outcome[ItemT]]:
    future: Future[Outcome[ItemT]] = Future()
    future.set_result(outcome)
    return future


class _Immediate:
    """An executor without threads."""

    def submit(self, function: Callable, *arguments: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        """Nothing is under way."""
