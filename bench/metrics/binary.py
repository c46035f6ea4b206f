"""Binary and interactive segmentation: one object mask per image.

Task binary: `IoU` (primary) and `Dice` pool the pixels of all images: sum I / sum U and 2 sum I / (sum P + sum G).
`mIoU`, `mDice` and `mBIoU` are means of per-image scores, the latter of `bench.metrics.boundary`. Task interactive
has the same scores; there `mIoU` is primary, which together with `mBIoU` is what its literature (HQ-SAM, Ke et
al. 2023) reports. It is not the mean over background and foreground.

The truth is `Annotation.foreground`, so a dataset with several classes can be scored for these tasks too. Void
pixels count nowhere: they are taken out of both masks first.

Rules for empty masks. Of one image: truth and prediction both empty is a correct answer, 1; one of them
empty is 0; nothing but void has no score and is left out of the means. Of the whole split: if no image has
an object pixel in truth or prediction, `IoU` and `Dice` are undefined, because such a split says nothing
about finding objects. Task interactive leaves an image without an object out of everything: it has no prompt.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.datasets.base import VOID, Annotation
from bench.metrics.arithmetic import mean_defined, optional, ratio
from bench.metrics.base import Metric, Row, Scores, require_kind, require_shape
from bench.metrics.boundary import boundary_iou
from bench.metrics.prediction import Prediction, SemanticPrediction
from bench.metrics.semantic import confusion_counts


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


class InteractiveMetric(BinaryMetric):
    """The same scores over the images that have an object; the primary one is the mean of the images' IoU.

    `values` also has `box_mIoU`, the score of an answer that fills the object's box: a victim that is given
    the box and is not above that has not looked at the image. The constant predictor, which knows no box, calls
    every pixel the object.

    `Scores.per_class` also has a row of `mIoU` and `mBIoU` for each set of a dataset whose ids are `set/image`.
    Rows of `Scores.per_image` also hold `box_IoU`, and `counted`, 1 for an image with an object and else 0. Without
    one the scores are None, and all counts 0.
    """

    primary = "mIoU"
    resampled = "mIoU"
    count_keys = ("counted_IoU", "counted")

    def _row(self, image_id: str, prediction: Prediction, annotation: Annotation) -> Row:
        row = super()._row(image_id, prediction, annotation)
        if not row["ground_truth"]:
            scores = dict.fromkeys(("IoU", "Dice", "boundary_IoU", "box_IoU"))
            return {**dict.fromkeys(row, 0), **scores, "counted": 0, "counted_IoU": 0.0}
        void = annotation.semantic == VOID
        lines = [np.flatnonzero((annotation.foreground & ~void).any(axis)) for axis in (1, 0)]
        rows, columns = (slice(line[0], line[-1] + 1) for line in lines)
        box = np.count_nonzero(~void[rows, columns])
        return {**row, "box_IoU": row["ground_truth"] / box, "counted": 1, "counted_IoU": row["IoU"]}

    @staticmethod
    def from_counts(counts: np.ndarray) -> np.ndarray:
        """mIoU from `(..., 2, 1)` sums of the images' IoU and of images."""
        return ratio(counts[..., 0, 0], counts[..., 1, 0])

    def compute(self) -> Scores:
        """See `Metric.compute`."""
        scores = super().compute()
        counted = [row for row in scores.per_image if row["counted"]]
        shares = [row["ground_truth"] / row["pixels"] for row in counted]
        # Summed as a resample is, so that both agree to the last bit.
        values = {
            **scores.values,
            "mIoU": self.rescore(scores.per_image),
            "box_mIoU": _mean(counted, "box_IoU"),
        }
        constant = optional(mean_defined(np.asarray(shares, np.float64)))
        sets = sorted({row["image_id"].partition("/")[0] for row in counted if "/" in row["image_id"]})
        per_set = [
            _means(name, [r for r in counted if r["image_id"].startswith(f"{name}/")]) for name in sets
        ]
        return replace(scores, values=values, per_class=scores.per_class + per_set, constant=constant)


def _image_ratio(numerator: int, denominator: int, pixels: int) -> float | None:
    if not pixels:
        return None
    return numerator / denominator if denominator else 1.0


def _means(name: str, rows: list[Row]) -> Row:
    return {"name": name, "mIoU": _mean(rows, "IoU"), "mBIoU": _mean(rows, "boundary_IoU")}


def _mean(rows: list[Row], key: str) -> float | None:
    values = [np.nan if row[key] is None else row[key] for row in rows]
    return optional(mean_defined(np.asarray(values, np.float64)))
