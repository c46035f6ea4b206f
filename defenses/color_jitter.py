"""`color_jitter`: random brightness, contrast, saturation and hue of the training images."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from bench.defense import Defense, DefenseOptions
from bench.errors import SpecError
from defenses import color_operations

_LEAST_FACTOR, _LEAST_HUE = 0.02, 0.01
"""Five levels of 255, and two of the 255 steps of a hue: less is hardly a jitter."""


class ColorJitterOptions(DefenseOptions):
    """Options of `color_jitter`. The defaults are those of MoCo v2 (Chen et al., arXiv 2003.04297).

    Attributes:
        brightness: The factor is drawn between 1 minus and 1 plus this.
        contrast: Likewise.
        saturation: Likewise.
        hue: The hue is turned by up to this fraction of the colour circle, either way.

    Raises:
        SpecError: All four are so small that the images stay as they are.
    """

    brightness: float = Field(default=0.4, ge=0, le=1)
    contrast: float = Field(default=0.4, ge=0, le=1)
    saturation: float = Field(default=0.4, ge=0, le=1)
    hue: float = Field(default=0.1, ge=0, le=0.5)

    @model_validator(mode="after")
    def _check(self) -> ColorJitterOptions:
        if max(self.brightness, self.contrast, self.saturation) < _LEAST_FACTOR and self.hue < _LEAST_HUE:
            raise SpecError(
                "color_jitter: these settings leave the colours as they are: choose brightness, contrast or "
                f"saturation of {_LEAST_FACTOR} or more, or a hue of {_LEAST_HUE} or more"
            )
        return self


class ColorJitter(Defense):
    """Changes brightness, contrast, saturation and hue in a random order, each by an amount drawn uniformly.

    The four are defined as in torchvision's `ColorJitter` for Pillow images.
    """

    name: ClassVar[str] = "color_jitter"
    summary: ClassVar[str] = "random brightness, contrast, saturation and hue, new at every draw"
    clean_drop: ClassVar[float | None] = 9.0
    time_factor: ClassVar[float] = 1.03
    Options: ClassVar[type[DefenseOptions]] = ColorJitterOptions
    options: ColorJitterOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The image in other colours, `(H, W, 3)` uint8. Another at every draw."""
        options = self.options
        steps = (
            (color_operations.brightness, options.brightness, 1.0),
            (color_operations.contrast, options.contrast, 1.0),
            (color_operations.saturation, options.saturation, 1.0),
            (color_operations.hue, options.hue, 0.0),
        )
        order, amounts = rng.permutation(len(steps)), rng.uniform(-1, 1, len(steps))
        jittered = Image.fromarray(image)
        for index in order:
            change, reach, neutral = steps[index]
            # Not with an amount of zero: going through HSV alone moves colours by a level or two.
            if reach > 0:
                jittered = change(jittered, neutral + reach * amounts[index])
        return np.array(jittered)
