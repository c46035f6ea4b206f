"""Every victim, in every task that it has, can learn eight images by heart.

What it can reach at most is what the truth itself reaches when it is averaged over the cells of the
network's finest logits and enlarged again: a network of stride 4 cannot follow an outline to the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import zoom
from training_support import Identity, MemoryShapes, recipe_of

from bench import registry
from bench.datasets.base import Annotation, Dataset
from bench.metrics.base import for_task
from bench.metrics.prediction import (
    DetectionPrediction,
    InstancePrediction,
    PanopticPrediction,
    Prediction,
    SemanticPrediction,
)
from bench.training.inference import predict
from bench.training.trainer import train

LABEL_MAPS = ("semantic", "binary", "interactive")
SHARE = 0.9
"""Of the score that is possible."""


@dataclass(frozen=True)
class Case:
    """How a victim is trained for it.

    Attributes:
        cell: Pixels per cell of its finest logits, at the profile `cpu` and 64 px.
        iterations: Length of the training.
        options: What is left out of its augmentation, above all.
    """

    cell: int
    iterations: int
    options: dict[str, Any] = field(default_factory=dict)


QUIET = {"shift": 0, "symmetries": "horizontal"}
LEARNERS: dict[str, Case] = {
    "unetplusplus": Case(1, 300, QUIET),
    "deeplabv1": Case(4, 300, QUIET),
    "deeplabv3": Case(4, 300, QUIET),
    "deeplabv3plus": Case(4, 300, QUIET),
    "mask2former": Case(2, 400, {"flips": "horizontal"}),
    "sam_hq": Case(2, 300, {"flips": "horizontal"}),
    "rsprompter": Case(2, 700, {"flips": "horizontal"}),
    "rsprompter query": Case(2, 400, {"flips": "horizontal", "variant": "query"}),
    "dino": Case(1, 400, {"flips": "horizontal"}),
}


def cases() -> list[tuple[str, str]]:
    """Every victim but `config_file`, which is whatever its file says, with every task."""
    names = sorted({listing.name for listing in registry.listings("victim")} - {"config_file"})
    found = [(name, task) for name in names for task in registry.load("victim", name).tasks]
    return [*found, ("rsprompter query", "instance")]


def averaged(mask: np.ndarray, cell: int) -> np.ndarray:
    """`(H, W)` in [0, 1]: the mask averaged over cells and enlarged bilinearly, as torch does it."""
    if cell == 1:
        return mask.astype(np.float64)
    height, width = mask.shape
    cells = mask.reshape(height // cell, cell, width // cell, cell).mean((1, 3))
    return zoom(cells, cell, order=1, mode="nearest", grid_mode=True)


def coarse_truth(annotation: Annotation, task: str, classes: int, cell: int) -> Prediction:
    """The truth as a network with cells of this size would see it."""
    if task in LABEL_MAPS:
        labels = annotation.semantic if task == "semantic" else annotation.foreground.astype(np.uint8)
        count = classes if task == "semantic" else 2
        scores = np.stack([averaged(labels == index, cell) for index in range(count)])
        return SemanticPrediction(scores.argmax(0).astype(np.uint8))
    segments = annotation.segments
    masks = np.stack([averaged(segment.mask, cell) for segment in segments])
    categories = np.array([segment.category for segment in segments])
    if task == "panoptic":
        return PanopticPrediction((masks.argmax(0) + 1).astype(np.int32), tuple(map(int, categories)))
    things = categories > 0
    ones = np.ones(int(things.sum()), np.float32)
    if task == "instance":
        return InstancePrediction(masks[things] > 0.5, ones, categories[things])
    boxes = []
    for segment in segments[1:]:
        rows, columns = np.nonzero(segment.mask)
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return DetectionPrediction(np.array(boxes, np.float32).reshape(-1, 4), ones, categories[things])


def possible(dataset: Dataset, task: str, cell: int) -> float:
    metric = for_task(task, dataset.classes, dataset.categories)
    for image_id in dataset.ids("train"):
        annotation = dataset.annotation("train", image_id)
        metric.update(image_id, coarse_truth(annotation, task, len(dataset.classes), cell), annotation)
    return metric.compute().score


def learned(name: str, task: str, folder: Path) -> tuple[float, float]:
    """Score on the images that it was trained on, and the one that is possible."""
    case, dataset = LEARNERS[name], MemoryShapes(train=8)
    kind = registry.load("victim", name.partition(" ")[0])
    recipe = recipe_of(kind, dataset, task, "cpu", iterations=case.iterations, batch_size=4, **case.options)
    weights = train(recipe, dataset, Identity(), folder, seed=0, device="cpu").weights
    metric = for_task(task, dataset.classes, dataset.categories)
    for image_id, prediction in predict(recipe, weights, dataset, "train", device="cpu"):
        metric.update(image_id, prediction, dataset.annotation("train", image_id))
    return metric.compute().score, possible(dataset, task, case.cell)


@pytest.mark.parametrize("task", ["semantic", "binary", "panoptic", "instance", "detection"])
def test_the_truth_itself_is_perfect_without_cells_and_less_with_large_ones(task: str) -> None:
    dataset = MemoryShapes(train=8)
    assert possible(dataset, task, 1) == 1
    if task != "detection":
        assert 0.3 < possible(dataset, task, 8) < possible(dataset, task, 4) < possible(dataset, task, 2) < 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), cases())
def test_it_learns_eight_images_by_heart(tmp_path: Path, name: str, task: str) -> None:
    import torch

    torch.set_num_threads(1)
    score, limit = learned(name, task, tmp_path)
    assert score > SHARE * limit, (score, limit)
