"""Losses over label maps that ignore void: cross-entropy, and soft dice per object class."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn import functional

from bench.datasets.base import VOID


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels that are not void; 0, not NaN, where all of them are.

    Args:
        logits: `(N, C, H, W)`.
        target: `(N, H, W)` int64, 255 is void.
    """
    total = functional.cross_entropy(logits, target, ignore_index=VOID, reduction="sum")
    return total / (target != VOID).sum().clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 |P G| + 1) / (|P| + |G| + 1) of each class but the first over the batch, averaged (Milletari, 2016).

    Background fills most of an image, so cross-entropy alone learns small classes late; here all count alike.

    Args:
        logits: `(N, C, H, W)`, class 0 is background.
        target: `(N, H, W)` int64, 255 is void.
    """
    valid = (target != VOID)[:, None]
    probability = logits.float().softmax(1) * valid
    truth = functional.one_hot(target.clamp(max=logits.shape[1] - 1), logits.shape[1]).movedim(-1, 1) * valid
    overlap = (probability * truth).sum((0, 2, 3))
    size = probability.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    return (1 - (2 * overlap + 1) / (size + 1))[1:].mean()


@MODELS.register_module()
class ClassDiceLoss(torch.nn.Module):
    """`dice_loss` as a `loss_decode` of mmseg's heads.

    Args:
        loss_weight: Factor.
        loss_name: Key in the head's losses; mmseg sums those that contain "loss".
    """

    def __init__(self, loss_weight: float = 1.0, loss_name: str = "loss_dice") -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(self, cls_score: Tensor, label: Tensor, weight: Any = None, **kwargs: Any) -> Tensor:
        """`loss_weight * dice_loss(cls_score, label)`."""
        return self.loss_weight * dice_loss(cls_score, label)
