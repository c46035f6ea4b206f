"""What a trained victim says about one image, at the image's original size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SemanticPrediction:
    """A label map; binary and interactive victims predict 0 (background) and 1 (object).

    Attributes:
        labels: `(H, W)` uint8 indices into `Dataset.classes`; 255 is "no class", which is never right.
    """

    labels: np.ndarray


@dataclass(frozen=True)
class PanopticPrediction:
    """Segments that do not overlap.

    Attributes:
        segments: `(H, W)` int32; 0 is nothing, k is the k-th segment.
        categories: Category of segment 1, 2, ... as indices into `Dataset.categories`.
    """

    segments: np.ndarray
    categories: tuple[int, ...]


@dataclass(frozen=True)
class InstancePrediction:
    """Scored instances that may overlap.

    Attributes:
        masks: `(N, H, W)` bool.
        scores: `(N,)` float32 confidences, any monotone scale.
        categories: `(N,)` int64 indices into `Dataset.categories`.
    """

    masks: np.ndarray
    scores: np.ndarray
    categories: np.ndarray


@dataclass(frozen=True)
class DetectionPrediction:
    """Scored boxes.

    Attributes:
        boxes: `(N, 4)` float32 `(x1, y1, x2, y2)` in pixels of the original image, ends exclusive.
        scores: `(N,)` float32 confidences, any monotone scale.
        categories: `(N,)` int64 indices into `Dataset.categories`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    categories: np.ndarray


Prediction = SemanticPrediction | PanopticPrediction | InstancePrediction | DetectionPrediction
