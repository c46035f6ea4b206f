"""`cutout`: a square of each training image is grey, and void in its labels (DeVries and Taylor, arXiv 1708.04552)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from bench.datasets.base import VOID, Annotation
from bench.defense import Defense, DefenseOptions, Other

GREY = 128


class CutoutOptions(DefenseOptions):
    """Options of `cutout`.

    Attributes:
        size: Side of the square as a share of the image's longer side: half of it for the 32 pixels of CIFAR.
    """

    size: float = Field(default=0.5, gt=0, le=1)


class Cutout(Defense):
    """Hides a square, drawn at every draw; its centre lies anywhere in the image.

    What is hidden is void in label maps and no part of instances: nobody can learn it from there. An instance that is
    hidden altogether is left out.
    """

    name: ClassVar[str] = "cutout"
    summary: ClassVar[str] = "a square of each training image hidden, and void in its labels"
    paper: ClassVar[str] = "DeVries and Taylor, arXiv 1708.04552"
    clean_drop: ClassVar[float | None] = 12.0
    time_factor: ClassVar[float] = 1.01
    Options: ClassVar[type[DefenseOptions]] = CutoutOptions
    options: CutoutOptions

    def transform_sample(
        self, image: np.ndarray, annotation: Annotation, rng: np.random.Generator, other: Other
    ) -> tuple[np.ndarray, Annotation]:
        """The image with a grey square, and labels without it."""
        height, width = image.shape[:2]
        side = max(1, round(self.options.size * max(height, width)))
        top, left = int(rng.integers(height)) - side // 2, int(rng.integers(width)) - side // 2
        hidden = np.zeros((height, width), bool)
        hidden[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = True
        image = image.copy()
        image[hidden] = GREY
        return image, without(annotation, hidden)


def without(annotation: Annotation, hidden: np.ndarray) -> Annotation:
    """Labels without the pixels of `hidden` `(H, W)` bool: void, and in no segment. Boxes follow the masks."""
    semantic = annotation.semantic.copy()
    semantic[hidden] = VOID
    segments = []
    for segment in annotation.segments:
        if not (segment.mask & hidden).any():
            segments.append(segment)
        elif (segment.mask & ~hidden).any():
            segments.append(replace(segment, mask=segment.mask & ~hidden, box=None))
    return Annotation(semantic, tuple(segments), annotation.foreground & ~hidden)
