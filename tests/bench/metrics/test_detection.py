"""Average precision of boxes, against pycocotools used directly and against answers known by hand."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.base import VOID, Annotation, Category, Segment
from bench.errors import ContractViolation
from bench.metrics.detection import DetectionMetric
from bench.metrics.instance import InstanceMetric
from bench.metrics.prediction import DetectionPrediction, InstancePrediction

CATEGORIES = (Category("cat", True), Category("grass", False), Category("dog", True))
SIDE = 200
"""Large enough for small, medium and large objects."""
KEYS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")

Box = tuple[float, float, float, float]


def mask_of(box: Box, side: int = SIDE) -> np.ndarray:
    """The pixels inside `(x1, y1, x2, y2)` that a diagonal cuts off one corner of, so areas are no box areas."""
    x1, y1, x2, y2 = (round(value) for value in box)
    mask = np.zeros((side, side), bool)
    mask[y1:y2, x1:x2] = True
    rows, columns = np.indices(mask.shape)
    return mask & (rows - y1 + columns - x1 >= min(x2 - x1, y2 - y1) // 2)


def truth(*objects: tuple, side: int = SIDE) -> Annotation:
    """Ground truth from (box, category[, is_crowd]); the boxes are the dataset's own."""
    segments = tuple(Segment(mask_of(b, side), c, *crowd, box=b) for b, c, *crowd in objects)
    return Annotation(np.zeros((side, side), np.uint8), segments, np.zeros((side, side), bool))


def found(*detections: tuple[Box, float, int]) -> DetectionPrediction:
    """Detections from (box, score, category)."""
    return DetectionPrediction(
        np.array([box for box, _, _ in detections], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in detections], np.float32),
        np.array([category for _, _, category in detections], np.int64),
    )


def score(*images: tuple[DetectionPrediction, Annotation]):
    metric = DetectionMetric((), CATEGORIES)
    for number, (predicted, annotation) in enumerate(images):
        metric.update(f"{number:03}", predicted, annotation)
    return metric.compute()


def random_image(rng: np.random.Generator) -> tuple[DetectionPrediction, Annotation]:
    """Objects of every size between pixels, some crowds, moved detections, false ones; sometimes nothing."""

    def region() -> Box:
        size = rng.choice([12, 32, 40, 96, 110])
        x, y = rng.integers(0, 4 * (SIDE - 126), 2) / 4
        return (x, y, x + size + rng.integers(0, 16) / 4, y + size + rng.integers(0, 16) / 4)

    true, detections = [], []
    for _ in range(rng.integers(0, 5)):
        box, category = region(), int(rng.choice([0, 1, 2]))
        true.append((box, category, bool(rng.random() < 0.2)))
        moved = tuple(float(v) for v in np.array(box) + rng.integers(0, 5, 4) / 2)
        detections.append((moved, round(float(rng.random()), 2), category))
    for _ in range(rng.integers(0, 4)):
        detections.append((region(), round(float(rng.random()), 2), int(rng.choice([0, 2]))))
    return found(*detections), truth(*true)


def reference(images: list, categories: tuple[int, ...] = (0, 2)) -> list[float]:
    """COCO's six numbers from pycocotools, through the files' formats and `loadRes`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for number, (predicted, annotation) in enumerate(images):
        for s in annotation.segments:
            x1, y1, x2, y2 = s.box
            entry = {"image_id": number, "category_id": s.category, "iscrowd": int(s.is_crowd)}
            entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(s.mask.sum())}
            annotations.append({**entry, "id": len(annotations) + 1})
        for (x1, y1, x2, y2), value, category in zip(
            predicted.boxes.tolist(), predicted.scores, predicted.categories, strict=True
        ):
            result = {"image_id": number, "category_id": int(category), "score": float(value)}
            results.append({**result, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": n, "height": SIDE, "width": SIDE} for n in range(len(images))],
            "categories": [{"id": category} for category in categories],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_against_pycocotools(seed):
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(20)]
    values = score(*images).values
    assert all(values[key] is not None for key in KEYS)
    assert [values[key] for key in KEYS] == pytest.approx(reference(images), abs=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_boxes_of_masks_score_as_pycocotools_scores_them(seed):
    """`bbox_` of instance segmentation: a detection's size is that of its box, not of its mask."""
    rng = np.random.default_rng(seed)
    metric, images = InstanceMetric((), CATEGORIES), []
    for number in range(20):
        predicted, annotation = random_image(rng)
        masks = np.array([mask_of(box) for box in predicted.boxes.tolist()], bool).reshape(-1, SIDE, SIDE)
        instances = InstancePrediction(masks, predicted.scores, predicted.categories)
        metric.update(f"{number:03}", instances, annotation)
        bounds = [bounds_of(mask) for mask in masks]
        images.append((found(*zip(bounds, predicted.scores, predicted.categories, strict=True)), annotation))
    values = metric.compute().values
    assert [values[f"bbox_{key}"] for key in KEYS] == pytest.approx(reference(images), abs=1e-12)


