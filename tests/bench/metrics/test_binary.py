from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.datasets.base import VOID, Annotation
from bench.errors import ContractViolation
from bench.metrics.binary import BinaryMetric, InteractiveMetric
from bench.metrics.prediction import SemanticPrediction

TRUTHS = arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, VOID]))
MASKS = arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1]))
PAIRS = st.lists(st.tuples(MASKS, TRUTHS), min_size=1, max_size=4)


def annotation(truth) -> Annotation:
    truth = np.asarray(truth, np.uint8)
    return Annotation(truth, (), (truth != 0) & (truth != VOID))


def score(pairs, kind=BinaryMetric):
    metric = kind(("background", "object"))
    for number, (predicted, truth) in enumerate(pairs):
        metric.update(f"{number:03}", SemanticPrediction(np.asarray(predicted, np.uint8)), annotation(truth))
    return metric.compute()


def test_by_hand():
    scores = score([([[1, 1, 0, 0]], [[1, 0, 0, VOID]]), ([[1, 1, 1, 1]], [[1, 1, 1, 1]])])
    assert scores.values["IoU"] == pytest.approx(5 / 6)
    assert scores.values["mIoU"] == pytest.approx(0.75)
    assert scores.values["Dice"] == pytest.approx(10 / 11)
    assert scores.values["mDice"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores.constant == pytest.approx(5 / 7)
    assert scores.per_class == [{"name": "foreground", "IoU": 5 / 6, "Dice": 10 / 11}]


def test_against_torchmetrics():
    import torch
    from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex

    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 2, (11, 13)), rng.choice([0, 1, VOID], (11, 13))) for _ in range(5)]
    scores = score(pairs)
    predicted, truth = (torch.tensor(np.stack(side)) for side in zip(*pairs, strict=True))
    assert scores.values["IoU"] == pytest.approx(
        float(BinaryJaccardIndex(ignore_index=VOID)(predicted, truth))
    )
    assert scores.values["Dice"] == pytest.approx(float(BinaryF1Score(ignore_index=VOID)(predicted, truth)))
    per_image = [
        float(BinaryJaccardIndex(ignore_index=VOID)(p, t)) for p, t in zip(predicted, truth, strict=True)
    ]
    assert scores.values["mIoU"] == pytest.approx(np.mean(per_image), rel=1e-6)


@pytest.mark.parametrize(
    ("predicted", "truth", "image", "split"),
    [
        ([[0, 0]], [[0, 0]], 1.0, None),
        ([[0, 1]], [[0, 0]], 0.0, 0.0),
        ([[0, 0]], [[0, 1]], 0.0, 0.0),
        ([[0, 1]], [[VOID, VOID]], None, None),
        ([[0, 1]], [[0, VOID]], 1.0, None),
    ],
)
def test_empty_masks(predicted, truth, image, split):
    scores = score([(predicted, truth)])
    assert [scores.values[key] for key in ("mIoU", "mDice", "mBIoU")] == [image] * 3
    assert [scores.values[key] for key in ("IoU", "Dice")] == [split] * 2


def test_a_dataset_with_several_classes_is_scored_by_its_foreground():
    assert score([([[0, 1, 1, 0]], [[0, 2, 3, VOID]])]).values["IoU"] == 1.0


def test_a_mean_over_images_of_boundary_iou():
    truth = np.zeros((100, 100), np.uint8)
    truth[10:90, 10:90] = 1
    smaller = np.zeros_like(truth)
    smaller[12:88, 12:88] = 1
    values = score([(smaller, truth)]).values
    assert values["IoU"] > 0.9
    assert values["mBIoU"] < 0.25


def test_labels_other_than_0_and_1_are_refused():
    with pytest.raises(ContractViolation, match=r"outside 0\.\.1"):
        score([([[2]], [[1]])])


def test_interactive_by_hand():
    pairs = [
        ([[1, 1, 0, 0]], [[1, 0, 0, VOID]]),
        ([[1, 1, 1, 1]], [[1, 0, 1, 0]]),
        ([[1, 1, 1, 1]], [[0, 0, 0, 0]]),  # no object, no prompt, no score
    ]
    scores = score(pairs, InteractiveMetric)
    assert scores.primary == "mIoU" and scores.score == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert scores.values["box_mIoU"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores.values["IoU"] == pytest.approx((1 + 2) / (2 + 4))
    assert scores.constant == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert [row["IoU"] for row in scores.per_image] == [0.5, 0.5, None]
    assert scores.per_image[2]["boundary_IoU"] is None and scores.per_image[2]["union"] == 0


def test_interactive_scores_each_set_of_images():
    metric = InteractiveMetric(("background", "object"))
    for image_id, row in (("a/1", [1, 1]), ("a/2", [1, 0]), ("b/1", [0, 1])):
        metric.update(image_id, SemanticPrediction(np.array([row], np.uint8)), annotation([[1, 0]]))
    rows = {row["name"]: row for row in metric.compute().per_class}
    assert set(rows) == {"foreground", "a", "b"}
    assert rows["a"]["mIoU"] == 0.75 and rows["b"]["mIoU"] == 0 and rows["a"]["mBIoU"] == 0.75


def test_interactive_without_any_object_is_undefined():
    scores = score([([[0, 1]], [[0, 0]]), ([[0, 1]], [[VOID, VOID]])], InteractiveMetric)
    assert set(scores.values.values()) == {None} and scores.constant is None


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_interactive_properties(pairs):
    scores, pooled = score(pairs, InteractiveMetric), score(pairs)
    assert InteractiveMetric.rescore(scores.per_image) == scores.score
    json.dumps([scores.values, scores.per_class, scores.per_image], allow_nan=False)
    if all((truth == 1).any() for _, truth in pairs):
        for key, value in pooled.values.items():
            assert scores.values[key] == pytest.approx(value), key
    filled = []
    for predicted, truth in pairs:
        box = np.zeros_like(predicted)
        if (truth == 1).any():
            rows, columns = np.nonzero(truth == 1)
            box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
        filled.append((box, truth))
    assert score(filled, InteractiveMetric).score == pytest.approx(scores.values["box_mIoU"])


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_properties(pairs):
    scores = score(pairs)
    numbers = [value for value in (*scores.values.values(), scores.constant) if value is not None]
    assert all(0 <= number <= 1 for number in numbers)
    assert BinaryMetric.rescore(scores.per_image) == scores.values["IoU"]
    json.dumps([scores.values, scores.per_class, scores.per_image], allow_nan=False)
    perfect = score([(truth == 1, truth) for _, truth in pairs])
    assert set(perfect.values.values()) <= {1.0, None}
    everything = score([(np.ones_like(truth), truth) for _, truth in pairs])
    if any((truth == 1).any() for _, truth in pairs):
        assert scores.constant == everything.values["IoU"]


@settings(deadline=None, max_examples=25)
@given(PAIRS)
def test_order_of_images_changes_nothing(pairs):
    metrics = [BinaryMetric(("background", "object")) for _ in range(2)]
    for number, (predicted, truth) in enumerate(pairs):
        metrics[0].update(str(number), SemanticPrediction(predicted), annotation(truth))
    for number, (predicted, truth) in reversed(list(enumerate(pairs))):
        metrics[1].update(str(number), SemanticPrediction(predicted), annotation(truth))
    assert metrics[0].compute() == metrics[1].compute()
