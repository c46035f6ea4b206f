"""The base of datasets that tests hold in memory: no folder, nothing to check and nothing to copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from bench.datasets.base import Dataset, Split


class MemoryDataset(Dataset):
    """A subclass gives ids, images and annotations."""

    def __init__(self) -> None:
        super().__init__(Path("memory"))

    def check(self) -> None:
        """Nothing can be wrong."""

    def image_path(self, split: Split, image_id: str) -> Path:
        return self.root / f"{image_id}.png"

    def files(self) -> Iterator[Path]:
        return iter(())

    def write_copy(self, destination: Path, write_image: Callable[[str, Path, Path], Path]) -> None:
        raise NotImplementedError
