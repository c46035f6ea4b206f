from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.datasets.base import VOID, Annotation
from bench.errors import ContractViolation
from bench.metrics.binary import BinaryMetric, boundary_iou, boundary_width
from bench.metrics.prediction import SemanticPrediction

TRUTHS = arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, VOID]))
MASKS = arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1]))
PAIRS = st.lists(st.tuples(MASKS, TRUTHS), min_size=1, max_size=4)


def annotation(truth) -> Annotation:
    truth = np.asarray(truth, np.uint8)
    return Annotation(truth, (), (truth != 0) & (truth != VOID))


def score(pairs):
    metric = BinaryMetric(("background", "object"))
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


def test_labels_other_than_0_and_1_are_refused():
    with pytest.raises(ContractViolation, match=r"outside 0\.\.1"):
        score([([[2]], [[1]])])


def brute_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    height, length = mask.shape
    band = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        for v in range(y - width, y + width + 1):
            for u in range(x - width, x + width + 1):
                outside = not (0 <= v < height and 0 <= u < length)
                band[y, x] |= outside or not mask[v, u]
    return band


def test_boundary_width_is_two_percent_of_the_diagonal_and_at_least_one():
    assert boundary_width(300, 400) == 10
    assert boundary_width(4, 4) == 1


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (60, 80)])
def test_boundary_iou_against_brute_force(shape):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for _ in range(4):
        first, second = (
            np.hypot(y - rng.random() * shape[0], x - rng.random() * shape[1]) <= shape[0] * rng.random()
            for _ in range(2)
        )
        bands = [brute_boundary(mask, boundary_width(*shape)) for mask in (first, second)]
        union = (bands[0] | bands[1]).sum()
        expected = (bands[0] & bands[1]).sum() / union if union else 1.0
        assert boundary_iou(first, second) == pytest.approx(expected)


def test_boundary_iou_sees_what_iou_does_not():
    truth = np.zeros((100, 100), np.uint8)
    truth[10:90, 10:90] = 1
    smaller = np.zeros_like(truth)
    smaller[12:88, 12:88] = 1
    values = score([(smaller, truth)]).values
    assert values["IoU"] > 0.9
    assert values["mBIoU"] < 0.25


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
