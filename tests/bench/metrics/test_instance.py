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
from bench.metrics.instance import InstanceMetric
from bench.metrics.prediction import InstancePrediction

CATEGORIES = (
    Category("cat", is_thing=True),
    Category("grass", is_thing=False),
    Category("dog", is_thing=True),
)
THINGS = (0, 2)
SIDE = 24


def box(x: int, y: int, width: int, height: int, side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[y : y + height, x : x + width] = True
    return mask


def truth(*segments: tuple, side: int = SIDE) -> Annotation:
    """Ground truth from (mask, category[, is_crowd])."""
    masks = tuple(Segment(*segment) for segment in segments)
    blank = np.full((side, side), VOID, np.uint8)
    return Annotation(blank, masks, np.zeros((side, side), bool))


def prediction(*detections: tuple, side: int = SIDE) -> InstancePrediction:
    """Detections from (mask, score, category)."""
    masks = np.array([mask for mask, _, _ in detections], bool).reshape(-1, side, side)
    scores = np.array([score for _, score, _ in detections], np.float32)
    return InstancePrediction(masks, scores, np.array([c for _, _, c in detections], np.int64))


def score(*images: tuple[InstancePrediction, Annotation]):
    metric = InstanceMetric((), CATEGORIES)
    for number, (predicted, annotation) in enumerate(images):
        metric.update(f"{number:03}", predicted, annotation)
    return metric.compute()


def random_image(rng: np.random.Generator) -> tuple[InstancePrediction, Annotation]:
    def region() -> tuple[int, int, int, int]:
        return (*rng.integers(0, 14, 2).tolist(), *rng.integers(3, 10, 2).tolist())

    true, found = [], []
    for _ in range(rng.integers(0, 4)):
        x, y, width, height = region()
        category = int(rng.choice([0, 1, 2]))
        true.append((box(x, y, width, height), category, bool(rng.random() < 0.15)))
        moved = box(x + int(rng.integers(0, 2)), y, width, height + int(rng.integers(0, 3)))
        found.append((moved, round(float(rng.random()), 2), category))
    for _ in range(rng.integers(0, 3)):
        found.append((box(*region()), round(float(rng.random()), 2), int(rng.choice([0, 1, 2]))))
    return prediction(*found), truth(*true)


def brute_average_precision(images, category: int, threshold: float) -> float | None:
    """COCO's AP of one category at one IoU, from its definition: greedy matching, 101 recall points."""
    marks, positives = [], 0
    for number, (predicted, annotation) in enumerate(images):
        true = [segment for segment in annotation.segments if segment.category == category]
        positives += sum(not segment.is_crowd for segment in true)
        own = np.flatnonzero(predicted.categories == category)
        taken: set[int] = set()
        for d in own[np.argsort(-predicted.scores[own], kind="stable")]:
            mask, best, hit = predicted.masks[d], threshold, None
            for t, segment in enumerate(true):
                if segment.is_crowd or t in taken:
                    continue
                iou = (mask & segment.mask).sum() / (mask | segment.mask).sum()
                if iou >= best:
                    best, hit = iou, t
            on_crowd = any(s.is_crowd and (mask & s.mask).sum() / mask.sum() >= threshold for s in true)
            if hit is not None:
                taken.add(hit)
            if hit is not None or not on_crowd:
                marks.append((-predicted.scores[d], number, hit is not None))
    if not positives:
        return None
    hits = np.array([hit for *_, hit in sorted(marks, key=lambda mark: mark[:2])], float)
    true_positives = np.cumsum(hits)
    recall, precision = true_positives / positives, true_positives / np.arange(1, len(hits) + 1)
    points = [precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]
    return float(np.mean(points))


@pytest.mark.parametrize("seed", range(6))
def test_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(8)]
    scores = score(*images)
    for key, thresholds in (("AP", np.linspace(0.5, 0.95, 10)), ("AP50", [0.5]), ("AP75", [0.75])):
        values = [brute_average_precision(images, c, t) for c in THINGS for t in thresholds]
        assert scores.values[key] == pytest.approx(np.mean([v for v in values if v is not None]), abs=1e-9)


