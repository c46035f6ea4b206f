"""The contract of a dataset adapter, and the annotation that every adapter decodes to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from bench.plugin import Plugin, PluginOptions

VOID = 255
"""Label of pixels that count neither in a loss nor in a metric."""

Task = Literal["semantic", "instance", "panoptic", "interactive", "binary", "detection"]
TASKS: tuple[Task, ...] = ("semantic", "instance", "panoptic", "interactive", "binary", "detection")
"""Wherever there are instances there is detection, which asks for their boxes alone."""
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True)
class Segment:
    """One instance (a thing) or one stuff region of an image.

    Attributes:
        mask: `(H, W)` bool.
        category: Contiguous index into `Dataset.categories`.
        is_crowd: A region of many instances that metrics ignore.
        box: `(x1, y1, x2, y2)` in pixels, ends exclusive, where the dataset gives boxes of its own, which may
            lie between pixels; None: the bounds of the mask.
    """

    mask: np.ndarray
    category: int
    is_crowd: bool = False
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Annotation:
    """The labels of one image.

    Attributes:
        semantic: `(H, W)` uint8 indices into `Dataset.classes`; 255 is void. For binary and interactive
            datasets 0 is background and 1 the object.
        segments: Instances and, for panoptic datasets, stuff regions; empty where the dataset has none.
        foreground: `(H, W)` bool, the union mask that UnSeg protects: every labelled pixel that is
            neither background nor void.
    """

    semantic: np.ndarray
    segments: tuple[Segment, ...]
    foreground: np.ndarray


@dataclass(frozen=True)
class Category:
    """A category of instances or stuff regions."""

    name: str
    is_thing: bool


class DatasetOptions(PluginOptions):
    """Options common to all adapters; an adapter may subclass it. All of them are identity."""


class Dataset(Plugin):
    """A segmentation dataset in its own layout.

    The constructor is cheap and validates nothing but its arguments; `check` validates the layout.
    Ids, and so all derived randomness, never depend on where the folder lies.

    Attributes, besides those of `Plugin`:
        version: Raised whenever the same folder and options would decode to other pixels or labels; part of
            the key.
        root: The folder that holds the layout. The constructor may correct a root that lies one level too
            high or too low.
        tasks: What can be trained on it. On the class, all that the adapter knows; on an instance, what its
            folder has labels for.
        classes: Names of the semantic classes, background first where there is one.
        categories: Names of the things and stuff of `Annotation.segments`; empty without segments.
    """

    Options: ClassVar[type[DatasetOptions]] = DatasetOptions
    generated: ClassVar[bool] = False
    """True if the dataset is drawn by code: `generate` writes it, and no folder is asked for."""
    tasks: frozenset[Task]
    classes: tuple[str, ...]
    categories: tuple[Category, ...] = ()

    def __init__(self, root: Path, options: DatasetOptions | None = None) -> None:
        super().__init__(options)
        self.root = Path(root)

    def generate(self, report: Callable[[int, int, str], None] = lambda done, total, note: None) -> None:
        """Draws the dataset into `root`, an empty or absent folder. Only where `generated`.

        Args:
            report: Called as `report(done, total, note)`, for the progress line.
        """
        raise NotImplementedError(f"{self.name} is not generated")

    @abstractmethod
    def check(self) -> None:
        """Validates the layout without decoding pixels.

        Raises:
            DatasetError: The first thing that is missing or wrong, where, and how to mend it.
        """

    def prepare(self, report: Callable[[int, int, str], None] = lambda done, total, note: None) -> list[str]:
        """Makes the derived files that programs expect beside this layout, where they are missing.

        Args:
            report: Called as `report(done, total, note)`, for the progress line.

        Returns:
            One line for each thing that was made; empty if nothing was missing, or the layout has none.

        Raises:
            DatasetError: What they are made of is missing or malformed.
        """
        return []

    @abstractmethod
    def ids(self, split: Split) -> tuple[str, ...]:
        """Image ids of a split in a stable order."""

    @abstractmethod
    def image_path(self, split: Split, image_id: str) -> Path:
        """The image file of an id."""

    @abstractmethod
    def annotation(self, split: Split, image_id: str) -> Annotation:
        """Decodes the labels of an image.

        Raises:
            DatasetError: The label file is missing, unreadable or of another size than the image.
        """

    @abstractmethod
    def files(self) -> Iterator[Path]:
        """Every file of the dataset that belongs to it, relative to `root`, in a stable order."""

    @abstractmethod
    def write_copy(self, destination: Path, write_image: Callable[[str, Path, Path], Path]) -> None:
        """Writes this dataset to `destination` with other training images, in the same layout.

        Labels and validation images are hard-linked (copied where links fail), so they are
        byte-identical. Lists and json files that name a training image by file name follow its new suffix.

        Args:
            destination: An empty folder.
            write_image: Called for each training image with `(image_id, source_path, target_path)`;
                writes the file (it may change the suffix) and returns the path that it wrote.
        """

    def nominal_side(self) -> int:
        """The longest side in pixels that victims and noise grids are sized for.

        Read from the headers of the first training images: sets of photographs have one size or nearly so.
        """
        from bench.datasets.imageio import image_size

        return max(max(image_size(self.image_path("train", i))) for i in self.ids("train")[:16])

    def image(self, split: Split, image_id: str) -> np.ndarray:
        """Decodes an image to `(H, W, 3)` uint8 RGB.

        Raises:
            DatasetError: The file is missing or unreadable, with its path.
        """
        from bench.datasets.imageio import read_rgb

        return read_rgb(self.image_path(split, image_id))
