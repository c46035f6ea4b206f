"""A dataset in memory, and helpers that the tests of training and victims share."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from memory_dataset import MemoryDataset

from bench.datasets.base import TASKS, Annotation, Category, Dataset, Segment, Split
from bench.datasets.shapes.scenes import CLASSES, draw_scene
from bench.defense import Defense
from bench.victim import DataInfo, TrainingRecipe, Victim


class MemoryShapes(MemoryDataset):
    """Scenes of `shapes`, cut to any size, drawn when asked for.

    Args:
        train: Number of training images.
        val: Number of validation images.
        sizes: Heights and widths (at most 64), taken in turn.
    """

    name: ClassVar[str] = "memory"

    def __init__(
        self, train: int = 6, val: int = 3, sizes: tuple[tuple[int, int], ...] = ((64, 64),)
    ) -> None:
        super().__init__()
        self.tasks = frozenset(TASKS)
        self.classes = ("background", *CLASSES)
        self.categories = (Category("background", False), *(Category(name, True) for name in CLASSES))
        self._counts = {"train": train, "val": val}
        self._sizes = sizes

    def ids(self, split: Split) -> tuple[str, ...]:
        return tuple(f"{split}{index}" for index in range(self._counts[split]))

    def image(self, split: Split, image_id: str) -> np.ndarray:
        return self._scene(split, image_id)[0]

    def annotation(self, split: Split, image_id: str) -> Annotation:
        _, instances, kinds = self._scene(split, image_id)
        semantic = np.array((0, *kinds), np.uint8)[instances]
        things = tuple(
            Segment(instances == index + 1, kind)
            for index, kind in enumerate(kinds)
            if (instances == index + 1).any()
        )
        return Annotation(semantic, (Segment(instances == 0, 0), *things), semantic > 0)

    def _scene(self, split: str, image_id: str) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
        index = int(image_id.removeprefix(split))
        height, width = self._sizes[index % len(self._sizes)]
        scene = draw_scene(1 if split == "train" else 2, index)
        return scene.image[:height, :width].copy(), scene.instances[:height, :width], scene.categories


class Identity(Defense):
    """No defense."""

    name: ClassVar[str] = "identity"


def recipe_of(
    victim: type[Victim], dataset: Dataset, task: str, profile: str = "ci", **options: Any
) -> TrainingRecipe:
    """The recipe of a victim for a dataset."""
    info = DataInfo(
        classes=dataset.classes,
        categories=dataset.categories,
        image_size=max(max(dataset.image("train", name).shape[:2]) for name in dataset.ids("train")),
        train_images=len(dataset.ids("train")),
    )
    return victim(victim.resolve_options(profile, options)).recipe(info, task, "scratch", profile)
