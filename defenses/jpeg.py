"""`jpeg`: JPEG compression of the training images."""

from __future__ import annotations

import io
from typing import ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from bench.defense import Defense, DefenseOptions, PreprocessingOptions


class JPEGOptions(PreprocessingOptions):
    """Options of `jpeg`.

    Attributes:
        quality: libjpeg's quality.
        subsampling: Resolution of the colour channels: `4:2:0` halves both sides, `4:2:2` the width, `4:4:4`
            none.
    """

    quality: int = Field(default=10, ge=10, le=95)
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = "4:2:0"


class JPEGCompression(Defense):
    """Encodes and decodes the image once."""

    name: ClassVar[str] = "jpeg"
    summary: ClassVar[str] = "JPEG compression of the training images, quality 10 by default"
    paper: ClassVar[str] = "Liu et al., Image Shortcut Squeezing, ICML 2023, arXiv 2301.13838"
    clean_drop: ClassVar[float | None] = 45.0
    Options: ClassVar[type[DefenseOptions]] = JPEGOptions
    options: JPEGOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The decoded image, `(H, W, 3)` uint8. The same at every draw."""
        buffer = io.BytesIO()
        Image.fromarray(image).save(
            buffer, "JPEG", quality=self.options.quality, subsampling=self.options.subsampling
        )
        with Image.open(buffer) as decoded:
            return np.array(decoded)
