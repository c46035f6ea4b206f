"""The contract of a metric: what it is given, and the scores that it returns.

All scores are fractions in [0, 1]. A score that is not defined is None, never NaN, so that a record is
plain JSON and nobody averages a hole by accident.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bench.datasets.base import Annotation, Category, Task
from bench.errors import ContractViolation, UnknownName
from bench.metrics.arithmetic import optional
from bench.metrics.prediction import Prediction

Row = dict[str, Any]
"""One image's counts and scores: strings, integers, floats, None, and lists of them (JSON and parquet)."""


@dataclass(frozen=True)
class Scores:
    """The scores of one victim on one split.

    Attributes:
        primary: Key in `values` of the score that tables show.
        values: Fractions in [0, 1], None where undefined.
        per_class: One row per class or category, with its `"name"`.
        per_image: One row per image, sorted by `"image_id"`, whatever the order of the updates.
        constant: The primary score of the best constant predictor on the same ground truth. A victim that
            is not above it has learned nothing, and cannot be a clean control.
    """

    primary: str
    values: dict[str, float | None]
    per_class: list[Row]
    per_image: list[Row]
    constant: float | None

    @property
    def score(self) -> float | None:
        """The primary score."""
        return self.values[self.primary]


class Metric(ABC):
    """Collects one row of counts per image; the scores are functions of the rows.

    The order of the updates changes nothing, not even the last bit: rows are summed in the order of ids.

    Attributes:
        primary: Key of the score that tables show.
        resampled: Key of the score that `from_counts` computes, the one to bootstrap over images. It is
            `primary` except for instances and boxes, whose average precision is no function of counts.
        count_keys: Keys of the per-image rows that `stack_counts` collects.
    """

    primary: ClassVar[str]
    resampled: ClassVar[str]
    count_keys: ClassVar[tuple[str, ...]]

    def __init__(self, classes: Sequence[str], categories: Sequence[Category] = ()) -> None:
        """Args as `Dataset.classes` and `Dataset.categories`."""
        self.classes = tuple(classes)
        self.categories = tuple(categories)
        self._rows: dict[str, Row] = {}

    def update(self, image_id: str, prediction: Prediction, annotation: Annotation) -> None:
        """Adds an image.

        Args:
            image_id: Unique within the split.
            prediction: At the annotation's size, of the kind that the task asks for.
            annotation: Ground truth.

        Raises:
            ContractViolation: The prediction has another type, size or range than its contract says, or
                the image was added before.
            DatasetError: The ground truth contradicts itself.
        """
        if image_id in self._rows:
            raise ContractViolation(f"image {image_id!r} was scored twice; update a metric once per image")
        self._rows[image_id] = {"image_id": image_id, **self._row(image_id, prediction, annotation)}

    @abstractmethod
    def _row(self, image_id: str, prediction: Prediction, annotation: Annotation) -> Row:
        """The row of one image, without its id."""

    @abstractmethod
    def compute(self) -> Scores:
        """The scores of all images so far; without images every score is None."""

    def rows(self) -> list[Row]:
        """The rows of all images, sorted by id."""
        return [self._rows[image_id] for image_id in sorted(self._rows)]

    @classmethod
    def stack_counts(cls, per_image: Sequence[Row]) -> np.ndarray:
        """The counts of `Scores.per_image` as one array.

        Returns:
            `(images, len(count_keys), classes)` float64; the last axis is 1 where counts have no class.
        """
        rows = [[np.atleast_1d(row[key]) for key in cls.count_keys] for row in per_image]
        return np.asarray(rows, np.float64).reshape(len(rows), len(cls.count_keys), -1)

    @staticmethod
    @abstractmethod
    def from_counts(counts: np.ndarray) -> np.ndarray:
        """The `resampled` score from counts that were summed over images.

        Args:
            counts: `(..., len(count_keys), classes)` sums; leading axes are independent resamples.

        Returns:
            `(...)` float64, NaN where undefined.
        """

    @classmethod
    def rescore(cls, per_image: Sequence[Row]) -> float | None:
        """The `resampled` score of any selection of images, each as often as it is listed."""
        if not per_image:
            return None
        return optional(cls.from_counts(cls.stack_counts(per_image).sum(0)))


def metric_type(task: Task) -> type[Metric]:
    """The metric of a task.

    Raises:
        UnknownName: No such task.
    """
    from bench.metrics.binary import BinaryMetric, InteractiveMetric
    from bench.metrics.detection import DetectionMetric
    from bench.metrics.instance import InstanceMetric
    from bench.metrics.panoptic import PanopticMetric
    from bench.metrics.semantic import SemanticMetric

    types: dict[str, type[Metric]] = {
        "semantic": SemanticMetric,
        "instance": InstanceMetric,
        "panoptic": PanopticMetric,
        "interactive": InteractiveMetric,
        "binary": BinaryMetric,
        "detection": DetectionMetric,
    }
    if task not in types:
        raise UnknownName(f"no metric for task {task!r}; tasks are {', '.join(types)}")
    return types[task]


def for_task(task: Task, classes: Sequence[str], categories: Sequence[Category] = ()) -> Metric:
    """A fresh metric for a task.

    Args:
        task: One of `bench.datasets.base.TASKS`.
        classes: As `Dataset.classes`.
        categories: As `Dataset.categories`; empty for tasks without segments.

    Raises:
        UnknownName: No such task.
    """
    return metric_type(task)(classes, categories)


def require_kind(image_id: str, prediction: Prediction, kind: type[Prediction]) -> None:
    """Raises ContractViolation unless the prediction is of the kind that the task asks for."""
    if not isinstance(prediction, kind):
        raise ContractViolation(
            f"image {image_id!r}: the victim returned {type(prediction).__name__}; "
            f"its task asks for {kind.__name__}"
        )


def require_shape(image_id: str, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises ContractViolation unless `array` has `shape`."""
    if array.shape != shape:
        raise ContractViolation(
            f"image {image_id!r}: the victim's {name} have shape {array.shape}, expected {shape}; "
            "predictions are made at the size of the original image"
        )


def require_indices(image_id: str, values: Sequence[int] | np.ndarray, categories: int) -> None:
    """Raises ContractViolation unless all values are indices below `categories`."""
    for value in values:
        if not 0 <= value < categories:
            raise ContractViolation(
                f"image {image_id!r}: the victim predicted category {value}; "
                f"the dataset has {categories}, counted from 0"
            )
