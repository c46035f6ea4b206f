"""What the recipes of several victims share. Imports nothing heavy."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

from bench.errors import SpecError
from bench.victim import DataInfo, Task

Flips = Literal["all", "horizontal"]

DETECTION_META = ("img_id", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
"""What mmdet's models want to know of an image."""


class Length(Protocol):
    """Options that say how long a training is."""

    iterations: int
    epochs: int | None
    batch_size: int


def training_length(options: Length, data: DataInfo) -> int:
    """Iterations, from `epochs` where it is set."""
    if options.epochs is None:
        return options.iterations
    return max(1, math.ceil(options.epochs * data.train_images / options.batch_size))


def random_flip(flips: Flips) -> dict[str, Any]:
    """The transform: `all` is horizontal, vertical and both, for images without an upright."""
    if flips == "all":
        return {"type": "RandomFlip", "prob": 0.75, "direction": ["horizontal", "vertical", "diagonal"]}
    return {"type": "RandomFlip", "prob": 0.5}


def count_things(victim: str, data: DataInfo, task: Task) -> int:
    """Number of thing categories.

    Raises:
        SpecError: There are none.
    """
    things = sum(category.is_thing for category in data.categories)
    if not things:
        raise SpecError(f"victim {victim!r}: the dataset has no things, which task {task!r} needs")
    return things
