from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.datasets.base import VOID, Annotation
from bench.errors import ContractViolation, DatasetError
from bench.metrics.prediction import SemanticPrediction
from bench.metrics.semantic import SemanticMetric

CLASSES = ("background", "disc", "square", "star")

LABELS = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 3, VOID]))
PAIRS = st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=4)


def score(pairs, classes=CLASSES):
    metric = SemanticMetric(classes)
    for number, (predicted, truth) in enumerate(pairs):
        truth = np.asarray(truth, np.uint8)
        annotation = Annotation(truth, (), truth != VOID)
        metric.update(f"{number:03}", SemanticPrediction(np.asarray(predicted, np.uint8)), annotation)
    return metric.compute()


def per_class(scores, key="IoU"):
    return [row[key] for row in scores.per_class]


def test_by_hand():
    scores = score([([[0, 0, 1], [1, 1, 2]], [[0, 1, 1], [1, VOID, 1]])])
    # background: 1 of 2; disc: 2 of 4; square: only predicted, 0; star: occurs nowhere, left out.
    assert per_class(scores) == [0.5, 0.5, 0.0, None]
    assert scores.values["mIoU"] == pytest.approx(1 / 3)
    assert scores.values["aAcc"] == pytest.approx(3 / 5)
    assert per_class(scores, "Acc") == [1.0, 0.5, None, None]
    assert scores.values["mAcc"] == pytest.approx(0.75)


def test_against_torchmetrics_and_mmseg():
    import torch
    from mmseg.evaluation import IoUMetric
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(6):
        truth = rng.choice([0, 1, 2, 3, VOID], (17, 23))
        predicted = np.where(rng.random(truth.shape) < 0.5, truth % VOID, rng.integers(0, 4, truth.shape))
        pairs.append((predicted, truth))
    scores = score(pairs)
    predicted, truth = (torch.tensor(np.stack(side)) for side in zip(*pairs, strict=True))
    jaccard = MulticlassJaccardIndex(4, average=None, ignore_index=VOID)
    np.testing.assert_allclose(per_class(scores), jaccard(predicted, truth).numpy(), rtol=1e-6)
    accuracy = MulticlassAccuracy(4, average="micro", ignore_index=VOID)
    assert scores.values["aAcc"] == pytest.approx(float(accuracy(predicted, truth)), rel=1e-6)

    results = [IoUMetric.intersect_and_union(p, t, 4, VOID) for p, t in zip(predicted, truth, strict=True)]
    totals = [sum(areas) for areas in zip(*results, strict=True)]
    reference = IoUMetric.total_area_to_metrics(*totals)
    np.testing.assert_allclose(per_class(scores), reference["IoU"], rtol=1e-6)
    np.testing.assert_allclose(per_class(scores, "Acc"), reference["Acc"], rtol=1e-6)
    assert scores.values["aAcc"] == pytest.approx(float(reference["aAcc"]), rel=1e-6)


def test_absent_classes_are_skipped_as_in_mmseg():
    import torch
    from mmseg.evaluation import IoUMetric

    predicted, truth = np.array([[0, 0, 2, 2]]), np.array([[0, 1, 0, 1]])
    areas = IoUMetric.intersect_and_union(torch.tensor(predicted), torch.tensor(truth), 4, VOID)
    reference = IoUMetric.total_area_to_metrics(*areas)
    assert np.isnan(reference["IoU"][3])
    assert score([(predicted, truth)]).values["mIoU"] == pytest.approx(np.nanmean(reference["IoU"]))


def test_void_truth_counts_nowhere_and_void_prediction_is_wrong():
    assert score([([[1, 2, 3]], [[VOID] * 3])]).values == {"mIoU": None, "aAcc": None, "mAcc": None}
    scores = score([([[VOID, 1]], [[1, 1]])])
    assert per_class(scores) == [None, 0.5, None, None]
    assert scores.values["aAcc"] == 0.5


def test_single_class():
    scores = score([([[0, 0]], [[0, VOID]])], classes=("all",))
    assert scores.values == {"mIoU": 1.0, "aAcc": 1.0, "mAcc": 1.0}
    assert scores.constant == 1.0


def test_labels_that_do_not_exist_are_refused():
    with pytest.raises(ContractViolation, match=r"outside 0\.\.3"):
        score([([[4]], [[0]])])
    with pytest.raises(DatasetError, match="label 4 in the ground truth"):
        score([([[0]], [[4]])])


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_constant_is_the_best_of_all_constant_predictors(pairs):
    truths = [truth for _, truth in pairs]
    best = [
        score([(np.full_like(truth, label), truth) for truth in truths]).values["mIoU"] for label in range(4)
    ]
    constant = score(pairs).constant
    if all((truth == VOID).all() for truth in truths):
        assert constant is None
    else:
        assert constant == pytest.approx(max(best))


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_properties(pairs):
    scores = score(pairs)
    numbers = [v for v in (*scores.values.values(), *per_class(scores), scores.constant) if v is not None]
    assert all(0 <= number <= 1 for number in numbers)
    assert SemanticMetric.rescore(scores.per_image) == scores.values["mIoU"]
    json.dumps([scores.values, scores.per_class, scores.per_image], allow_nan=False)
    perfect = score([(truth, truth) for _, truth in pairs])
    assert set(perfect.values.values()) <= {1.0, None}


@settings(deadline=None, max_examples=25)
@given(PAIRS, st.randoms(use_true_random=False))
def test_order_of_images_changes_nothing(pairs, random):
    metrics = [SemanticMetric(CLASSES), SemanticMetric(CLASSES)]
    numbered = list(enumerate(pairs))
    shuffled = random.sample(numbered, len(numbered))
    for metric, images in zip(metrics, (numbered, shuffled), strict=True):
        for number, (predicted, truth) in images:
            metric.update(str(number), SemanticPrediction(predicted), Annotation(truth, (), truth != VOID))
    assert metrics[0].compute() == metrics[1].compute()


def test_rows_survive_parquet_and_any_resample_can_be_scored(tmp_path):
    import pandas

    rng = np.random.default_rng(1)
    pairs = [(rng.integers(0, 4, (6, 6)), rng.choice([0, 1, VOID], (6, 6))) for _ in range(5)]
    scores = score(pairs)
    pandas.DataFrame(scores.per_image).to_parquet(tmp_path / "rows.parquet")
    rows = pandas.read_parquet(tmp_path / "rows.parquet").to_dict("records")
    drawn = [0, 3, 3, 1]
    again = score([pairs[index] for index in drawn])
    assert SemanticMetric.rescore([rows[index] for index in drawn]) == again.values["mIoU"]
