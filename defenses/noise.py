"""`noise`: random noise on the training images."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.defense import Defense, DefenseOptions
from bench.errors import SpecError

_LEAST_SIGMA = 0.5
"""Half a level: with less, rounding to 8 bits removes most of the noise."""


class NoiseOptions(DefenseOptions):
    """Options of `noise`.

    Attributes:
        distribution: `gaussian`, or `uniform` between plus and minus the square root of three times `sigma`.
        sigma: Standard deviation in levels (of 255), of either distribution.

    Raises:
        SpecError: `sigma` is less than rounding to whole levels would leave of it.
    """

    distribution: Literal["gaussian", "uniform"] = "gaussian"
    sigma: float = Field(default=8.0, gt=0, le=128)

    @model_validator(mode="after")
    def _check(self) -> NoiseOptions:
        if self.sigma < _LEAST_SIGMA:
            raise SpecError(
                f"noise: sigma {self.sigma} is lost in rounding to 8 bits: choose {_LEAST_SIGMA} levels or more"
            )
        return self


class Noise(Defense):
    """Adds noise, independent per pixel and channel and anew at every draw; values are clipped to 0..255."""

    name: ClassVar[str] = "noise"
    summary: ClassVar[str] = "random noise on the training images, new at every draw"
    clean_drop: ClassVar[float | None] = 10.0
    time_factor: ClassVar[float] = 1.02
    Options: ClassVar[type[DefenseOptions]] = NoiseOptions
    options: NoiseOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The noisy image, `(H, W, 3)` uint8. Another at every draw."""
        if self.options.distribution == "gaussian":
            noise = rng.standard_normal(image.shape, np.float32)
            noise *= self.options.sigma
        else:
            noise = rng.random(image.shape, np.float32)
            noise -= 0.5
            noise *= math.sqrt(12) * self.options.sigma
        noise += image
        return np.rint(noise).clip(0, 255).astype(np.uint8)
