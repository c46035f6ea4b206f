"""Binary cross entropy plus dice, at sampled points or on every pixel.

Points are chosen as in PointRend (arXiv 1912.08193, section 3.1): most of them where the prediction is least
certain. Importing this module imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from protectors.unseg.parallel import Share, draw_rows


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
    """Bilinear samples of `(B, 1, H, W)` maps at `(B, P, 2)` points (x, y) in [0, 1]: `(B, P)`.

    Beyond the frame maps are zero, as in PointRend and all that follows it: within half a cell of the frame
    logits count as less certain, and a target of ones fades to one half.
    """
    grid = 2 * points[:, :, None].to(values.dtype) - 1
    return F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0, :, 0]


@dataclass(frozen=True)
class Candidates:
    """Random points of `B` masks, of which `uncertain_points` takes some.

    Attributes:
        offered: `(B, C, 2)` points (x, y) in [0, 1]; the least certain `certain` of them are taken.
        uniform: `(B, U, 2)` points that are taken wherever they lie.
        certain: Points to take of `offered`.
    """

    offered: Tensor
    uniform: Tensor
    certain: int

    def rows(self, start: int, stop: int) -> Candidates:
        """Those of masks `start` to `stop`."""
        return Candidates(self.offered[start:stop], self.uniform[start:stop], self.certain)


def draw_candidates(
    batch: int,
    count: int,
    oversample: float,
    importance: float,
    rng: torch.Generator,
    share: Share | None = None,
) -> Candidates:
    """Draws the random points of a step.

    Args:
        batch: Masks.
        count: Points to be taken for each.
        oversample: How many points are offered for each that is taken.
        importance: Share in [0, 1] of the points that are the least certain of those offered; the others are
            uniform.
        rng: CPU generator.
        share: Which rows of the whole batch these are; None: all.
    """
    certain = int(importance * count)
    offered = draw_rows(torch.rand, (batch, int(count * oversample), 2), rng, share)
    uniform = draw_rows(torch.rand, (batch, count - certain, 2), rng, share)
    return Candidates(offered, uniform, certain)


@torch.no_grad()
def uncertain_points(logits: Tensor, candidates: Candidates) -> Tensor:
    """Points where the absolute logit is smallest, and uniform ones after them.

    Args:
        logits: `(B, 1, H, W)`.
        candidates: Of the same `B` masks.

    Returns:
        `(B, P, 2)` points (x, y) in [0, 1], on the device of `logits`.
    """
    offered, uniform = candidates.offered.to(logits.device), candidates.uniform.to(logits.device)
    certainty = sample_at(logits, offered).abs()
    chosen = certainty.topk(candidates.certain, dim=1, largest=False).indices
    best = offered.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat([best, uniform], dim=1)


def point_loss(logits: Tensor, target: Tensor, candidates: Candidates) -> Tensor:
    """`segmentation_loss` at the `uncertain_points` of `candidates`.

    Args:
        logits: `(B, 1, H, W)`.
        target: `(B, 1, H', W')` in [0, 1]; may have another size.
        candidates: Of the same `B` masks.

    Returns:
        A scalar.
    """
    points = uncertain_points(logits, candidates)
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
