"""Multi-scale deformable attention, as `mmcv.ops.multi_scale_deform_attn` calls it on CUDA."""

from __future__ import annotations

from torch import Tensor

from bench.mmcv_ext.numerics import vector_jacobian, widen


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int = 64,
) -> Tensor:
    """Samples every level at a few points and sums with weights (Zhu et al. 2021, Eq. 3).

    Args:
        value: `(N, sum of H * W, heads, D)`.
        spatial_shapes: `(levels, 2)` int64 as H, W.
        level_start_index: `(levels,)`; follows from `spatial_shapes`.
        sampling_locations: `(N, Q, heads, levels, points, 2)` as x, y in [0, 1].
        attention_weights: `(N, Q, heads, levels, points)`.
        im2col_step: Block size of the compiled operator.

    Returns:
        `(N, Q, heads * D)` in the dtype of `value`.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    attended = multi_scale_deformable_attn_pytorch(
        widen(value), spatial_shapes.tolist(), widen(sampling_locations), widen(attention_weights)
    )
    return attended.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    gradient: Tensor,
    grad_value: Tensor,
    grad_locations: Tensor,
    grad_weights: Tensor,
    im2col_step: int = 64,
) -> None:
    """Fills the three gradients. Arguments as for `ms_deform_attn_forward`."""
    results = vector_jacobian(
        lambda v, p, w: ms_deform_attn_forward(v, spatial_shapes, level_start_index, p, w),
        [value, sampling_locations, attention_weights],
        gradient,
    )
    for target, result in zip((grad_value, grad_locations, grad_weights), results, strict=True):
        target.copy_(result)
