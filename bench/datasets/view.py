"""Datasets that show another one with a part of it changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.datasets.base import Annotation, Dataset, Split


class DatasetView(Dataset):
    """Another dataset as it is: what a view changes, it overrides.

    Views are trained and tested on, and never protected: they have no layout of their own.

    Args:
        source: The dataset.
    """

    name: ClassVar[str] = "view"

    def __init__(self, source: Dataset) -> None:
        super().__init__(source.root, source.options)
        self.source = source
        self.tasks, self.classes, self.categories = source.tasks, source.classes, source.categories

    def check(self) -> None:
        """Validates the source; see `Dataset.check`."""
        self.source.check()

    def ids(self, split: Split) -> tuple[str, ...]:
        """Those of the source."""
        return self.source.ids(split)

    def image_path(self, split: Split, image_id: str) -> Path:
        """The file of the source."""
        return self.source.image_path(split, image_id)

    def annotation(self, split: Split, image_id: str) -> Annotation:
        """The labels of the source."""
        return self.source.annotation(split, image_id)

    def files(self) -> Iterator[Path]:
        """Those of the source."""
        return self.source.files()

    def write_copy(self, destination: Path, write_image: Callable[[str, Path, Path], Path]) -> None:
        """Not possible."""
        raise NotImplementedError("a view of a dataset has no layout of its own")


Change = Callable[[Split, str, np.ndarray], np.ndarray]
"""Maps split, id and pixels of an image, `(H, W, 3)` uint8 RGB, to other pixels of that size."""


class TransformedDataset(DatasetView):
    """A view whose images go through a function, each time that they are read.

    Args:
        source: The dataset.
        change: What becomes of an image.
    """

    name: ClassVar[str] = "transformed"

    def __init__(self, source: Dataset, change: Change) -> None:
        super().__init__(source)
        self._change = change

    def image(self, split: Split, image_id: str) -> np.ndarray:
        """The changed image; see `Dataset.image`."""
        return self._change(split, image_id, self.source.image(split, image_id))
