"""Sigmoid focal loss, as `mmcv.ops.focal_loss` calls it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bench.mmcv_ext.numerics import vector_jacobian, widen


def sigmoid_focal_loss_forward(
    logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fills `output` with -alpha_t (1 - p_t)^gamma log(p_t) (Lin et al. 2017, Eq. 5).

    Args:
        logits: `(N, C)`.
        target: `(N,)` int64 class indices; anything outside [0, C) is background.
        weight: `(C,)` factor of each target class, or empty. Background has weight 1.
        output: `(N, C)`, filled.
        gamma: Focusing exponent.
        alpha: Weight of positives in [0, 1].
    """
    output.copy_(_focal_loss(logits, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    logits: Tensor, target: Tensor, weight: Tensor, grad_logits: Tensor, gamma: float, alpha: float
) -> None:
    """Fills `grad_logits` with d loss / d logit; mmcv multiplies by the outer gradient."""
    (result,) = vector_jacobian(
        lambda x: _focal_loss(x, target, weight, gamma, alpha), [logits], torch.ones_like(logits)
    )
    grad_logits.copy_(result)


def _focal_loss(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    logits = widen(logits)
    classes = logits.shape[1]
    positive = target[:, None] == torch.arange(classes, device=target.device)
    signed = torch.where(positive, logits, -logits)
    balance = alpha * positive + (1 - alpha) * ~positive
    loss = -balance * torch.sigmoid(-signed) ** gamma * logsigmoid(signed)
    if weight.numel():
        background = (target < 0) | (target >= classes)
        factor = torch.where(background, 1, widen(weight)[target.clamp(0, classes - 1)])
        loss = loss * factor[:, None]
    return loss