def test_against_pycocotools_summary():
    from pycocotools import mask as rle
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(7)
    images = [random_image(rng) for _ in range(10)]
    annotations, results = [], []
    for number, (predicted, annotation) in enumerate(images):
        for s in annotation.segments:
            code = rle.encode(np.asfortranarray(s.mask, np.uint8))
            entry = {"image_id": number, "category_id": s.category, "iscrowd": int(s.is_crowd)}
            bounds = rle.toBbox(code).tolist()
            entry |= {"segmentation": code, "area": float(rle.area(code)), "bbox": bounds}
            annotations.append({**entry, "id": len(annotations) + 1})
        for mask, value, category in zip(
            predicted.masks, predicted.scores, predicted.categories, strict=True
        ):
            code = rle.encode(np.asfortranarray(mask, np.uint8))
            results.append(
                {
                    "image_id": number,
                    "category_id": int(category),
                    "score": float(value),
                    "segmentation": code,
                }
            )
    scores = score(*images)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": n, "height": SIDE, "width": SIDE} for n in range(len(images))],
            "categories": [{"id": category} for category in THINGS],
            "annotations": annotations,
        }
        reference.createIndex()
        boxes = [{**r, "bbox": rle.toBbox(r["segmentation"]).tolist()} for r in results]
        for box_entry in boxes:
            del box_entry["segmentation"]
        for kind, entries, prefix in (("segm", results, ""), ("bbox", boxes, "bbox_")):
            evaluation = COCOeval(reference, reference.loadRes(entries), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for key, expected in zip(
                ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L"), evaluation.stats[:6], strict=True
            ):
                found = scores.values[prefix + key]
                assert (-1 if found is None else found) == pytest.approx(expected, abs=1e-12)


def test_counts_per_image():
    first, second = box(0, 0, 6, 6), box(10, 10, 6, 6)
    scores = score(
        (prediction((first, 0.9, 0), (first, 0.8, 0), (second, 0.4, 0)), truth((first, 0), (second, 0))),
        (prediction((second, 0.9, 2)), truth((second, 0))),
        (prediction(), truth()),
    )
    rows = [(row["tp"], row["fp"], row["fn"], row["F1_50"]) for row in scores.per_image]
    # A low score is in AP but not in the counts; a duplicate and a wrong category are false positives.
    assert rows == [(1, 1, 1, 0.5), (0, 1, 1, 0.0), (0, 0, 0, None)]
    assert scores.values["F1_50"] == pytest.approx(2 / (2 + 2 + 2))
    assert InstanceMetric.rescore(scores.per_image) == scores.values["F1_50"]


def test_crowd_is_never_missed_and_detections_on_it_are_ignored():
    crowd, cat = box(0, 0, 12, 12), box(14, 14, 6, 6)
    annotation = truth((crowd, 0, True), (cat, 0))
    scores = score((prediction((box(1, 1, 4, 4), 0.99, 0), (cat, 0.5, 0)), annotation))
    assert scores.values["AP"] == pytest.approx(1.0)
    assert scores.per_image[0] == {"image_id": "000", "F1_50": 1.0, "tp": 1, "fp": 0, "fn": 0}
    assert score((prediction(), truth((crowd, 0, True)))).values["AP"] is None


def test_nothing_to_find_and_nothing_found():
    cat = box(0, 0, 6, 6)
    nothing_to_find = score((prediction((cat, 0.9, 0)), truth()))
    assert nothing_to_find.values["AP"] is None
    assert nothing_to_find.constant is None
    assert nothing_to_find.values["F1_50"] == 0.0
    nothing_found = score((prediction(), truth((cat, 0))))
    assert nothing_found.values["AP"] == nothing_found.values["bbox_AP"] == nothing_found.constant == 0.0
    assert nothing_found.values["AP_S"] == 0.0
    assert nothing_found.values["AP_L"] is None
    assert nothing_found.per_class == [
        {"name": "cat", "AP": 0.0, "AP50": 0.0},
        {"name": "dog", "AP": None, "AP50": None},
    ]


def test_stuff_is_not_scored_and_empty_masks_are_no_objects():
    cat, empty = box(0, 0, 6, 6), np.zeros((SIDE, SIDE), bool)
    annotation = truth((cat, 0), (box(8, 8, 9, 9), 1), (empty, 2))
    scores = score((prediction((cat, 0.9, 0), (cat, 0.9, 1)), annotation))
    assert scores.values["AP"] == pytest.approx(1.0)
    assert scores.per_image[0]["fn"] == scores.per_image[0]["fp"] == 0
    assert score((prediction((empty, 0.9, 0)), truth((cat, 0)))).per_image[0]["fp"] == 1


def test_sizes():
    side = 128
    objects = ((box(0, 0, 20, 20, side), 0), (box(30, 0, 60, 60, side), 0), (box(0, 0, 120, 120, side), 2))
    found = prediction((objects[0][0], 0.9, 0), (objects[2][0], 0.9, 2), side=side)
    values = score((found, truth(*objects, side=side))).values
    assert (values["AP_S"], values["AP_M"], values["AP_L"]) == pytest.approx((1, 0, 1))


def test_malformed_predictions_are_refused():
    cat = box(0, 0, 6, 6)
    with pytest.raises(ContractViolation, match="category 3"):
        score((prediction((cat, 0.5, 3)), truth()))
    with pytest.raises(ContractViolation, match="NaN"):
        score((prediction((cat, np.nan, 0)), truth()))
    with pytest.raises(ContractViolation, match="scores have shape"):
        score((InstancePrediction(cat[None], np.zeros(2, np.float32), np.zeros(1, np.int64)), truth()))


def test_nothing_is_printed(capfd):
    score(random_image(np.random.default_rng(0)))
    assert capfd.readouterr() == ("", "")


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_properties(seed):
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(3)]
    scores = score(*images)
    assert all(0 <= value <= 1 for value in scores.values.values() if value is not None)
    assert InstanceMetric.rescore(scores.per_image) == scores.values["F1_50"]
    json.dumps([scores.values, scores.per_class, scores.per_image], allow_nan=False)
    backwards = InstanceMetric((), CATEGORIES)
    for number, (predicted, annotation) in reversed(list(enumerate(images))):
        backwards.update(f"{number:03}", predicted, annotation)
    assert backwards.compute() == scores


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_a_perfect_prediction_scores_one(seed):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(3):
        _, annotation = random_image(rng)
        whole = [(s.mask, 1.0, s.category) for s in annotation.segments if not s.is_crowd]
        images.append((prediction(*whole), annotation))
    values = score(*images).values
    assert all(value is None or value == pytest.approx(1) for value in values.values())
