"""Between a dataset's annotations and the label spaces of mmseg and mmdet models.

mmdet's panoptic models number things before stuff. A dataset's categories may come in any order, so
the models work on `label_order(categories)`, and predictions are mapped back through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.datasets.base import VOID, Annotation, Category, Segment, Task


def label_order(categories: Sequence[Category], task: Task) -> tuple[int, ...]:
    """The category of each model label.

    Args:
        categories: `Dataset.categories`.
        task: `instance` and `detection`: things alone; `panoptic`: things, then stuff.

    Returns:
        Indices into `categories`; entry k is the category of model label k.
    """
    things = [index for index, category in enumerate(categories) if category.is_thing]
    stuff = [index for index, category in enumerate(categories) if not category.is_thing]
    return tuple(things if task in ("instance", "detection") else things + stuff)


def target_map(annotation: Annotation, categories: Sequence[Category], task: Task) -> np.ndarray:
    """The `gt_seg_map` of an image, `(H, W)` uint8 with 255 where nothing counts.

    Semantic: class indices. Binary and interactive: 1 on the foreground. Panoptic: model labels
    (`label_order`) of the segments.
    """
    if task == "semantic":
        return annotation.semantic.copy()
    if task in ("binary", "interactive"):
        return np.where(annotation.semantic == VOID, VOID, annotation.foreground).astype(np.uint8)
    label_of = {category: label for label, category in enumerate(label_order(categories, task))}
    target = np.full(annotation.semantic.shape, VOID, np.uint8)
    for segment in annotation.segments:
        if not segment.is_crowd:
            target[segment.mask] = label_of[segment.category]
    return target


def object_box(annotation: Annotation) -> tuple[float, float, float, float] | None:
    """The tight box x0, y0, x1, y1 of the foreground in pixels of the image, with exclusive ends.

    The prompt of an interactive victim, and all that it gets of the label of a test image. None for an image
    without an object, which has no prompt.
    """
    inside = annotation.foreground & (annotation.semantic != VOID)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def instance_targets(
    segments: Sequence[Segment], categories: Sequence[Category], height: int, width: int
) -> dict[str, Any]:
    """The boxes, labels, masks and ignore flags of the things of an image, as mmdet's transforms want them.

    Args:
        segments: The segments; stuff is left out.
        categories: `Dataset.categories`.
        height: Of the image.
        width: Of the image.

    Returns:
        `gt_bboxes` (HorizontalBoxes of `(N, 4)` float32, x1 y1 x2 y2 with exclusive ends), `gt_bboxes_labels`
        `(N,)` int64 model labels, `gt_masks` (BitmapMasks of `(N, H, W)` uint8), `gt_ignore_flags` `(N,)`
        bool, true for crowds.
    """
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    label_of = {category: label for label, category in enumerate(label_order(categories, "instance"))}
    things = [segment for segment in segments if segment.category in label_of and segment.mask.any()]
    masks = np.zeros((len(things), height, width), np.uint8)
    boxes = np.zeros((len(things), 4), np.float32)
    for index, segment in enumerate(things):
        masks[index] = segment.mask
        rows = np.flatnonzero(segment.mask.any(1))
        columns = np.flatnonzero(segment.mask.any(0))
        bounds = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        boxes[index] = segment.box or bounds
    return {
        "gt_bboxes": HorizontalBoxes(boxes),
        "gt_bboxes_labels": np.array([label_of[segment.category] for segment in things], np.int64),
        "gt_masks": BitmapMasks(masks, height, width),
        "gt_ignore_flags": np.array([segment.is_crowd for segment in things], bool),
    }
