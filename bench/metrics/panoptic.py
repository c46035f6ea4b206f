"""Panoptic quality (Kirillov et al. 2019, eq. 1), with the rules of the authors' `panopticapi`.

A predicted and a true segment of the same category match if their IoU exceeds 0.5; segments of one map do
not overlap, so no segment matches twice. Per category, summed over images:

    PQ = sum of matched IoU / (TP + FP/2 + FN/2) = SQ * RQ,  SQ = sum of matched IoU / TP,
    RQ = TP / (TP + FP/2 + FN/2).

Void and crowd:

* pixels in no true segment are void. They are taken out of the union of every pair;
* a crowd segment is neither matched nor missed;
* an unmatched prediction is no false positive if more than half of it lies on void or on crowd of its own
  category. (`panopticapi` keeps one crowd segment per category and image, the only number that occurs in
  COCO; here all of them count.)

A category with TP + FP + FN = 0 occurs nowhere and is left out of the means. SQ of a category without a
match is 0, as in `panopticapi`, so mean PQ is not the product of mean SQ and mean RQ. Segments without a
pixel do not exist.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.datasets.base import Annotation, Category
from bench.errors import ContractViolation, DatasetError
from bench.metrics.arithmetic import mean_defined, optional, ratio
from bench.metrics.base import Metric, Row, Scores, require_indices, require_kind, require_shape
from bench.metrics.prediction import PanopticPrediction, Prediction

MATCH_IOU = 0.5
"""A pair matches above this IoU; the same share of void and crowd excuses a false positive."""


class PanopticMetric(Metric):
    """PQ, SQ and RQ over all categories, things and stuff.

    Rows of `Scores.per_image`: lists per category of `iou_sum`, `tp`, `fp` and `fn`, and `PQ` of the image
    alone. The constant predictor says that every image is one segment of one category; the best of
    these categories counts.
    """

    primary = "PQ"
    resampled = "PQ"
    count_keys = ("iou_sum", "tp", "fp", "fn")

    def __init__(self, classes: Sequence[str], categories: Sequence[Category] = ()) -> None:
        super().__init__(classes, categories)
        self._constant_counts: dict[str, np.ndarray] = {}

    def _row(self, image_id: str, prediction: Prediction, annotation: Annotation) -> Row:
        require_kind(image_id, prediction, PanopticPrediction)
        shape = annotation.semantic.shape
        require_shape(image_id, "segments", prediction.segments, shape)
        require_indices(image_id, prediction.categories, len(self.categories))
        segments = prediction.segments
        if segments.size and not 0 <= segments.min() <= segments.max() <= len(prediction.categories):
            raise ContractViolation(
                f"image {image_id!r}: the victim's segments are numbered outside "
                f"0..{len(prediction.categories)}, the segments that it gave a category"
            )
        truth = _truth_map(image_id, annotation)
        true_categories = np.array([segment.category for segment in annotation.segments], np.int64)
        crowd = np.array([segment.is_crowd for segment in annotation.segments], bool)
        predicted_categories = np.asarray(prediction.categories, np.int64)
        count = len(self.categories)
        overlap = overlaps(truth, len(true_categories), segments, len(predicted_categories))
        counts = match_counts(overlap, true_categories, crowd, predicted_categories, count)
        self._constant_counts[image_id] = _constant_counts(overlap, true_categories, crowd, count)
        return {
            "PQ": optional(self.from_counts(counts)),
            "iou_sum": counts[0].tolist(),
            **{key: counts[index].astype(int).tolist() for index, key in enumerate(self.count_keys) if index},
        }

    @staticmethod
    def from_counts(counts: np.ndarray) -> np.ndarray:
        """Mean PQ from `(..., 4, categories)` sums of matched IoU, TP, FP and FN."""
        return mean_defined(_qualities(counts)[0])

    def compute(self) -> Scores:
        """See `Metric.compute`."""
        rows = self.rows()
        count = len(self.categories)
        totals = self.stack_counts(rows).sum(0) if rows else np.zeros((4, count))
        qualities = dict(zip(("PQ", "SQ", "RQ"), _qualities(totals), strict=True))
        things = np.array([category.is_thing for category in self.categories], bool)
        values: dict[str, float | None] = {}
        for suffix, selected in (("", np.ones(count, bool)), ("_things", things), ("_stuff", ~things)):
            for name, per_category in qualities.items():
                values[name + suffix] = optional(mean_defined(per_category[selected]))
        return Scores(
            primary=self.primary,
            values=values,
            per_class=[
                {
                    "name": category.name,
                    "is_thing": category.is_thing,
                    **{name: optional(values_of[index]) for name, values_of in qualities.items()},
                }
                for index, category in enumerate(self.categories)
            ],
            per_image=rows,
            constant=self._best_constant(),
        )

    def _best_constant(self) -> float | None:
        """PQ of the best category to fill every image with; None without ground truth to score it on."""
        if not self._constant_counts:
            return None
        totals = sum(self._constant_counts[image_id] for image_id in sorted(self._constant_counts))
        own, all_missed = totals[:4], totals[4]
        count = len(self.categories)
        counts = np.zeros((count, 4, count))
        counts[:, 3] = all_missed
        counts[np.arange(count), :, np.arange(count)] = own.T
        scores = self.from_counts(counts)
        return None if np.isnan(scores).all() else float(np.nanmax(scores))


def overlaps(truth: np.ndarray, true_count: int, predicted: np.ndarray, predicted_count: int) -> np.ndarray:
    """Pixels that each pair of segments shares.

    Args:
        truth: `(H, W)` int; 0 is void, k the k-th of `true_count` segments.
        true_count: Number of true segments T.
        predicted: `(H, W)` int; 0 is nothing, k the k-th of `predicted_count` segments.
        predicted_count: Number of predicted segments P.

    Returns:
        `(T + 1, P + 1)` int64.
    """
    shape = (true_count + 1, predicted_count + 1)
    pairs = truth.ravel().astype(np.int64) * shape[1] + predicted.ravel()
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)


def match_counts(
    overlap: np.ndarray,
    true_categories: np.ndarray,
    crowd: np.ndarray,
    predicted_categories: np.ndarray,
    categories: int,
) -> np.ndarray:
    """Matches the true and predicted segments of one image.

    Args:
        overlap: `(T + 1, P + 1)` int64 from `overlaps`.
        true_categories: `(T,)` int64.
        crowd: `(T,)` bool.
        predicted_categories: `(P,)` int64.
        categories: Number of categories C.

    Returns:
        `(4, C)` float64: sum of matched IoU, TP, FP, FN.
    """
    true_area, predicted_area = overlap.sum(1)[1:], overlap.sum(0)[1:]
    on_void, overlap = overlap[0, 1:], overlap[1:, 1:]
    same = true_categories[:, None] == predicted_categories[None, :]
    union = true_area[:, None] + (predicted_area - on_void)[None, :] - overlap
    iou = overlap / np.maximum(union, 1)
    matched = same & ~crowd[:, None] & (iou > MATCH_IOU)

    excused = on_void + (overlap * (same & crowd[:, None])).sum(0)
    false_positive = ~matched.any(0) & (predicted_area > 0) & (excused <= MATCH_IOU * predicted_area)
    false_negative = ~matched.any(1) & (true_area > 0) & ~crowd

    matched_true, _ = np.nonzero(matched)
    counts = np.zeros((4, categories))
    np.add.at(counts[0], true_categories[matched_true], iou[matched])
    np.add.at(counts[1], true_categories[matched_true], 1)
    np.add.at(counts[2], predicted_categories[false_positive], 1)
    np.add.at(counts[3], true_categories[false_negative], 1)
    return counts


def _qualities(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PQ, SQ and RQ per category of `(..., 4, C)` sums; NaN where a category occurs nowhere."""
    iou_sum, tp, fp, fn = (counts[..., index, :] for index in range(4))
    weight = tp + fp / 2 + fn / 2
    segmentation = np.where(weight > 0, np.where(tp > 0, ratio(iou_sum, tp), 0.0), np.nan)
    return ratio(iou_sum, weight), segmentation, ratio(tp, weight)


