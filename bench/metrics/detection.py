"""Detection: COCO average precision of boxes; rules in `bench.metrics.coco`.

True boxes are those of the dataset where it has its own, else the bounds of the masks.
"""

from __future__ import annotations

import numpy as np

from bench.datasets.base import Annotation
from bench.errors import ContractViolation
from bench.metrics.base import Row, require_kind, require_shape
from bench.metrics.coco import AveragePrecisionMetric, true_box
from bench.metrics.prediction import DetectionPrediction, Prediction


class DetectionMetric(AveragePrecisionMetric):
    """AP, AP50, AP75, AP_S, AP_M, AP_L and F1_50 of boxes. Boxes may reach beyond the image, as in COCO."""

    kinds = (("", "bbox"),)

    def _row(self, image_id: str, prediction: Prediction, annotation: Annotation) -> Row:
        require_kind(image_id, prediction, DetectionPrediction)
        boxes = np.asarray(prediction.boxes, np.float64)
        require_shape(image_id, "boxes", boxes, (len(boxes), 4))
        self._require_detections(image_id, prediction, len(boxes))
        if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
            raise ContractViolation(
                f"image {image_id!r}: the victim predicted a box that is not x1 <= x2, y1 <= y2, all finite"
            )
        sizes = boxes[:, 2:] - boxes[:, :2]
        truth = [
            {
                "bbox": true_box(segment),
                "area": int(segment.mask.sum()),
                "category_id": segment.category,
                "iscrowd": int(segment.is_crowd),
            }
            for segment in self._things(annotation.segments)
        ]
        predicted = [
            {"bbox": box, "category_id": int(category), "score": float(score)}
            for box, category, score in zip(
                np.hstack([boxes[:, :2], sizes]).tolist(),
                prediction.categories,
                prediction.scores,
                strict=True,
            )
        ]
        return {"size": annotation.semantic.shape, "truth": truth, "predicted": predicted}
