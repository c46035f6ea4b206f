"""Binary cross entropy plus dice, at sampled points or on every pixel.

Points are chosen as in PointRend: most of them where the prediction is least certain. Importing this module
imports torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy and dice, one to one, each averaged over the masks.

    Args:
        logits: `(B, P)` at P points.
        target: `(B, P)` in [0, 1] at the same points.

    Returns:
        A scalar.
    """
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum(-1) + 1
    dice = 1 - overlap / (probability.sum(-1) + target.sum(-1) + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(-1)
    return (entropy + dice).mean()


def sample_at(values: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of `(B, 1, H, W)` maps at `(B, P, 2)` points (x, y) in [0, 1]: `(B, P)`."""
    grid = 2 * points[:, :, None] - 1
    # Padded with zeros, every logit within half a pixel of the frame would look uncertain.
    samples = F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return samples[:, 0, :, 0]


def uncertain_points(
    logits: Tensor, count: int, oversample: float, importance: float, rng: torch.Generator
) -> Tensor:
    """Draws points, a share of them at the smallest absolute logits.

    Args:
        logits: `(B, 1, H, W)`.
        count: Points to return for each map.
        oversample: How many candidates are drawn for each point.
        importance: Share in [0, 1] of the points that are the most uncertain candidates; the others are
            uniform.
        rng: CPU generator.

    Returns:
        `(B, count, 2)` points (x, y) in [0, 1], on the device of `logits`.
    """
    batch, certain = len(logits), int(importance * count)
    candidates = torch.rand(batch, int(count * oversample), 2, generator=rng).to(logits.device)
    uncertainty = -sample_at(logits.detach(), candidates).abs()
    chosen = uncertainty.topk(certain, dim=1).indices
    best = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    uniform = torch.rand(batch, count - certain, 2, generator=rng).to(logits.device)
    return torch.cat([best, uniform], dim=1)


def point_loss(
    logits: Tensor,
    target: Tensor,
    count: int,
    rng: torch.Generator,
    oversample: float = 3.0,
    importance: float = 0.75,
) -> Tensor:
    """`segmentation_loss` at points drawn by `uncertain_points`.

    Args:
        logits: `(B, 1, H, W)`.
        target: `(B, 1, H', W')` in [0, 1]; may have another size.
        count: Points for each map.
        rng: CPU generator.
        oversample: See `uncertain_points`.
        importance: See `uncertain_points`.

    Returns:
        A scalar.
    """
    points = uncertain_points(logits, count, oversample, importance, rng)
    return segmentation_loss(sample_at(logits, points), sample_at(target, points))


def dense_loss(logits: Tensor, target: Tensor) -> Tensor:
    """`segmentation_loss` on every pixel of the target's grid.

    Args:
        logits: `(B, 1, H, W)`; resized bilinearly.
        target: `(B, 1, H', W')` in [0, 1].

    Returns:
        A scalar.
    """
    if logits.shape[-2:] != target.shape[-2:]:
        logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
    return segmentation_loss(logits.flatten(1), target.flatten(1))
