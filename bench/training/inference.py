"""Runs a trained victim over a split and gives its predictions at the images' original sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets.base import Dataset, Split
from bench.errors import BenchError, ContractViolation
from bench.metrics.prediction import (
    DetectionPrediction,
    InstancePrediction,
    PanopticPrediction,
    Prediction,
    SemanticPrediction,
)
from bench.training.environment import check_device
from bench.training.labels import label_order
from bench.victim import TrainingRecipe


def predict(
    recipe: TrainingRecipe,
    weights: Path,
    dataset: Dataset,
    split: Split,
    *,
    device: str,
    ids: Sequence[str] | None = None,
    workers: int = 0,
    report: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Iterator[tuple[str, Prediction]]:
    """Predicts images of a split, one after the other.

    Args:
        recipe: As given to `train`.
        weights: What `train` wrote.
        dataset: Only images are read; labels too for interactive victims, whose prompts come from them.
        split: `train` or `val`. No defense is applied.
        device: `cpu`, `cuda` or `cuda:<index>`.
        ids: A part of the split; None: all of it.
        workers: Loading processes.
        report: Called per batch as `report(done, total, note)`.

    Yields:
        `(image_id, prediction)` in the order of `ids`: a `SemanticPrediction` for the tasks semantic, binary
        and interactive, otherwise what the task is called.

    Raises:
        ArtifactCorrupt: The weights are missing or of another model.
        DatasetError: An image is unreadable.
        EnvironmentFault: No such device.
        ContractViolation: The model predicted something that is no prediction of the image.
    """
    import torch

    from bench.training.checkpoint import load_weights
    from bench.training.model import build_model

    check_device(device)
    wanted = dataset.ids(split) if ids is None else tuple(ids)
    model = build_model(recipe, "cpu")
    load_weights(weights, model)
    model.to(device).eval()
    done = 0
    for batch in _batches(_samples(recipe, dataset, split, wanted, workers), recipe.test_batch_size):
        data = {key: [item[key] for item in batch] for key in batch[0] if key != "size"}
        with torch.no_grad():
            outputs = model.test_step(data)
        for item, output in zip(batch, outputs, strict=True):
            prediction = convert(output, recipe.task, dataset, item["size"])
            yield wanted[done], prediction
            done += 1
        report(done, len(wanted), "")


def convert(output: Any, task: str, dataset: Dataset, size: tuple[int, int]) -> Prediction:
    """The benchmark's form of a predicted mmseg or mmdet data sample.

    Args:
        output: A `SegDataSample` or `DetDataSample`.
        task: The task of the recipe.
        dataset: Gives the categories behind the model's labels.
        size: `(H, W)` of the original image.

    Raises:
        ContractViolation: The prediction is missing or of another size.
    """
    if task == "detection":
        return _boxes(output, label_order(dataset.categories, "detection"))
    if task == "instance":
        prediction = _instances(output, label_order(dataset.categories, "instance"), size)
    elif task == "panoptic":
        prediction = _panoptic(output, label_order(dataset.categories, "panoptic"))
    else:
        prediction = SemanticPrediction(_map(output, "pred_sem_seg").astype(np.uint8))
    found = _size(prediction)
    if found != tuple(size):
        raise ContractViolation(
            f"the model predicted a map of size {found} for an image of size {tuple(size)}"
        )
    return prediction


def _samples(
    recipe: TrainingRecipe, dataset: Dataset, split: Split, ids: Sequence[str], workers: int
) -> Iterator[dict[str, Any]]:
    from torch.utils.data import DataLoader

    from bench.training.samples import EvaluationSamples
    from bench.training.trainer import ignore_signals

    loader = DataLoader(
        EvaluationSamples(dataset, split, recipe, ids),
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=ignore_signals if workers else None,
    )
    for item in loader:
        if isinstance(item, BenchError):
            raise item
        yield item


def _unchanged(item: Any) -> Any:
    return item


def _batches(samples: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Runs of at most `size` neighbours whose inputs have one shape: test batches cannot mix sizes."""
    batch: list[dict[str, Any]] = []
    for item in samples:
        if batch and (len(batch) == size or item["inputs"].shape != batch[0]["inputs"].shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _map(output: Any, name: str) -> np.ndarray:
    """A `(H, W)` map from a data sample: mmseg calls its content `data`, mmdet `sem_seg`."""
    field = getattr(output, name, None)
    if field is None:
        raise ContractViolation(f"the model's output has no {name}: it was built for another task")
    content = field.data if "data" in field else field.sem_seg
    return np.asarray(content.cpu() if hasattr(content, "cpu") else content).squeeze(0)


def _instances(output: Any, order: Sequence[int], size: tuple[int, int]) -> InstancePrediction:
    found = getattr(output, "pred_instances", None)
    if found is None or "masks" not in found:
        raise ContractViolation("the model's output has no instance masks: it was built for another task")
    masks = found.masks.cpu().numpy() if hasattr(found.masks, "cpu") else np.asarray(found.masks)
    return InstancePrediction(
        masks=masks.astype(bool).reshape(len(masks), *(masks.shape[1:] if len(masks) else size)),
        scores=found.scores.cpu().numpy().astype(np.float32),
        # Some heads give floats where they found nothing.
        categories=np.asarray(order, np.int64)[found.labels.cpu().numpy().astype(np.int64)],
    )


def _boxes(output: Any, order: Sequence[int]) -> DetectionPrediction:
    found = getattr(output, "pred_instances", None)
    if found is None or "bboxes" not in found:
        raise ContractViolation("the model's output has no boxes: it was built for another task")
    return DetectionPrediction(
        boxes=found.bboxes.cpu().numpy().astype(np.float32).reshape(-1, 4),
        scores=found.scores.cpu().numpy().astype(np.float32),
        # Some heads give floats where they found nothing.
        categories=np.asarray(order, np.int64)[found.labels.cpu().numpy().astype(np.int64)],
    )


def _panoptic(output: Any, order: Sequence[int]) -> PanopticPrediction:
    """Splits mmdet's map of label + 1000 * instance, where the label past the last is nothing."""
    from mmdet.evaluation.functional import INSTANCE_OFFSET

    encoded = _map(output, "pred_panoptic_seg")
    segments = np.zeros(encoded.shape, np.int32)
    categories: list[int] = []
    for value in np.unique(encoded):
        label = int(value) % INSTANCE_OFFSET
        if label < len(order):
            categories.append(order[label])
            segments[encoded == value] = len(categories)
    return PanopticPrediction(segments, tuple(categories))


def _size(prediction: SemanticPrediction | PanopticPrediction | InstancePrediction) -> tuple[int, ...]:
    if isinstance(prediction, SemanticPrediction):
        return prediction.labels.shape
    if isinstance(prediction, PanopticPrediction):
        return prediction.segments.shape
    return prediction.masks.shape[1:]
