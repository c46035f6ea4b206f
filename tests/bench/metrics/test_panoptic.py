from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.datasets.base import VOID, Annotation, Category, Segment
from bench.errors import ContractViolation, DatasetError
from bench.metrics.panoptic import PanopticMetric
from bench.metrics.prediction import PanopticPrediction

CATEGORIES = (
    Category("cat", is_thing=True),
    Category("dog", is_thing=True),
    Category("grass", is_thing=False),
    Category("sky", is_thing=False),
)
MAPS = arrays(np.int32, (3, 4), elements=st.integers(0, 4))
FOUR = st.lists(st.integers(0, 3), min_size=4, max_size=4)
IMAGES = st.lists(
    st.tuples(MAPS, FOUR, MAPS, FOUR, st.sets(st.integers(1, 4), max_size=2)), min_size=1, max_size=3
)


def annotation(ids, categories, crowd=()) -> Annotation:
    ids = np.asarray(ids)
    segments = tuple(
        Segment(ids == number, category, is_crowd=number in crowd)
        for number, category in enumerate(categories, start=1)
    )
    return Annotation(np.where(ids > 0, 0, VOID).astype(np.uint8), segments, ids > 0)


def score(images):
    """`images` are tuples of predicted map, its categories, true map, its categories, crowd segments."""
    metric = PanopticMetric((), CATEGORIES)
    for number, (predicted, predicted_categories, truth, true_categories, crowd) in enumerate(images):
        metric.update(
            f"{number:03}",
            PanopticPrediction(np.asarray(predicted, np.int32), tuple(predicted_categories)),
            annotation(truth, true_categories, crowd),
        )
    return metric.compute()


def reference(images):
    """Sums of (iou, tp, fp, fn) per category, by sets of pixels, straight from the definition."""
    stats = np.zeros((4, 4))
    for predicted, predicted_categories, truth, true_categories, crowd in images:
        pixels = list(enumerate(np.asarray(truth).ravel()))
        true_sets = {k + 1: {i for i, v in pixels if v == k + 1} for k in range(len(true_categories))}
        void = {i for i, v in pixels if v == 0}
        flat = list(enumerate(np.asarray(predicted).ravel()))
        sets = {k + 1: {i for i, v in flat if v == k + 1} for k in range(len(predicted_categories))}
        sets, true_sets = ({k: s for k, s in each.items() if s} for each in (sets, true_sets))
        hit, found = set(), set()
        for t, true_set in true_sets.items():
            for p, predicted_set in sets.items():
                if t in crowd or true_categories[t - 1] != predicted_categories[p - 1]:
                    continue
                iou = len(true_set & predicted_set) / len((true_set | predicted_set) - (void - true_set))
                if iou > 0.5:
                    stats[true_categories[t - 1], :2] += (iou, 1)
                    hit.add(t)
                    found.add(p)
        for t in set(true_sets) - hit - set(crowd):
            stats[true_categories[t - 1], 3] += 1
        for p in set(sets) - found:
            category = predicted_categories[p - 1]
            ignored = void.union(
                *(true_sets[t] for t in crowd if t in true_sets and true_categories[t - 1] == category)
            )
            if len(sets[p] & ignored) / len(sets[p]) <= 0.5:
                stats[category, 2] += 1
    return stats


def test_by_hand():
    # The cat is found with IoU 2/3, the dog called cat, the grass found exactly.
    truth = [[1, 1, 1, 2], [3, 3, 3, 3]]
    predicted = [[1, 1, 0, 2], [3, 3, 3, 3]]
    scores = score([(predicted, [0, 0, 2], truth, [0, 1, 2], ())])
    cat, dog, grass, sky = scores.per_class
    assert (cat["SQ"], cat["RQ"]) == pytest.approx((2 / 3, 1 / 1.5))
    assert cat["PQ"] == pytest.approx(2 / 3 / 1.5)
    assert (dog["PQ"], dog["SQ"], dog["RQ"]) == (0.0, 0.0, 0.0)
    assert grass["PQ"] == 1.0
    assert (sky["PQ"], sky["SQ"], sky["RQ"]) == (None, None, None)
    assert scores.values["PQ"] == pytest.approx((4 / 9 + 0 + 1) / 3)
    assert scores.values["PQ_things"] == pytest.approx(2 / 9)
    assert scores.values["PQ_stuff"] == 1.0


