"""What the recipes of several victims share. Imports nothing heavy."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from bench.errors import EnvironmentFault, SpecError
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


def warmed_cosine(
    iterations: int, warmup: int, start_factor: float, eta_min: float = 0.0
) -> list[dict[str, Any]]:
    """Schedulers: a linear warm-up, where it has a length, then a cosine decay.

    Args:
        iterations: Length of the training.
        warmup: Iterations of it that warm up.
        start_factor: Share of the learning rate that the warm-up starts with.
        eta_min: Learning rate at the end.
    """
    decay = {
        "type": "CosineAnnealingLR",
        "begin": warmup,
        "end": iterations,
        "T_max": iterations - warmup,
        "eta_min": eta_min,
        "by_epoch": False,
    }
    if not warmup:
        return [decay]
    rise = {"type": "LinearLR", "start_factor": start_factor, "begin": 0, "end": warmup, "by_epoch": False}
    return [rise, decay]


def shipped_config(package: str, name: str) -> Any:
    """A config file that mmdet or mmseg ships.

    Args:
        package: `mmdet` or `mmseg`.
        name: Path in its folder of configs.

    Returns:
        mmengine `Config`.

    Raises:
        EnvironmentFault: The package or the file is missing.
    """
    from mmengine.config import Config

    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentFault(f"package {package!r}, which holds {name}, is not installed: install it")
    path = Path(spec.submodule_search_locations[0]) / ".mim" / "configs" / name
    if not path.is_file():
        raise EnvironmentFault(f"{path} is missing: reinstall {package}")
    # Its custom imports would load mmcv.ops before the stand-in for mmcv's compiled extension is there.
    return Config.fromfile(str(path), import_custom_modules=False)
