"""Average precision as COCO defines it, by pycocotools: what instance segmentation and detection share.

AP is the mean over IoU thresholds 0.50:0.05:0.95 and over the categories that have ground truth; AP50 and
AP75 take one threshold, AP_S, AP_M and AP_L objects below 32^2, between, and above 96^2 pixels. These are
COCO's own limits, in pixels of the image as it is evaluated: on images of 64 pixels no object is large, and
AP_L is undefined. The 100 best detections per image and category count. Only things are scored. A crowd
region is COCO's `iscrowd`: never missed, and detections on it are ignored. Void pixels mean nothing here.

Rules: a score over no ground truth at all (of that size) is undefined; ground truth without detections is 0.
A true segment without a pixel does not exist. The size of a true object is the area of its mask, of a
detection that of what is scored, its mask or its box, as in COCO.

Average precision ranks the detections of all images together, so it is no function of per-image counts
and cannot be resampled cheaply. For per-image statistics each row has the true positives, false positives and
misses at IoU 0.5 among detections with a score of at least 0.5, and `F1_50` is their pooled F-score.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bench.datasets.base import Segment
from bench.errors import ContractViolation
from bench.metrics.arithmetic import mean_defined, optional, ratio
from bench.metrics.base import Metric, Row, Scores, require_indices, require_shape
from bench.metrics.prediction import DetectionPrediction, InstancePrediction

if TYPE_CHECKING:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

MIN_SCORE = 0.5
"""Detections from this score on count in the per-image rows; average precision ranks all of them."""

SIZES = {"": 0, "_S": 1, "_M": 2, "_L": 3}
"""Index of each size in COCOeval's area ranges."""

AP50, AP75 = 0, 5
"""Indices of IoU 0.50 and 0.75 among COCOeval's thresholds."""


class AveragePrecisionMetric(Metric):
    """AP, AP50, AP75, AP_S, AP_M, AP_L of each kind of region, and F1_50.

    A subclass turns an image into `truth` and `predicted`, lists of COCO annotations without ids.

    Rows of `Scores.per_image`: `tp`, `fp`, `fn` and the image's own `F1_50`. The constant predictor
    finds nothing, so its AP is 0.

    Attributes:
        kinds: Prefix of the scores and pycocotools' `iouType` of each kind; the first is the primary one.
    """

    primary = "AP"
    resampled = "F1_50"
    count_keys = ("tp", "fp", "fn")
    kinds: ClassVar[tuple[tuple[str, str], ...]]

    @staticmethod
    def from_counts(counts: np.ndarray) -> np.ndarray:
        """F1 = 2 TP / (2 TP + FP + FN) from `(..., 3, 1)` sums of TP, FP and FN."""
        tp, fp, fn = (counts[..., index, 0] for index in range(3))
        return ratio(2 * tp, 2 * tp + fp + fn)

    def compute(self) -> Scores:
        """See `Metric.compute`."""
        rows = self.rows()
        category_ids = [index for index, category in enumerate(self.categories) if category.is_thing]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluations = {prefix: _evaluate(rows, category_ids, kind) for prefix, kind in self.kinds}
        values: dict[str, float | None] = {}
        for prefix, evaluation in evaluations.items():
            precision = _precision(evaluation)
            values[f"{prefix}AP"] = _average(precision[:, :, :, 0])
            values[f"{prefix}AP50"] = _average(precision[AP50, :, :, 0])
            values[f"{prefix}AP75"] = _average(precision[AP75, :, :, 0])
            for suffix, index in SIZES.items():
                values[f"{prefix}AP{suffix}"] = _average(precision[:, :, :, index])
        first = evaluations[self.kinds[0][0]]
        per_image = _image_rows(first, [row["image_id"] for row in rows])
        values["F1_50"] = self.rescore(per_image)
        precision = _precision(first)
        return Scores(
            primary=self.primary,
            values=values,
            per_class=[
                {
                    "name": self.categories[category].name,
                    "AP": _average(precision[:, :, index, 0]),
                    "AP50": _average(precision[AP50, :, index, 0]),
                }
                for index, category in enumerate(category_ids)
            ],
            per_image=per_image,
            constant=None if values["AP"] is None else 0.0,
        )

    def _require_detections(
        self, image_id: str, prediction: InstancePrediction | DetectionPrediction, count: int
    ) -> None:
        """Raises ContractViolation unless scores and categories fit `count` detections and the dataset."""
        require_shape(image_id, "scores", prediction.scores, (count,))
        require_shape(image_id, "categories", prediction.categories, (count,))
        require_indices(image_id, prediction.categories, len(self.categories))
        if not np.isfinite(prediction.scores).all():
            raise ContractViolation(f"image {image_id!r}: the victim's scores hold NaN or infinity")

    def _things(self, segments: tuple[Segment, ...]) -> list[Segment]:
        return [s for s in segments if self.categories[s.category].is_thing and s.mask.any()]


