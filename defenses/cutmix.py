"""`cutmix`: a rectangle of another training image is pasted, with its labels (Yun et al., ICCV 2019; French et al.,
BMVC 2020, for segmentation)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from bench.datasets.base import Annotation
from bench.defense import Defense, DefenseOptions, Other
from defenses.cutout import without


class CutMixOptions(DefenseOptions):
    """Options of `cutmix`.

    Attributes:
        probability: How often an image is mixed.
        alpha: The share of the image that stays is drawn from Beta(alpha, alpha).
    """

    probability: float = Field(default=1.0, gt=0, le=1)
    alpha: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class CutMix(Defense):
    """Pastes a rectangle of another image at the place that it has there, and its labels with it.

    The rectangle has the proportions of the image. Of images of other sizes the part that both have is used.
    """

    name: ClassVar[str] = "cutmix"
    summary: ClassVar[str] = "a rectangle of another training image pasted, with its labels"
    paper: ClassVar[str] = "Yun et al., ICCV 2019, arXiv 1905.04899"
    clean_drop: ClassVar[float | None] = 17.0
    time_factor: ClassVar[float] = 1.02
    Options: ClassVar[type[DefenseOptions]] = CutMixOptions
    options: CutMixOptions

    def transform_sample(
        self, image: np.ndarray, annotation: Annotation, rng: np.random.Generator, other: Other
    ) -> tuple[np.ndarray, Annotation]:
        """The mixed image with the mixed labels."""
        mixes, stays = (
            rng.random() < self.options.probability,
            rng.beta(self.options.alpha, self.options.alpha),
        )
        pasted, pasted_annotation = other()
        if not mixes:
            return image, annotation
        height, width = (min(a, b) for a, b in zip(image.shape[:2], pasted.shape[:2], strict=True))
        share = math.sqrt(1 - stays)
        rows, columns = (_span(side, share, rng) for side in (height, width))
        area = np.zeros(image.shape[:2], bool)
        area[rows, columns] = True
        mixed = image.copy()
        mixed[rows, columns] = pasted[rows, columns]
        kept = without(annotation, area)
        semantic, foreground = kept.semantic, kept.foreground
        semantic[rows, columns] = pasted_annotation.semantic[rows, columns]
        foreground[rows, columns] = pasted_annotation.foreground[rows, columns]
        segments = list(kept.segments)
        for segment in pasted_annotation.segments:
            mask = np.zeros(image.shape[:2], bool)
            mask[rows, columns] = segment.mask[rows, columns]
            if mask.any():
                segments.append(replace(segment, mask=mask, box=None))
        return mixed, Annotation(semantic, tuple(segments), foreground)


def _span(side: int, share: float, rng: np.random.Generator) -> slice:
    """A random stretch of `share` of a side, at least a pixel long."""
    length = min(side, max(1, round(share * side)))
    start = int(rng.integers(side - length + 1))
    return slice(start, start + length)
