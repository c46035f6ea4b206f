"""`total_variation`: the training images, denoised by total variation."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from bench.defense import Defense, DefenseOptions, PreprocessingOptions
from bench.errors import SpecError

_STEP = np.float32(0.25)
"""Of the dual ascent. Chambolle proves that 1/8 converges, and finds that up to 1/4 does."""

_LEAST_WEIGHT = 0.005
"""No pixel moves by more than four times the weight, times 255 levels: here five, and most by far less."""


class TotalVariationOptions(PreprocessingOptions):
    """Options of `total_variation`.

    Attributes:
        weight: Of the total variation beside the squared distance to the image, for values from 0 to 1.
        iterations: Of Chambolle's algorithm. Three images of `shapes` came within 1.4 levels (root mean square)
            of the minimiser with 40 and the default weight; the minimiser was 11 to 18 levels away from them.

    Raises:
        SpecError: The weight would leave the image as it is.
    """

    weight: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    iterations: int = Field(default=40, ge=5, le=1000)

    @model_validator(mode="after")
    def _check(self) -> TotalVariationOptions:
        if self.weight < _LEAST_WEIGHT:
            raise SpecError(
                f"total_variation: weight {self.weight} leaves what 8 bits can hold nearly as it is: "
                f"choose {_LEAST_WEIGHT} or more"
            )
        return self


class TotalVariation(Defense):
    """The denoising of Rudin, Osher and Fatemi, solved by Chambolle's projection algorithm, per channel."""

    name: ClassVar[str] = "total_variation"
    summary: ClassVar[str] = "total variation denoising of the training images"
    paper: ClassVar[str] = "Chambolle, An Algorithm for Total Variation Minimization, JMIV 20, 2004"
    clean_drop: ClassVar[float | None] = 26.0
    time_factor: ClassVar[float] = 1.2
    Options: ClassVar[type[DefenseOptions]] = TotalVariationOptions
    options: TotalVariationOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The denoised image, `(H, W, 3)` uint8. The same at every draw."""
        planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / 255
        smooth = denoise(planes, self.options.weight, self.options.iterations)
        levels = np.rint(255 * smooth).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(levels.transpose(1, 2, 0))


def denoise(planes: np.ndarray, weight: float, iterations: int) -> np.ndarray:
    """Planes u near the minimum of `weight * sum |grad u| + sum (u - planes)**2 / 2`, each by itself.

    The gradient is that of forward differences, zero across the border; its length is Euclidean.

    Args:
        planes: `(N, H, W)` float32, from 0 to 1.
        weight: Of the total variation.
        iterations: How often the dual variable is updated.

    Returns:
        `(N, H, W)` float32.
    """
    scaled = planes / np.float32(weight)
    # The dual variable, and the gradient that moves it; the last row and column of each stay zero.
    down, right = np.zeros_like(planes), np.zeros_like(planes)
    slope_down, slope_right = np.zeros_like(planes), np.zeros_like(planes)
    for _ in range(iterations):
        residual = _divergence(down, right)
        residual -= scaled
        np.subtract(residual[:, 1:], residual[:, :-1], out=slope_down[:, :-1])
        np.subtract(residual[:, :, 1:], residual[:, :, :-1], out=slope_right[:, :, :-1])
        length = slope_down * slope_down
        length += slope_right * slope_right
        np.sqrt(length, out=length)
        length *= _STEP
        length += 1
        for dual, slope in ((down, slope_down), (right, slope_right)):
            dual += _STEP * slope
            dual /= length
    return planes - np.float32(weight) * _divergence(down, right)


def _divergence(down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The negative adjoint of the gradient, for fields that are zero in the last row and column."""
    result = down + right
    result[:, 1:] -= down[:, :-1]
    result[:, :, 1:] -= right[:, :, :-1]
    return result
