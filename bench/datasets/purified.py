"""A dataset of which a defense has cleaned images, once and for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.datasets.base import Dataset, Split
from bench.datasets.imageio import write_png
from bench.datasets.view import DatasetView


class PurifiedDataset(DatasetView):
    """A view of a dataset in which the images that were written are files of another folder.

    Args:
        source: The dataset, with its labels.
        folder: Where `write` puts the images.
    """

    name: ClassVar[str] = "purified"

    def __init__(self, source: Dataset, folder: Path) -> None:
        super().__init__(source)
        self._folder = folder
        self._paths: dict[tuple[Split, str], Path] = {}

    def write(
        self,
        split: Split,
        ids: Iterable[str],
        purify: Callable[[str, np.ndarray], np.ndarray],
        report: Callable[[int, int, str], None] = lambda done, total, note: None,
    ) -> None:
        """Writes what `purify` makes of images, lossless; goes on where an interrupted one stopped.

        Args:
            split: The split that they are in.
            ids: Which images; the same, in the same order, whenever it is called for this split and folder.
            purify: Maps the id and the pixels, `(H, W, 3)` uint8 RGB, to other pixels.
            report: Called as `report(done, total, note)`.
        """
        folder = self._folder / split
        folder.mkdir(parents=True, exist_ok=True)
        paths = {image_id: folder / f"{number:08d}.png" for number, image_id in enumerate(ids)}
        for done, (image_id, path) in enumerate(paths.items(), start=1):
            if not path.exists():
                written = path.with_suffix(".writing")
                write_png(written, purify(image_id, self.source.image(split, image_id)))
                written.replace(path)
            self._paths[split, image_id] = path
            report(done, len(paths), "images purified")

    def image_path(self, split: Split, image_id: str) -> Path:
        """The purified file, if it was written; else that of the source."""
        return self._paths.get((split, image_id)) or self.source.image_path(split, image_id)
