"""Semantic segmentation: the confusion-matrix scores of mmseg's `IoUMetric`, as fractions.

With I_c, P_c and G_c the pixels of class c in the intersection, the prediction and the ground truth, summed
over all images without their void pixels, and U_c = P_c + G_c - I_c:

* IoU_c = I_c / U_c; mIoU is its mean over the classes that occur in the ground truth **or** the prediction
  of the split (U_c > 0). A class that occurs in neither has no IoU and is left out; a class that is only
  predicted counts with 0, so inventing a class costs. This is mmseg's `nanmean`.
* Acc_c = I_c / G_c; mAcc is its mean over the classes that occur in the ground truth.
* aAcc = sum I_c / sum G_c, the share of pixels that are right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.datasets.base import VOID, Annotation
from bench.errors import ContractViolation, DatasetError
from bench.metrics.arithmetic import mean_defined, optional, ratio
from bench.metrics.base import Metric, Row, Scores, require_kind, require_shape
from bench.metrics.prediction import Prediction, SemanticPrediction


def confusion_counts(
    image_id: str, predicted: np.ndarray, truth: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of each class in the intersection, the prediction and the ground truth, void left out.

    Args:
        image_id: For messages.
        predicted: `(H, W)` uint8 labels; 255 counts for no class and is wrong wherever truth is not void.
        truth: `(H, W)` uint8 labels; pixels with 255 count nowhere.
        classes: Number of classes.

    Returns:
        Three `(classes,)` int64 arrays.

    Raises:
        ContractViolation: A predicted label is neither a class nor 255.
        DatasetError: The same for the ground truth.
    """
    valid = truth != VOID
    true_labels = truth[valid].astype(np.int64)
    predicted_labels = predicted[valid].astype(np.int64)
    nothing = predicted_labels == VOID
    if ((predicted_labels >= classes) & ~nothing).any():
        raise ContractViolation(
            f"image {image_id!r}: the victim predicted labels outside 0..{classes - 1}; "
            f"the dataset has {classes} classes"
        )
    predicted_labels[nothing] = classes
    if true_labels.size and true_labels.max() >= classes:
        raise DatasetError(
            f"image {image_id!r}: label {true_labels.max()} in the ground truth, but the dataset has "
            f"{classes} classes; check its label files"
        )
    pairs = np.bincount(true_labels * (classes + 1) + predicted_labels, minlength=classes * (classes + 1))
    matrix = pairs.reshape(classes, classes + 1)
    return np.diagonal(matrix).copy(), matrix[:, :classes].sum(0), matrix.sum(1)


class SemanticMetric(Metric):
    """mIoU, per-class IoU, aAcc and mAcc.

    Rows of `Scores.per_image`: lists per class of `intersection`, `union` and `ground_truth` pixels, and
    `mIoU` of the image alone by the same rule. The constant predictor labels every pixel of every image
    with one class; the best one predicts the most frequent class f and reaches
    (G_f / sum G) / number of classes in the ground truth.
    """

    primary = "mIoU"
    resampled = "mIoU"
    count_keys = ("intersection", "union")

    def _row(self, image_id: str, prediction: Prediction, annotation: Annotation) -> Row:
        require_kind(image_id, prediction, SemanticPrediction)
        truth = annotation.semantic
        require_shape(image_id, "labels", prediction.labels, truth.shape)
        intersection, predicted, true = confusion_counts(
            image_id, prediction.labels, truth, len(self.classes)
        )
        union = predicted + true - intersection
        return {
            "mIoU": optional(self.from_counts(np.stack([intersection, union]))),
            "intersection": intersection.tolist(),
            "union": union.tolist(),
            "ground_truth": true.tolist(),
        }

    @staticmethod
    def from_counts(counts: np.ndarray) -> np.ndarray:
        """mIoU from `(..., 2, classes)` sums of intersection and union."""
        return mean_defined(ratio(counts[..., 0, :], counts[..., 1, :]))

    def compute(self) -> Scores:
        """See `Metric.compute`."""
        rows = self.rows()
        intersection, union, true = (
            _column_sums(rows, key, len(self.classes)) for key in ("intersection", "union", "ground_truth")
        )
        iou, accuracy = ratio(intersection, union), ratio(intersection, true)
        return Scores(
            primary=self.primary,
            values={
                "mIoU": optional(self.from_counts(np.stack([intersection, union]))),
                "aAcc": optional(ratio(intersection.sum(), true.sum())),
                "mAcc": optional(mean_defined(accuracy)),
            },
            per_class=[
                {"name": name, "IoU": optional(iou[index]), "Acc": optional(accuracy[index])}
                for index, name in enumerate(self.classes)
            ],
            per_image=rows,
            constant=optional(_best_constant(true)),
        )


def _column_sums(rows: Sequence[Row], key: str, classes: int) -> np.ndarray:
    return np.asarray([row[key] for row in rows], np.int64).reshape(-1, classes).sum(0)


def _best_constant(true: np.ndarray) -> np.ndarray:
    """mIoU of predicting the most frequent class everywhere; NaN without labelled pixels."""
    return ratio(ratio(true.max(initial=0), true.sum()), np.count_nonzero(true))
