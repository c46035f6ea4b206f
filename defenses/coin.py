"""`coin`: every pixel of a training image is read at a random place nearby."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from bench.defense import Defense, DefenseOptions
from bench.errors import SpecError

_LEAST_ALPHA = 0.1
"""In pixels. Less hardly blurs."""


class CoinOptions(DefenseOptions):
    """Options of `coin`.

    Attributes:
        alpha: Largest offset along each axis in pixels. 2.0 is the paper's.

    Raises:
        SpecError: The offsets are too small to change the image.
    """

    alpha: float = Field(default=2.0, gt=0, le=64)

    @model_validator(mode="after")
    def _check(self) -> CoinOptions:
        if self.alpha < _LEAST_ALPHA:
            raise SpecError(
                f"coin: offsets of at most {self.alpha} pixels leave the image as it is: "
                f"choose alpha {_LEAST_ALPHA} or more"
            )
        return self


class Coin(Defense):
    """COIN: corrupts images by multiplication with a random matrix, by bilinear interpolation.

    The value of a pixel is the bilinear interpolation of the image at the pixel's place plus an offset that is
    uniform in [-alpha, alpha] along each axis, independent per pixel and the same for the channels. Beyond the
    border the image repeats. It was made against convolutions of the image (CUDA). Labels stay as they are.

    The authors' `wrap` of scipy lets the first and the last row coincide; here the image repeats as a whole.
    """

    name: ClassVar[str] = "coin"
    summary: ClassVar[str] = "every pixel read at a random place nearby, new at every draw"
    paper: ClassVar[str] = (
        "Li et al., Detecting and Corrupting Convolution-based Unlearnable Examples, AAAI 2025, arXiv 2311.18403"
    )
    clean_drop: ClassVar[float | None] = 37.0
    time_factor: ClassVar[float] = 1.01
    Options: ClassVar[type[DefenseOptions]] = CoinOptions
    options: CoinOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The corrupted image, `(H, W, 3)` uint8. Another at every draw."""
        alpha = self.options.alpha
        down, right = rng.uniform(-alpha, alpha, (2, *image.shape[:2]))
        return displaced(image, down, right)


def displaced(image: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The image read at displaced places, bilinearly; it repeats beyond its border.

    Args:
        image: `(H, W, 3)` uint8.
        down: `(H, W)` float, in pixels.
        right: `(H, W)` float, in pixels.

    Returns:
        `(H, W, 3)` uint8.
    """
    import cv2

    height, width = image.shape[:2]
    margin = math.ceil(max(np.abs(down).max(), np.abs(right).max())) + 1
    rows = (np.arange(height)[:, None] + margin + down).astype(np.float32)
    columns = (np.arange(width) + margin + right).astype(np.float32)
    repeated = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="wrap")
    return cv2.remap(repeated, columns, rows, cv2.INTER_LINEAR)
