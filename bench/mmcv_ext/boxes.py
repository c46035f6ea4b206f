"""Non-maximum suppression, as `mmcv.ops.nms` calls it."""

from __future__ import annotations

import torch
import torchvision  # registers torch.ops.torchvision
from torch import Tensor

from bench.mmcv_ext.numerics import widen


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Indices of the kept boxes, best first.

    Args:
        boxes: `(N, 4)` as x1, y1, x2, y2.
        scores: `(N,)`.
        iou_threshold: A box that overlaps a better one by more is dropped.
        offset: A box is `x2 - x1 + offset` wide.

    Returns:
        `(K,)` int64.
    """
    boxes = widen(boxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torch.ops.torchvision.nms(boxes, widen(scores), iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017): overlapping boxes lose score instead of being dropped.

    On the CPU only, like mmcv's.

    Args:
        boxes: `(N, 4)` as x1, y1, x2, y2.
        scores: `(N,)`.
        dets: `(N, 5)`, filled with the kept boxes and their decayed scores, best first.
        iou_threshold: For methods 0 and 1.
        sigma: For method 2.
        min_score: A box whose score falls below is dropped.
        method: The factor of an overlapped score: 0 naive (zero), 1 linear (1 - IoU), 2 gaussian
            (exp(-IoU^2 / sigma)).
        offset: A box is `x2 - x1 + offset` wide.

    Returns:
        `(K,)` int64 indices of the kept boxes.
    """
    scores = scores.clone()
    area = (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)
    left = torch.arange(len(boxes))
    kept: list[int] = []
    while len(left):
        position = int(scores[left].argmax())
        best = left[position]
        left = torch.cat([left[:position], left[position + 1 :]])
        dets[len(kept), :4] = boxes[best]
        dets[len(kept), 4] = scores[best]
        kept.append(int(best))
        top_left = torch.maximum(boxes[best, :2], boxes[left, :2])
        bottom_right = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        overlap = (bottom_right - top_left + offset).clamp(min=0).prod(1)
        iou = overlap / (area[best] + area[left] - overlap)
        scores[left] *= _decay(iou, iou_threshold, sigma, method)
        left = left[scores[left] >= min_score]
    return torch.tensor(kept, dtype=torch.long)


def _decay(iou: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == 2:
        return torch.exp(-iou * iou / sigma)
    decayed = torch.zeros_like(iou) if method == 0 else 1 - iou
    return torch.where(iou >= iou_threshold, decayed, torch.ones_like(iou))


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes: each kept box, followed by those that it suppresses, best first.

    Args:
        dets: `(N, 5)` as x1, y1, x2, y2, score.
        iou_threshold: A box that overlaps a better one by as much or more joins its group.
    """
    left = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(left):
        iou = torchvision.ops.box_iou(dets[left[:1], :4], dets[left, :4])[0]
        joined = iou >= iou_threshold
        joined[0] = True  # a box without area has no IoU, not even with itself
        groups.append(left[joined].tolist())
        left = left[~joined]
    return groups