def true_box(segment: Segment) -> list[float]:
    """`[x, y, width, height]` of a segment that has pixels: its own box, or the bounds of its mask."""
    if segment.box is not None:
        x1, y1, x2, y2 = segment.box
        return [x1, y1, x2 - x1, y2 - y1]
    rows, columns = np.flatnonzero(segment.mask.any(1)), np.flatnonzero(segment.mask.any(0))
    x, y = float(columns[0]), float(rows[0])
    return [x, y, columns[-1] + 1 - x, rows[-1] + 1 - y]


def _coco(rows: list[Row], key: str, category_ids: list[int], kind: str) -> COCO:
    """A COCO object in memory. Ids count from 1, because COCOeval takes 0 for "not matched"."""
    from pycocotools.coco import COCO

    annotations = [{**region, "image_id": number} for number, row in enumerate(rows) for region in row[key]]
    if kind == "bbox" and key == "predicted":
        for annotation in annotations:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": number, "height": row["size"][0], "width": row["size"][1]}
            for number, row in enumerate(rows)
        ],
        "categories": [{"id": category, "name": str(category)} for category in category_ids],
        "annotations": [
            {"iscrowd": 0, **region, "id": number} for number, region in enumerate(annotations, start=1)
        ],
    }
    coco.createIndex()
    return coco


def _evaluate(rows: list[Row], category_ids: list[int], kind: str) -> COCOeval:
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(
        _coco(rows, "truth", category_ids, kind), _coco(rows, "predicted", category_ids, kind), iouType=kind
    )
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _precision(evaluation: COCOeval) -> np.ndarray:
    """`(thresholds, recalls, categories, sizes)` at 100 detections per image, NaN without ground truth."""
    precision = evaluation.eval["precision"][..., -1]
    return np.where(precision < 0, np.nan, precision)


def _average(precision: np.ndarray) -> float | None:
    return optional(mean_defined(precision.ravel()))


def _image_rows(evaluation: COCOeval, image_ids: list[str]) -> list[Row]:
    """Counts of each image at IoU 0.5 from COCOeval's matches, which are greedy by score: dropping
    detections below `MIN_SCORE` afterwards leaves the matches of the others as they are."""
    counts = np.zeros((len(image_ids), 3), np.int64)
    for result in evaluation.evalImgs:
        if result is None or result["aRng"] != evaluation.params.areaRng[0]:
            continue
        kept = (np.asarray(result["dtScores"]) >= MIN_SCORE) & ~result["dtIgnore"][AP50].astype(bool)
        matched = result["dtMatches"][AP50] > 0
        tp, fp = int((kept & matched).sum()), int((kept & ~matched).sum())
        misses = int((result["gtIgnore"] == 0).sum()) - tp
        counts[result["image_id"]] += (tp, fp, misses)
    return [
        {
            "image_id": image_id,
            "F1_50": optional(AveragePrecisionMetric.from_counts(row[:, None])),
            **dict(zip(AveragePrecisionMetric.count_keys, row.tolist(), strict=True)),
        }
        for image_id, row in zip(image_ids, counts, strict=True)
    ]
