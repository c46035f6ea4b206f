"""A training set whose images a defense cleans before the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.datasets.base import Annotation, Dataset, Split
from bench.datasets.imageio import write_png


class PurifiedDataset(Dataset):
    """A view of a dataset in which the training images are files of another folder.

    Args:
        source: The dataset, with its labels.
        folder: Where `write` puts the images; exists.
    """

    name = "purified"

    def __init__(self, source: Dataset, folder: Path) -> None:
        super().__init__(source.root, source.options)
        self._source, self._folder = source, folder
        self._numbers = {image_id: number for number, image_id in enumerate(source.ids("train"))}
        self.tasks, self.classes, self.categories = source.tasks, source.classes, source.categories

    def write(
        self,
        purify: Callable[[str, np.ndarray], np.ndarray],
        report: Callable[[int, int, str], None] = lambda done, total, note: None,
    ) -> None:
        """Writes what `purify` makes of every training image, lossless; goes on where an interrupted one stopped.

        Args:
            purify: Maps the id and the pixels, `(H, W, 3)` uint8 RGB, to other pixels.
            report: Called as `report(done, total, note)`.
        """
        for number, image_id in enumerate(self._numbers):
            path = self.image_path("train", image_id)
            if not path.exists():
                written = path.with_suffix(".writing")
                write_png(written, purify(image_id, self._source.image("train", image_id)))
                written.replace(path)
            report(number + 1, len(self._numbers), "images purified")

    def check(self) -> None:
        """Validates the source; see `Dataset.check`."""
        self._source.check()

    def ids(self, split: Split) -> tuple[str, ...]:
        """Those of the source."""
        return self._source.ids(split)

    def image_path(self, split: Split, image_id: str) -> Path:
        """The purified file of a training image; that of the source for all others."""
        if split != "train":
            return self._source.image_path(split, image_id)
        return self._folder / f"{self._numbers[image_id]:08d}.png"

    def annotation(self, split: Split, image_id: str) -> Annotation:
        """The labels of the source."""
        return self._source.annotation(split, image_id)

    def files(self) -> Iterator[Path]:
        """Those of the source."""
        return self._source.files()

    def write_copy(self, destination: Path, write_image: Callable[[str, Path, Path], Path]) -> None:
        """Not possible: what is purified here is trained on, and never protected again."""
        raise NotImplementedError("a purified dataset has no layout of its own")
