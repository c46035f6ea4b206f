"""`resize`: the training images at a lower resolution, enlarged again."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from bench.defense import Defense, DefenseOptions, PreprocessingOptions


class ResizeOptions(PreprocessingOptions):
    """Options of `resize`.

    Attributes:
        factor: Of each side, above 0 and below 1. A side of two or more pixels loses at least one.
        interpolation: In both directions. On the way down its kernel is widened, so that nothing aliases.
    """

    factor: float = Field(default=0.5, gt=0, lt=1)
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"


class Resize(Defense):
    """Shrinks the image with antialiasing and enlarges it to its own size."""

    name: ClassVar[str] = "resize"
    summary: ClassVar[str] = "training images shrunk to half their sides and enlarged again"
    clean_drop: ClassVar[float | None] = 40.0
    time_factor: ClassVar[float] = 1.01
    Options: ClassVar[type[DefenseOptions]] = ResizeOptions
    options: ResizeOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The image without its fine detail, `(H, W, 3)` uint8. The same at every draw."""
        height, width = image.shape[:2]
        smaller = _shrunk(width, self.options.factor), _shrunk(height, self.options.factor)
        method = Image.Resampling[self.options.interpolation.upper()]
        return np.array(Image.fromarray(image).resize(smaller, method).resize((width, height), method))


def _shrunk(side: int, factor: float) -> int:
    return max(1, min(side - 1, round(side * factor)))