def test_against_torchmetrics():
    import torch
    from torchmetrics.detection import PanopticQuality

    # Where every pixel is predicted and stuff has one segment per image, both have the same rules.
    rng = np.random.default_rng(0)
    metric = PanopticQuality({0, 1}, {2, 3}, return_sq_and_rq=True, return_per_class=True)
    averages = PanopticQuality({0, 1}, {2, 3}, return_sq_and_rq=True)
    categories = [0, 0, 1, 2, 3]
    unknown = 99  # torchmetrics takes it for void
    colours = np.array([[unknown, 0], *([category, k] for k, category in enumerate(categories))])
    images = []
    for _ in range(8):
        truth = np.kron(rng.integers(0, 6, (3, 4)), np.ones((4, 4), int))
        noisy = rng.random(truth.shape) < 0.35
        predicted = np.where(noisy | (truth == 0), rng.integers(1, 6, truth.shape), truth)
        images.append((predicted, categories, truth, categories, ()))
        for each in (metric, averages):
            each.update(torch.tensor(colours[predicted])[None], torch.tensor(colours[truth])[None])
    scores = score(images)
    keys = ("PQ", "SQ", "RQ")
    per_class = [[row[key] for key in keys] for row in scores.per_class]
    np.testing.assert_allclose(per_class, metric.compute().numpy(), rtol=1e-6)
    assert 0.1 < scores.values["PQ"] < 0.9
    np.testing.assert_allclose([scores.values[key] for key in keys], averages.compute().numpy(), rtol=1e-6)


@settings(deadline=None, max_examples=200)
@given(IMAGES)
def test_against_the_definition_with_void_and_crowd(images):
    expected = reference(images)
    scores = score(images)
    found = np.sum([[row[key] for key in ("iou_sum", "tp", "fp", "fn")] for row in scores.per_image], axis=0)
    np.testing.assert_allclose(found, expected.T, rtol=1e-12)
    seen = expected[expected[:, 1:].any(1)]
    if len(seen):
        pq = seen[:, 0] / (seen[:, 1] + seen[:, 2] / 2 + seen[:, 3] / 2)
        assert scores.values["PQ"] == pytest.approx(pq.mean())
    else:
        assert scores.values["PQ"] is None


def counts(image):
    (row,) = score([image]).per_image
    return {key: sum(row[key]) for key in ("tp", "fp", "fn")}


def test_void_is_taken_out_of_the_union_and_excuses_false_positives():
    assert counts(([[1, 1, 1, 1]], [0], [[1, 1, 0, 0]], [0], ())) == {"tp": 1, "fp": 0, "fn": 0}
    assert score([([[1, 1, 1, 1]], [0], [[1, 1, 0, 0]], [0], ())]).score == 1.0
    # Three quarters of the dog on void: ignored. Exactly half: a false positive.
    assert counts(([[2, 2, 2, 2]], [0, 1], [[1, 0, 0, 0]], [0], ())) == {"tp": 0, "fp": 0, "fn": 1}
    assert counts(([[2, 2, 2, 2]], [0, 1], [[1, 1, 0, 0]], [0], ())) == {"tp": 0, "fp": 1, "fn": 1}


def test_crowd_is_neither_missed_nor_matched_and_excuses_its_own_category_only():
    truth = [[1, 1, 1, 2]]
    assert counts(([[0, 0, 0, 1]], [1], truth, [0, 1], {1})) == {"tp": 1, "fp": 0, "fn": 0}
    assert counts(([[1, 1, 1, 2]], [0, 1], truth, [0, 1], {1})) == {"tp": 1, "fp": 0, "fn": 0}
    assert counts(([[1, 1, 1, 2]], [1, 1], truth, [0, 1], {1})) == {"tp": 1, "fp": 1, "fn": 0}


