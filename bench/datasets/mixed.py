"""A training set of which the attacker has a part unprotected (tables 5, 8 and 9 of UnSeg)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from bench.datasets.base import Annotation, Dataset, Split
from bench.datasets.view import DatasetView
from bench.seeds import derive_seed


def clean_subset(
    ids: Iterable[str], ratio: float, seed: int, purpose: str = "clean images"
) -> frozenset[str]:
    """The ids of a training set that the attacker has clean: `round(ratio * n)` of them, at least one.

    The order of the ids changes nothing, and those of a smaller ratio are among those of a larger one.

    Args:
        ids: All ids.
        ratio: Share in (0, 1).
        seed: Seed of the cell.
        purpose: What they are for: other purposes have other draws.
    """
    order = sorted(ids, key=lambda image_id: derive_seed(seed, purpose, image_id))
    return frozenset(order[: max(1, round(ratio * len(order)))])


class MixedDataset(DatasetView):
    """A view of a protected dataset in which some training images are those of its source, and some are left out.

    Args:
        protected: The protected dataset.
        source: The dataset that it was made of.
        clean: Ids of the training images that are taken from `source`.
        left_out: Ids of training images that are not there.
    """

    name: ClassVar[str] = "mixed"

    def __init__(
        self,
        protected: Dataset,
        source: Dataset,
        clean: frozenset[str],
        left_out: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(protected)
        self._clean_source, self._clean, self._left_out = source, clean, left_out
        # The protected copy has the same; a source that was prepared may have more.
        self.tasks, self.classes, self.categories = source.tasks, source.classes, source.categories

    def check(self) -> None:
        """Validates both datasets; see `Dataset.check`."""
        self.source.check()
        self._clean_source.check()

    def ids(self, split: Split) -> tuple[str, ...]:
        """The ids of the protected dataset without those that are left out."""
        ids = self.source.ids(split)
        return tuple(i for i in ids if i not in self._left_out) if split == "train" else ids

    def image_path(self, split: Split, image_id: str) -> Path:
        """The file of the dataset that the image is taken from."""
        return self._of(split, image_id).image_path(split, image_id)

    def annotation(self, split: Split, image_id: str) -> Annotation:
        """The labels, which are the same in both."""
        return self._of(split, image_id).annotation(split, image_id)

    def _of(self, split: Split, image_id: str) -> Dataset:
        return self._clean_source if split == "train" and image_id in self._clean else self.source
