"""Which image each draw of a training takes, as a function of the seed and the draw's number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from bench.seeds import generator


class DrawSampler(Sampler[tuple[int, int]]):
    """Yields `(position, draw)` for the draws from `start` to `stop`.

    Draw number d belongs to epoch d // images and takes the (d mod images)-th entry of that epoch's
    permutation, so every epoch sees every image once, and a training that goes on from iteration i
    (`start = i * batch_size`) sees what an uninterrupted one would have seen.

    Args:
        images: Number of training images, at least 1.
        seed: Seed of the training.
        start: First draw.
        stop: Draw to stop before.
    """

    def __init__(self, images: int, seed: int, start: int, stop: int) -> None:
        self._images = images
        self._seed = seed
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        return max(0, self._stop - self._start)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = -1
        order = np.empty(0, np.int64)
        for draw in range(self._start, self._stop):
            if draw // self._images != epoch:
                epoch = draw // self._images
                order = generator(self._seed, "order", epoch).permutation(self._images)
            yield int(order[draw % self._images]), draw
