"""Deformable convolution v1 and v2, as `mmcv.ops.deform_conv` and `modulated_deform_conv` call them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from bench.mmcv_ext.numerics import vector_jacobian, widen


@dataclass(frozen=True)
class _Geometry:
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int

    @classmethod
    def of_v1(cls, options: dict[str, Any]) -> _Geometry:
        return cls(
            stride=(options["dH"], options["dW"]),
            padding=(options["padH"], options["padW"]),
            dilation=(options["dilationH"], options["dilationW"]),
            groups=options["group"],
            deform_groups=options["deformable_group"],
        )

    @classmethod
    def of_v2(cls, options: dict[str, Any]) -> _Geometry:
        return cls(
            stride=(options["stride_h"], options["stride_w"]),
            padding=(options["pad_h"], options["pad_w"]),
            dilation=(options["dilation_h"], options["dilation_w"]),
            groups=options["group"],
            deform_groups=options["deformable_group"],
        )


def _convolve(
    features: Tensor,
    weight: Tensor,
    offset: Tensor,
    geometry: _Geometry,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    if bias is None or bias.numel() == 0:  # mmcv passes an empty tensor for "no bias"
        bias = weight.new_zeros(len(weight))
    return torch.ops.torchvision.deform_conv2d(
        widen(features),
        widen(weight),
        widen(offset),
        widen(offset.new_zeros((len(offset), 1)) if mask is None else mask),
        widen(bias),
        *geometry.stride,
        *geometry.padding,
        *geometry.dilation,
        geometry.groups,
        geometry.deform_groups,
        mask is not None,
    )


def deform_conv_forward(
    features: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **options: Any,
) -> None:
    """Fills `output` with the convolution of `features` at shifted positions (Dai et al. 2017, Eq. 2).

    Args:
        features: `(N, C, H, W)`.
        weight: `(O, C / groups, kh, kw)`.
        offset: `(N, 2 * deform_groups * kh * kw, h, w)` pixels, y before x.
        output: `(N, O, h, w)`, filled.
        columns: Scratch space of the compiled operator.
        ones: Scratch space of the compiled operator.
        **options: Stride, padding, dilation and groups under mmcv's names.
    """
    output.copy_(_convolve(features, weight, offset, _Geometry.of_v1(options)))


def deform_conv_backward_input(
    features: Tensor,
    offset: Tensor,
    gradient: Tensor,
    grad_features: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **options: Any,
) -> None:
    """Fills `grad_features` and `grad_offset`. Arguments as for `deform_conv_forward`."""
    geometry = _Geometry.of_v1(options)
    results = vector_jacobian(lambda x, o: _convolve(x, weight, o, geometry), [features, offset], gradient)
    grad_features.copy_(results[0])
    grad_offset.copy_(results[1])


def deform_conv_backward_parameters(
    features: Tensor,
    offset: Tensor,
    gradient: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float = 1,
    **options: Any,
) -> None:
    """Adds `scale` times the weight's gradient to `grad_weight`. Arguments as for `deform_conv_forward`."""
    geometry = _Geometry.of_v1(options)
    # mmcv passes no weight: the convolution is linear in it, so its gradient is the same at any weight.
    (result,) = vector_jacobian(lambda w: _convolve(features, w, offset, geometry), [grad_weight], gradient)
    grad_weight.add_(result, alpha=scale)


def modulated_deform_conv_forward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    **options: Any,
) -> None:
    """Like `deform_conv_forward`, each sample weighted by `mask` (Zhu et al. 2019, Eq. 1).

    Args:
        features: `(N, C, H, W)`.
        weight: `(O, C / groups, kh, kw)`.
        bias: `(O,)`, or empty.
        ones: Scratch space of the compiled operator.
        offset: `(N, 2 * deform_groups * kh * kw, h, w)` pixels, y before x.
        mask: `(N, deform_groups * kh * kw, h, w)`.
        output: `(N, O, h, w)`, filled.
        columns: Scratch space of the compiled operator.
        **options: Stride, padding, dilation and groups under mmcv's names.
    """
    output.copy_(_convolve(features, weight, offset, _Geometry.of_v2(options), mask, bias))


def modulated_deform_conv_backward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_features: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    gradient: Tensor,
    with_bias: bool = True,
    **options: Any,
) -> None:
    """Fills all gradients. Arguments as for `modulated_deform_conv_forward`."""
    geometry = _Geometry.of_v2(options)
    results = vector_jacobian(
        lambda x, w, o, m: _convolve(x, w, o, geometry, m), [features, weight, offset, mask], gradient
    )
    for target, result in zip((grad_features, grad_weight, grad_offset, grad_mask), results, strict=True):
        target.copy_(result)
    if with_bias:
        grad_bias.copy_(gradient.sum((0, 2, 3)))
