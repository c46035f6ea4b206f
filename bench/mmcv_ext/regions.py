"""RoI align and RoI pool, as `mmcv.ops.roi_align` and `mmcv.ops.roi_pool` call them."""

from __future__ import annotations

from typing import Any

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from bench.mmcv_ext.numerics import vector_jacobian, widen

_AVERAGE = 1


def roi_align_forward(
    features: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options: Any
) -> None:
    """Fills `output` `(K, C, h, w)` with the averages of bilinear samples of `features` `(N, C, H, W)`.

    Args:
        features: `(N, C, H, W)`.
        rois: `(K, 5)` as image index, x1, y1, x2, y2.
        output: Filled.
        argmax_y: Used by mmcv's max mode only.
        argmax_x: Used by mmcv's max mode only.
        **options: `aligned_height`, `aligned_width`, `spatial_scale`, `sampling_ratio`, `pool_mode`,
            `aligned`.

    Raises:
        NotImplementedError: `pool_mode` is max.
    """
    output.copy_(_roi_align(features, rois, **options))


def roi_align_backward(
    gradient: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_features: Tensor, **options: Any
) -> None:
    """Fills `grad_features`, given the `gradient` of the output. Arguments as for `roi_align_forward`."""
    # RoI align is linear in the features, so its gradient can be taken at any of them, here at zero.
    (result,) = vector_jacobian(lambda x: _roi_align(x, rois, **options), [grad_features], gradient)
    grad_features.copy_(result)


def _roi_align(
    features: Tensor,
    rois: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> Tensor:
    if pool_mode != _AVERAGE:
        raise NotImplementedError(
            "mmcv operator 'roi_align' with pool_mode='max' is not among those that bench provides; "
            "install a compiled mmcv==2.1.0 in place of mmcv-lite to use it"
        )
    features = widen(features)
    return torch.ops.torchvision.roi_align(
        features,
        rois.to(features.dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        sampling_ratio,
        aligned,
    )


def roi_pool_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fills `output` `(K, C, h, w)` with the maxima of the bins of each region.

    Args:
        features: `(N, C, H, W)`.
        rois: `(K, 5)` as image index, x1, y1, x2, y2.
        output: Filled.
        argmax: `(K, C, h, w)` int32, filled with positions in the flat `H * W` plane; -1 for an empty bin.
        pooled_height: h.
        pooled_width: w.
        spatial_scale: Feature pixels per image pixel.
    """
    features = widen(features)
    pooled, positions = torch.ops.torchvision.roi_pool(
        features, rois.to(features.dtype), spatial_scale, pooled_height, pooled_width
    )
    output.copy_(pooled)
    argmax.copy_(positions)


def roi_pool_backward(
    gradient: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_features: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds each bin's gradient to `grad_features`, where its maximum came from."""
    channels, plane = grad_features.shape[1], grad_features.shape[2] * grad_features.shape[3]
    image = rois[:, 0].long().view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=rois.device).view(1, -1, 1, 1)
    target = (image * channels + channel) * plane + argmax.clamp(min=0).long()
    amount = torch.where(argmax >= 0, gradient, 0)
    grad_features.view(-1).scatter_add_(0, target.flatten(), amount.flatten())