def bounds_of(mask: np.ndarray) -> Box:
    rows, columns = np.nonzero(mask)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_without_boxes_of_its_own_the_bounds_of_the_mask_are_the_truth():
    mask = mask_of((10, 20, 50, 80))
    annotation = Annotation(np.zeros((SIDE, SIDE), np.uint8), (Segment(mask, 0),), mask)
    assert score((found(((10, 20, 50, 80), 0.9, 0)), annotation)).values["AP"] == pytest.approx(1)


def test_crowds_are_never_missed_and_boxes_on_them_are_ignored():
    crowd, cat = (0, 0, 100, 100), (150, 150, 190, 190)
    annotation = truth((crowd, 0, True), (cat, 0))
    scores = score((found(((10, 10, 30, 30), 0.99, 0), (cat, 0.5, 0)), annotation))
    assert scores.values["AP"] == pytest.approx(1)
    assert scores.per_image[0] == {"image_id": "000", "F1_50": 1.0, "tp": 1, "fp": 0, "fn": 0}
    assert score((found(), truth((crowd, 0, True)))).values["AP"] is None


def test_void_pixels_change_nothing():
    box = (10.0, 10.0, 50.0, 50.0)
    annotation = truth((box, 0))
    void = Annotation(np.full((SIDE, SIDE), VOID, np.uint8), annotation.segments, annotation.foreground)
    detections = found((box, 0.9, 0), ((100, 100, 150, 150), 0.95, 0))
    assert score((detections, void)) == score((detections, annotation))
    assert score((detections, void)).per_image[0]["fp"] == 1


def test_empty_images():
    box = (10.0, 10.0, 50.0, 50.0)
    nothing_to_find = score((found((box, 0.9, 0)), truth()))
    assert nothing_to_find.values["AP"] is None and nothing_to_find.values["F1_50"] == 0
    assert nothing_to_find.constant is None
    nothing_found = score((found(), truth((box, 0))))
    assert nothing_found.values["AP"] == nothing_found.constant == 0
    # A detection in an image without objects is a false positive and lowers the precision.
    images = ((found((box, 0.5, 0)), truth((box, 0))), (found((box, 0.9, 0)), truth()))
    assert score(*images).values["AP"] == pytest.approx(0.5)
    assert [row["fp"] for row in score(*images).per_image] == [0, 1]


def test_sizes_are_cocos_whatever_the_size_of_the_image():
    small = truth(((0, 0, 20, 20), 0), side=64)
    values = score((found(((0, 0, 20, 20), 0.9, 0)), small)).values
    assert values["AP_S"] == pytest.approx(1) and values["AP_M"] is None and values["AP_L"] is None


def test_stuff_is_not_scored():
    box = (10.0, 10.0, 50.0, 50.0)
    scores = score((found((box, 0.9, 0), (box, 0.9, 1)), truth((box, 0), ((60, 60, 90, 90), 1))))
    assert scores.values["AP"] == pytest.approx(1) and scores.per_image[0]["fp"] == 0
    assert [row["name"] for row in scores.per_class] == ["cat", "dog"]


def test_malformed_predictions_are_refused():
    box = (10.0, 10.0, 50.0, 50.0)
    for detections, message in (
        (found((box, 0.5, 3)), "category 3"),
        (found((box, np.nan, 0)), "scores hold NaN"),
        (found(((50, 10, 10, 50), 0.5, 0)), "a box that is not x1 <= x2"),
        (found(((np.inf, 10, np.inf, 50), 0.5, 0)), "all finite"),
        (DetectionPrediction(np.zeros((2, 4)), np.zeros(1), np.zeros(2, np.int64)), "scores have shape"),
        (DetectionPrediction(np.zeros((2, 5)), np.zeros(2), np.zeros(2, np.int64)), "boxes have shape"),
    ):
        with pytest.raises(ContractViolation, match=message):
            score((detections, truth()))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_properties(seed):
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(3)]
    scores = score(*images)
    assert all(0 <= value <= 1 for value in scores.values.values() if value is not None)
    assert DetectionMetric.rescore(scores.per_image) == scores.values["F1_50"]
    json.dumps([scores.values, scores.per_class, scores.per_image], allow_nan=False)
    backwards = DetectionMetric((), CATEGORIES)
    for number, (predicted, annotation) in reversed(list(enumerate(images))):
        backwards.update(f"{number:03}", predicted, annotation)
    assert backwards.compute() == scores
