"""Instance segmentation: COCO average precision of masks and of their boxes; rules in `bench.metrics.coco`.

Boxes of detections are the bounds of their masks; a detection without a pixel is a false positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.datasets.base import Annotation
from bench.metrics.base import Row, require_kind, require_shape
from bench.metrics.coco import AveragePrecisionMetric, true_box
from bench.metrics.prediction import InstancePrediction, Prediction


class InstanceMetric(AveragePrecisionMetric):
    """AP, AP50, AP75, AP_S, AP_M, AP_L of masks, the same with `bbox_` of boxes, and F1_50 of masks."""

    kinds = (("", "segm"), ("bbox_", "bbox"))

    def _row(self, image_id: str, prediction: Prediction, annotation: Annotation) -> Row:
        require_kind(image_id, prediction, InstancePrediction)
        detections = len(prediction.masks)
        shape = annotation.semantic.shape
        require_shape(image_id, "masks", prediction.masks, (detections, *shape))
        self._require_detections(image_id, prediction, detections)
        truth = [
            {
                **_region(segment.mask),
                "bbox": true_box(segment),
                "category_id": segment.category,
                "iscrowd": int(segment.is_crowd),
            }
            for segment in self._things(annotation.segments)
        ]
        predicted = [
            {**_region(mask), "category_id": int(category), "score": float(score)}
            for mask, category, score in zip(
                prediction.masks, prediction.categories, prediction.scores, strict=True
            )
        ]
        return {"size": shape, "truth": truth, "predicted": predicted}


def _region(mask: np.ndarray) -> dict[str, Any]:
    """Run-length code, area in pixels and `[x, y, width, height]` bounds of a mask."""
    from pycocotools import mask as rle

    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {"segmentation": code, "area": int(rle.area(code)), "bbox": rle.toBbox(code).tolist()}
