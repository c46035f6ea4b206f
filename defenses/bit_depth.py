"""`bit_depth`: fewer bits per channel of the training images."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from bench.defense import Defense, DefenseOptions, PreprocessingOptions


class BitDepthOptions(PreprocessingOptions):
    """Options of `bit_depth`.

    Attributes:
        bits: Bits that remain of each channel's eight. 2, the paper's, leave the values 0, 85, 170 and 255.
    """

    bits: int = Field(default=2, ge=1, le=7)


class BitDepth(Defense):
    """Rounds every channel to the nearest of `2**bits` values that are spread evenly over 0 to 255.

    The paper posterises: it drops the low bits, which also darkens the images (2 bits leave 0, 64, 128 and
    192). Rounding keeps their brightness, so that the test images look like them.
    """

    name: ClassVar[str] = "bit_depth"
    summary: ClassVar[str] = "fewer bits per channel, 2 by default"
    paper: ClassVar[str] = "Liu et al., Image Shortcut Squeezing, ICML 2023, arXiv 2301.13838"
    clean_drop: ClassVar[float | None] = 43.0
    time_factor: ClassVar[float] = 1.01
    Options: ClassVar[type[DefenseOptions]] = BitDepthOptions
    options: BitDepthOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The image of few values, `(H, W, 3)` uint8. The same at every draw."""
        return _table(self.options.bits)[image]


def _table(bits: int) -> np.ndarray:
    """The new value of each of the 256 old ones, `(256,)` uint8."""
    steps = 2**bits - 1
    nearest = np.rint(np.arange(256) * steps / 255)
    return np.rint(nearest * 255 / steps).astype(np.uint8)
