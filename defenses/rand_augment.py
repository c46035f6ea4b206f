"""`rand_augment`: the colour operations of RandAugment on the training images."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from bench.defense import Defense, DefenseOptions
from defenses.color_operations import random_operation

_LEVELS = 30
"""Magnitudes are thirtieths of the strongest."""


class RandAugmentOptions(DefenseOptions):
    """Options of `rand_augment`. The defaults are torchvision's.

    Attributes:
        operations: How many are applied, one after the other; each is drawn from all eight.
        magnitude: Strength of all of them, from 1 to 30.
    """

    operations: int = Field(default=2, ge=1, le=16)
    magnitude: int = Field(default=9, ge=1, le=_LEVELS)


class RandAugment(Defense):
    """RandAugment without the operations that move pixels.

    Of the paper's operations these remain: auto-contrast, equalisation, posterising, solarising, colour,
    contrast, brightness and sharpness, in torchvision's ranges. Shears, translations and rotations would have
    to move the labels too, and geometry is the business of the victim's own augmentation. The identity is left
    out.
    """

    name: ClassVar[str] = "rand_augment"
    summary: ClassVar[str] = "the colour operations of RandAugment, new at every draw"
    paper: ClassVar[str] = "Cubuk et al., RandAugment, NeurIPS 2020, arXiv 1909.13719"
    clean_drop: ClassVar[float | None] = 19.0
    time_factor: ClassVar[float] = 1.02
    Options: ClassVar[type[DefenseOptions]] = RandAugmentOptions
    options: RandAugmentOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The augmented image, `(H, W, 3)` uint8. Another at every draw."""
        augmented = Image.fromarray(image)
        for _ in range(self.options.operations):
            augmented = random_operation(augmented, self.options.magnitude / _LEVELS, rng)
        return np.array(augmented)
