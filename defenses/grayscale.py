"""`grayscale`: the training images without their colours."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from PIL import Image

from bench.defense import Defense, DefenseOptions, PreprocessingOptions


class Grayscale(Defense):
    """Puts the luma of Rec. 601 (0.299 R + 0.587 G + 0.114 B) into all three channels.

    Only training images lose their colours, as in the paper; with `apply_to=both` test images lose them, too.
    """

    name: ClassVar[str] = "grayscale"
    summary: ClassVar[str] = "training images without colours"
    paper: ClassVar[str] = "Liu et al., Image Shortcut Squeezing, ICML 2023, arXiv 2301.13838"
    clean_drop: ClassVar[float | None] = 54.0
    time_factor: ClassVar[float] = 1.01
    Options: ClassVar[type[DefenseOptions]] = PreprocessingOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The grey image, `(H, W, 3)` uint8. The same at every draw."""
        luma = np.asarray(Image.fromarray(image).convert("L"))
        return np.repeat(luma[..., None], 3, axis=2)
