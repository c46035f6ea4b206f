"""`median`: median filter of the training images."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from bench.defense import Defense, DefenseOptions, PreprocessingOptions
from bench.errors import SpecError


class MedianFilterOptions(PreprocessingOptions):
    """Options of `median`.

    Attributes:
        size: Side of the window in pixels, odd, 3 or more.

    Raises:
        SpecError: The size is even.
    """

    size: int = Field(default=3, ge=3, le=255)

    @model_validator(mode="after")
    def _check(self) -> MedianFilterOptions:
        if self.size % 2 == 0:
            raise SpecError(f"median: size {self.size} is even: choose {self.size + 1}")
        return self


class MedianFilter(Defense):
    """Replaces every value by the median of its channel in the window around it; border pixels are repeated."""

    name: ClassVar[str] = "median"
    summary: ClassVar[str] = "median filter of the training images"
    paper: ClassVar[str] = "Liu et al., Image Shortcut Squeezing, ICML 2023, arXiv 2301.13838"
    clean_drop: ClassVar[float | None] = 24.0
    Options: ClassVar[type[DefenseOptions]] = MedianFilterOptions
    options: MedianFilterOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The filtered image, `(H, W, 3)` uint8. The same at every draw."""
        import cv2

        return cv2.medianBlur(image, self.options.size)
