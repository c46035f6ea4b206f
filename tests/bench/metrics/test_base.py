from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from bench.datasets.base import TASKS, Annotation, Category, Segment
from bench.errors import ContractViolation, UnknownName
from bench.metrics.arithmetic import mean_defined, optional, ratio
from bench.metrics.base import for_task, metric_type
from bench.metrics.prediction import (
    DetectionPrediction,
    InstancePrediction,
    PanopticPrediction,
    SemanticPrediction,
)

CLASSES = ("background", "object")
CATEGORIES = (Category("cat", is_thing=True), Category("grass", is_thing=False))
PRIMARY = {
    "semantic": "mIoU",
    "binary": "IoU",
    "interactive": "mIoU",
    "panoptic": "PQ",
    "instance": "AP",
    "detection": "AP",
}


def test_importing_metrics_imports_nothing_heavy():
    code = (
        "import sys; import bench.metrics, bench.metrics.base, bench.metrics.semantic, bench.metrics.binary,"
        "bench.metrics.panoptic, bench.metrics.instance, bench.metrics.detection, bench.metrics.quality,"
        "bench.report.statistics;"
        "print([m for m in ('torch','pandas','scipy','pycocotools','matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_metric_and_scores_of_no_images_are_undefined(task):
    scores = for_task(task, CLASSES, CATEGORIES).compute()
    assert scores.primary == PRIMARY[task]
    assert scores.score is None
    assert set(scores.values.values()) == {None}
    assert scores.constant is None
    assert scores.per_image == []
    assert metric_type(task).rescore([]) is None


def test_an_unknown_task_is_named_with_the_known_ones():
    with pytest.raises(UnknownName, match=r"'depth'.*semantic"):
        for_task("depth", CLASSES)


def test_an_image_counts_once():
    metric = for_task("semantic", CLASSES)
    labels = np.zeros((2, 2), np.uint8)
    annotation = Annotation(labels, (), labels > 0)
    metric.update("a", SemanticPrediction(labels), annotation)
    with pytest.raises(ContractViolation, match="'a' was scored twice"):
        metric.update("a", SemanticPrediction(labels), annotation)


@pytest.mark.parametrize("task", TASKS)
def test_a_prediction_of_another_kind_or_size_is_refused(task):
    mask = np.array([[True, True], [False, False]])
    annotation = Annotation(mask.astype(np.uint8), (Segment(mask, 0), Segment(~mask, 1)), mask)
    wrong_size = {
        "semantic": SemanticPrediction(np.zeros((2, 3), np.uint8)),
        "panoptic": PanopticPrediction(np.zeros((2, 3), np.int32), ()),
        "instance": InstancePrediction(np.zeros((1, 2, 3), bool), np.ones(1), np.zeros(1, np.int64)),
        "detection": DetectionPrediction(np.zeros((1, 3)), np.ones(1), np.zeros(1, np.int64)),
    }
    kind = task if task in wrong_size else "semantic"
    with pytest.raises(ContractViolation, match=r"'img'.*shape"):
        for_task(task, CLASSES, CATEGORIES).update("img", wrong_size[kind], annotation)
    other = wrong_size["panoptic" if kind != "panoptic" else "semantic"]
    with pytest.raises(ContractViolation, match="asks for"):
        for_task(task, CLASSES, CATEGORIES).update("img", other, annotation)


def test_undefined_fractions():
    assert np.isnan(ratio(np.array([1, 0]), np.array([0, 0]))).all()
    assert ratio(np.array([1, 3]), np.array([2, 4])).tolist() == [0.5, 0.75]
    assert mean_defined(np.array([[1.0, np.nan], [0.0, 0.5]])).tolist() == [1.0, 0.25]
    assert optional(mean_defined(np.array([np.nan]))) is None
    assert optional(np.float64(0.5)) == 0.5
