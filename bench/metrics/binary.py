"""Binary and interactive segmentation: one object mask per image.

`IoU` (primary) and `Dice` pool the pixels of all images: sum I / sum U and 2 sum I / (sum P + sum G).
`mIoU`, `mDice` and `mBIoU` are means of per-image scores, which is what the interactive literature
(HQ-SAM, Ke et al. 2023) calls mIoU and mBIoU; it is not the mean over background and foreground.

Boundary IoU (Cheng et al. 2021) compares only the pixels of each mask that lie within
d = max(1, round(0.02 * diagonal)) of the mask's contour, in Chebyshev distance; the image edge is a contour.

The truth is `Annotation.foreground`, so a dataset with several classes can be scored for this task too. Void
pixels count nowhere: they are taken out of both masks first.

Rules for empty masks. Of one image: truth and prediction both empty is a correct answer, 1; one of them
empty is 0; nothing but void has no score and is left out of the means. Of the whole split: if no image has
an object pixel in truth or prediction, `IoU` and `Dice` are undefined, because such a split says nothing
about finding objects.
"""

from __future__ import annotations

import numpy as np

from bench.datasets.base import VOID, Annotation
from bench.metrics.arithmetic import mean_defined, optional, ratio
from bench.metrics.base import Metric, Row, Scores, require_kind, require_shape
from bench.metrics.prediction import Prediction, SemanticPrediction
from bench.metrics.semantic import confusion_counts

BOUNDARY_DILATION = 0.02
"""Width of the boundary band as a share of the image diagonal."""


class BinaryMetric(Metric):
    """IoU, Dice and boundary IoU of the foreground, label 1 of the prediction.

    Rows of `Scores.per_image`: pixels `intersection`, `union`, `prediction`, `ground_truth` of the object,
    `pixels` that are not void, and the image's own `IoU`, `Dice` and `boundary_IoU`. The constant predictor
    calls every pixel the object (calling none the object scores 0): IoU = sum G / sum pixels.
    """

    primary = "IoU"
    resampled = "IoU"
    count_keys = ("intersection", "union")

    def _row(self, image_id: str, prediction: Prediction, annotation: Annotation) -> Row:
        require_kind(image_id, prediction, SemanticPrediction)
        void = annotation.semantic == VOID
        truth = np.where(void, VOID, annotation.foreground.astype(np.uint8))
        require_shape(image_id, "labels", prediction.labels, truth.shape)
        by_label = confusion_counts(image_id, prediction.labels, truth, 2)
        intersection, predicted, true = (int(counts[1]) for counts in by_label)
        pixels = int(by_label[2].sum())
        boundary = boundary_iou(~void & (prediction.labels == 1), truth == 1)
        return {
            "IoU": _image_ratio(intersection, predicted + true - intersection, pixels),
            "Dice": _image_ratio(2 * intersection, predicted + true, pixels),
            "boundary_IoU": boundary if pixels else None,
            "intersection": intersection,
            "union": predicted + true - intersection,
            "prediction": predicted,
            "ground_truth": true,
            "pixels": pixels,
        }

    @staticmethod
    def from_counts(counts: np.ndarray) -> np.ndarray:
        """IoU from `(..., 2, 1)` sums of intersection and union."""
        return ratio(counts[..., 0, 0], counts[..., 1, 0])

    def compute(self) -> Scores:
        """See `Metric.compute`."""
        rows = self.rows()
        intersection, union, predicted, true, pixels = (
            sum(row[key] for row in rows)
            for key in ("intersection", "union", "prediction", "ground_truth", "pixels")
        )
        iou = optional(ratio(intersection, union))
        dice = optional(ratio(2 * intersection, predicted + true))
        return Scores(
            primary=self.primary,
            values={
                "IoU": iou,
                "mIoU": _mean(rows, "IoU"),
                "Dice": dice,
                "mDice": _mean(rows, "Dice"),
                "mBIoU": _mean(rows, "boundary_IoU"),
            },
            per_class=[{"name": "foreground", "IoU": iou, "Dice": dice}],
            per_image=rows,
            constant=optional(ratio(true, pixels)),
        )


def boundary_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """IoU of the boundary bands of two masks; 1 if both masks are empty.

    Args:
        predicted: `(H, W)` bool.
        truth: `(H, W)` bool.
    """
    width = boundary_width(*truth.shape)
    bands = [_boundary_band(mask, width) for mask in (predicted, truth)]
    union = np.count_nonzero(bands[0] | bands[1])
    return float(np.count_nonzero(bands[0] & bands[1]) / union) if union else 1.0


def boundary_width(height: int, width: int) -> int:
    """Width d in pixels of the boundary band."""
    return max(1, round(BOUNDARY_DILATION * float(np.hypot(height, width))))


def _boundary_band(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of `mask` within Chebyshev distance `width` of a pixel outside it, the outside included."""
    from scipy.ndimage import minimum_filter

    eroded = minimum_filter(mask.astype(np.uint8), size=2 * width + 1, mode="constant", cval=0)
    return mask & (eroded == 0)


def _image_ratio(numerator: int, denominator: int, pixels: int) -> float | None:
    if not pixels:
        return None
    return numerator / denominator if denominator else 1.0


def _mean(rows: list[Row], key: str) -> float | None:
    values = [np.nan if row[key] is None else row[key] for row in rows]
    return optional(mean_defined(np.asarray(values, np.float64)))
