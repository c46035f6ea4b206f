"""`gaussian`: Gaussian blur of the training images."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from bench.defense import Defense, DefenseOptions, PreprocessingOptions
from bench.errors import SpecError

_MOST_AT_CENTRE = 0.99
"""A kernel with more of its weight on the centre pixel blurs nothing that 8 bits could hold."""


class GaussianBlurOptions(PreprocessingOptions):
    """Options of `gaussian`.

    Attributes:
        kernel_size: Side of the kernel in pixels, odd, 3 or more.
        sigma: Standard deviation in pixels.

    Raises:
        SpecError: The kernel size is even, or the settings would leave the image as it is (as 3 and 0.1 do).
    """

    kernel_size: int = Field(default=5, ge=3, le=255)
    sigma: float = Field(default=1.5, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> GaussianBlurOptions:
        side = self.kernel_size
        if side % 2 == 0:
            raise SpecError(f"gaussian: kernel_size {side} is even: choose {side + 1}")
        distance = np.arange(side) - side // 2
        weights = np.exp(-0.5 * (distance / self.sigma) ** 2)
        centre = 1 / weights.sum() ** 2
        if centre > _MOST_AT_CENTRE:
            raise SpecError(
                f"gaussian: sigma {self.sigma} leaves {centre:.1%} of a {side}x{side} kernel "
                "on its centre, which is no blur: choose sigma 0.5 or more"
            )
        return self


class GaussianBlur(Defense):
    """Convolves with a Gaussian kernel; borders are mirrored."""

    name: ClassVar[str] = "gaussian"
    summary: ClassVar[str] = "Gaussian blur of the training images"
    clean_drop: ClassVar[float | None] = 37.0
    Options: ClassVar[type[DefenseOptions]] = GaussianBlurOptions
    options: GaussianBlurOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The blurred image, `(H, W, 3)` uint8. The same at every draw."""
        import cv2

        side = self.options.kernel_size
        return cv2.GaussianBlur(image, (side, side), self.options.sigma, borderType=cv2.BORDER_REFLECT_101)
