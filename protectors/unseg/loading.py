"""Feeds a training: samples are decoded and jittered by threads, ahead of the step that takes them.

Decoding, resizing and jittering release Python's global lock, so threads do, and unlike processes they share
the kept images. A sample depends on its position alone, so results do not depend on the number of threads.
Importing this module imports torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from protectors.unseg.parallel import Share
from protectors.unseg.samples import SampleStream, collate

Loaded = tuple[Tensor, Tensor]
AHEAD = 2
"""Batches that are being made while one is taken."""


def batches(stream: SampleStream, first: int, last: int, share: Share, workers: int) -> Iterator[Loaded]:
    """Batches `first` to `last` of a stream, of each the rows of `share`.

    Closing the iterator drops what was not begun.

    Args:
        stream: Where samples come from.
        first: Number of the first batch.
        last: Number after that of the last batch.
        share: Rows of each batch.
        workers: Threads; 0 makes every batch when it is asked for.

    Raises:
        DatasetError: A sample cannot be made.
    """

    def positions(step: int) -> range:
        return range(step * share.total + share.start, step * share.total + share.stop)

    # The first one is made here in any case: data sets read their lists when they are first asked, which not
    # all of them may do in several threads.
    begun = min(first + 1, last) if workers else last
    for step in range(first, begun):
        yield collate([stream.sample(position) for position in positions(step)])
    if begun == last:
        return
    waiting: deque[list[Future[Loaded]]] = deque()
    # A thread each: teams of threads inside them would only take the cores from one another.
    pool = ThreadPoolExecutor(workers, "samples", initializer=torch.set_num_threads, initargs=(1,))
    try:
        for step in range(begun, last):
            waiting.append([pool.submit(stream.sample, position) for position in positions(step)])
            if len(waiting) > AHEAD:
                yield collate([future.result() for future in waiting.popleft()])
        while waiting:
            yield collate([future.result() for future in waiting.popleft()])
    finally:
        pool.shutdown(cancel_futures=True)
