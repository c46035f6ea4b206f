"""`random`: noise that knows nothing of the image, the control that stands beside every protector.

Under the mask budget its strength still follows the mask, which is a shortcut by itself; under the uniform
budget it is not. A table needs both, at the grain of the noise that they stand beside, because noise in
coarse cells and noise per pixel do very different things to a victim.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from bench.datasets.base import Annotation
from bench.protector import Protector, ProtectorOptions
from bench.seeds import generator


class RandomNoiseOptions(ProtectorOptions):
    """Options of `random`.

    Attributes:
        distribution: `sign`: each cell and channel is -1 or +1 of the budget; `uniform`: uniform in between.
        grid: Cells along the longer side of the image, which is the side of its zero-padded square. None, or
            as many as the side has pixels or more, gives every pixel its own noise.
        interpolation: How cells become pixels: `nearest` keeps them flat, `bilinear` blends neighbours, as
            UnSeg enlarges the noise of its generator, and so spends less than the budget between them.
        tile: Side in pixels of one pattern that is drawn once per run and repeated over every image, instead
            of new noise for each. A generator that has collapsed to a constant output makes exactly this.
    """

    distribution: Literal["sign", "uniform"] = "sign"
    grid: int | None = Field(default=None, ge=1)
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    tile: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _tile_or_grid(self) -> Self:
        if self.tile is not None and self.grid is not None:
            raise ValueError("a tile is drawn per pixel: give tile or grid, not both")
        return self


class RandomNoise(Protector):
    """Independent random noise in square cells."""

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "random noise, per pixel or in cells: the control for every other protector"
    Options: ClassVar[type[ProtectorOptions]] = RandomNoiseOptions
    options: RandomNoiseOptions

    def noise_grid(self, height: int, width: int) -> int:
        """The cells along the longer side."""
        side = max(height, width)
        return side if self.options.grid is None else min(self.options.grid, side)

    def noise(
        self,
        image: np.ndarray,
        annotation: Annotation,
        rng: np.random.Generator,
        state: Any,
        run_seed: int,
    ) -> np.ndarray:
        """`(H, W, 3)` float32 in [-1, 1]; neither the pixels nor the labels matter."""
        height, width = image.shape[:2]
        if self.options.tile is not None:
            tile = self._draw(generator(run_seed, "tile"), self.options.tile, self.options.tile)
            rows, columns = np.arange(height) % len(tile), np.arange(width) % len(tile)
            return tile[rows[:, None], columns]
        side, grid = max(height, width), self.noise_grid(height, width)
        if grid == side:
            return self._draw(rng, height, width)
        cells = self._draw(rng, grid, grid)
        enlarge = _nearest if self.options.interpolation == "nearest" else _bilinear
        rows = enlarge(cells, side)[:height]
        return np.ascontiguousarray(enlarge(rows.swapaxes(0, 1), side)[:width].swapaxes(0, 1))

    def _draw(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        shape = (height, width, 3)
        if self.options.distribution == "sign":
            return rng.integers(0, 2, shape, np.int8).astype(np.float32) * 2 - 1
        return rng.uniform(-1, 1, shape).astype(np.float32)


def _nearest(cells: np.ndarray, size: int) -> np.ndarray:
    """The first axis enlarged to `size`: each position takes the cell that its centre lies in."""
    return cells[(2 * np.arange(size) + 1) * len(cells) // (2 * size)]


def _bilinear(cells: np.ndarray, size: int) -> np.ndarray:
    """The first axis enlarged to `size`: linear between cell centres, constant beyond the outermost."""
    position = ((np.arange(size) + 0.5) * len(cells) / size - 0.5).clip(0, len(cells) - 1)
    low = position.astype(int)
    weight = (position - low).astype(np.float32)[:, None, None]
    return cells[low] * (1 - weight) + cells[np.minimum(low + 1, len(cells) - 1)] * weight
