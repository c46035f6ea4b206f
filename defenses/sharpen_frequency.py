"""`sharpen_frequency`: random sharpening of the training images, then a low-pass filter."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from bench.defense import Defense, DefenseOptions
from bench.errors import SpecError

_LEAST_SHARPENING, _MOST_KEPT = 0.05, 0.95
"""A kernel this close to the identity changes few levels, and so does a filter that keeps more."""


class SharpenFrequencyOptions(DefenseOptions):
    """Options of `sharpen_frequency`. The defaults are the paper's.

    Attributes:
        centre: Mean of the kernel's central weight; 1 sharpens nothing.
        spread: Standard deviation of the kernel's weights; 0 gives the same kernel at every draw (SSK).
        kept: Share of the rows and of the columns of the discrete cosine transform that is kept, the lowest
            frequencies; at least one of each.

    Raises:
        SpecError: The kernel is close to the identity and nearly all frequencies are kept.
    """

    centre: float = Field(default=2.5, ge=1, le=16)
    spread: float = Field(default=0.1, ge=0, le=1)
    kept: float = Field(default=0.3, gt=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> SharpenFrequencyOptions:
        sharpens = max(self.centre - 1, self.spread) >= _LEAST_SHARPENING
        if not sharpens and self.kept > _MOST_KEPT:
            raise SpecError(
                f"sharpen_frequency: centre {self.centre} and kept {self.kept} leave the image as it is: "
                "choose a centre of 1.05 or more, or keep 0.95 or less"
            )
        return self


class SharpenFrequency(Defense):
    """RSK+FF: a random sharpening kernel (RSK), then a frequency filter (FF).

    The kernel weighs a pixel and its four direct neighbours; the central weight is normal around `centre`. It
    was made against convolutions of the image (CUDA). Where the authors' code and this one differ:

    * The weights always add up to 1. There the neighbours' are drawn around a quarter of what is missing, so
      that the sum varies by 0.2, and with it the brightness of the whole image.
    * The border is mirrored and the image keeps its size; there it loses its outermost pixels.
    """

    name: ClassVar[str] = "sharpen_frequency"
    summary: ClassVar[str] = "random sharpening, then the lowest 30 % of the frequencies, new at every draw"
    paper: ClassVar[str] = (
        "Kim and Sandoval-Segura, Learning from Convolution-based Unlearnable Datasets, AdvML-Frontiers 2024"
    )
    clean_drop: ClassVar[float | None] = 38.0
    time_factor: ClassVar[float] = 1.02
    Options: ClassVar[type[DefenseOptions]] = SharpenFrequencyOptions
    options: SharpenFrequencyOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The sharpened and filtered image, `(H, W, 3)` uint8. Another at every draw, unless `spread` is 0."""
        import cv2

        kernel = sharpening_kernel(self.options.centre, self.options.spread, rng)
        sharp = cv2.filter2D(image.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        smooth = low_frequencies(sharp.clip(0, 255), self.options.kept)
        return np.rint(smooth).clip(0, 255).astype(np.uint8)


def sharpening_kernel(centre: float, spread: float, rng: np.random.Generator) -> np.ndarray:
    """A kernel whose weights add up to 1, `(3, 3)` float32.

    The central weight c is drawn from N(centre, spread); the four neighbours' from N((c - 1) / 4, spread),
    shifted together so that they add up to c - 1, and subtracted. The corners are zero.
    """
    deviations = spread * rng.standard_normal(5) if spread > 0 else np.zeros(5)
    middle, *neighbours = np.array([centre, 0, 0, 0, 0]) + deviations
    up, left, right, down = np.array(neighbours) - np.mean(neighbours) + (middle - 1) / 4
    return np.array([[0, -up, 0], [-left, middle, -right], [0, -down, 0]], np.float32)


def low_frequencies(image: np.ndarray, kept: float) -> np.ndarray:
    """The image without the high frequencies of each channel, `(H, W, 3)` float32.

    Args:
        image: `(H, W, 3)` float32.
        kept: Share of the rows and of the columns of the discrete cosine transform that is kept, rounded down,
            at least one of each.
    """
    from scipy.fft import dctn, idctn

    height, width = image.shape[:2]
    spectrum = dctn(image, axes=(0, 1), norm="ortho")
    spectrum[max(1, int(height * kept)) :] = 0
    spectrum[:, max(1, int(width * kept)) :] = 0
    return idctn(spectrum, axes=(0, 1), norm="ortho")