def test_an_iou_of_one_half_is_no_match():
    assert counts(([[1, 1, 0, 0]], [0], [[1, 1, 1, 1]], [0], ())) == {"tp": 0, "fp": 1, "fn": 1}


def test_empty_cases():
    nothing = ([[0, 0]], [])
    assert score([(*nothing, *nothing, ())]).values["PQ"] is None
    assert score([(*nothing, [[1, 1]], [0], ())]).values["PQ"] == 0.0
    assert score([([[1, 1]], [0], [[1, 2]], [1, 2], ())]).values["PQ"] == 0.0
    # Segments without a pixel, in truth (2) and prediction (2), do not exist.
    assert score([([[1, 1]], [0, 1], [[1, 1]], [0, 3], ())]).values["PQ"] == 1.0


def test_a_single_category():
    metric = PanopticMetric((), (Category("all", is_thing=False),))
    metric.update("a", PanopticPrediction(np.ones((2, 2), np.int32), (0,)), annotation([[1, 1], [1, 1]], [0]))
    scores = metric.compute()
    assert scores.values["PQ"] == scores.values["PQ_stuff"] == scores.constant == 1.0
    assert scores.values["PQ_things"] is None


def test_malformed_maps_are_refused():
    with pytest.raises(ContractViolation, match=r"numbered outside 0\.\.1"):
        score([([[2]], [0], [[1]], [0], ())])
    with pytest.raises(ContractViolation, match="category 4"):
        score([([[1]], [4], [[1]], [0], ())])
    mask = np.ones((1, 1), bool)
    overlapping = Annotation(np.zeros((1, 1), np.uint8), (Segment(mask, 0), Segment(mask, 1)), mask)
    with pytest.raises(DatasetError, match="segment 2 overlaps"):
        PanopticMetric((), CATEGORIES).update(
            "a", PanopticPrediction(np.zeros((1, 1), np.int32), ()), overlapping
        )


@settings(deadline=None, max_examples=50)
@given(IMAGES)
def test_constant_is_the_best_of_all_constant_predictors(images):
    constant = [
        score(
            [
                (np.ones_like(truth), [category], truth, categories, crowd)
                for _, _, truth, categories, crowd in images
            ]
        )
        for category in range(len(CATEGORIES))
    ]
    defined = [scores.score for scores in constant if scores.score is not None]
    assert score(images).constant == (pytest.approx(max(defined)) if defined else None)


@settings(deadline=None, max_examples=50)
@given(IMAGES)
def test_properties(images):
    scores = score(images)
    numbers = [value for value in (*scores.values.values(), scores.constant) if value is not None]
    assert all(0 <= number <= 1 for number in numbers)
    assert PanopticMetric.rescore(scores.per_image) == scores.values["PQ"]
    json.dumps([scores.values, scores.per_class, scores.per_image], allow_nan=False)
    perfect = score([(truth, categories, truth, categories, ()) for _, _, truth, categories, _ in images])
    assert set(perfect.values.values()) <= {1.0, None}
    assert perfect.score == (1.0 if any(image[2].any() for image in images) else None)


@settings(deadline=None, max_examples=25)
@given(IMAGES)
def test_order_of_images_changes_nothing(images):
    metrics = [PanopticMetric((), CATEGORIES) for _ in range(2)]
    numbered = list(enumerate(images))
    for metric, order in zip(metrics, (numbered, numbered[::-1]), strict=True):
        for number, (predicted, categories, truth, true_categories, crowd) in order:
            prediction = PanopticPrediction(predicted, tuple(categories))
            metric.update(str(number), prediction, annotation(truth, true_categories, crowd))
    assert metrics[0].compute() == metrics[1].compute()