def _truth_map(image_id: str, annotation: Annotation) -> np.ndarray:
    """`(H, W)` int32 map of the true segments; 0 is void.

    Raises:
        DatasetError: Two segments overlap.
    """
    segments = np.zeros(annotation.semantic.shape, np.int32)
    for number, segment in enumerate(annotation.segments, start=1):
        if segments[segment.mask].any():
            raise DatasetError(
                f"image {image_id!r}: segment {number} overlaps another one; panoptic ground truth gives "
                "each pixel one segment, check the label files"
            )
        segments[segment.mask] = number
    return segments


def _constant_counts(
    overlap: np.ndarray, true_categories: np.ndarray, crowd: np.ndarray, categories: int
) -> np.ndarray:
    """What calling a whole image one segment counts, for each category that it can be called.

    Returns:
        `(5, C)` float64: matched IoU, TP, FP and FN of the category that the segment is given, and the
        segments of the category that are missed when the segment is given another one.
    """
    # Column 0 is "nothing", column 1 the segment: all pixels of every true segment and of void.
    whole = np.stack([np.zeros(len(overlap), np.int64), overlap.sum(1)], axis=1)
    nothing = overlap.sum(1, keepdims=True)
    own = [
        match_counts(whole, true_categories, crowd, np.array([category]), categories)[:, category]
        for category in range(categories)
    ]
    all_missed = match_counts(nothing, true_categories, crowd, np.zeros(0, np.int64), categories)[3]
    return np.vstack([np.reshape(own, (categories, 4)).T, all_missed])
