"""Whether a convolution that is done in another way is the one that it replaces, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def assert_same_convolution(
    plain: nn.Conv2d,
    found: nn.Module,
    images: Tensor,
    tolerance: float,
    weight_tolerance: float,
    weight_rtol: float = 1e-5,
) -> None:
    """Compares outputs and gradients on `images`; `plain` in the usual memory order, `found` in channels-last.

    Args:
        plain: What is right.
        found: With the names of `plain`'s weights, which it gets.
        images: `(N, C, H, W)`.
        tolerance: Absolute, of outputs and of the gradient of `images`.
        weight_tolerance: Absolute, of the gradient of the weight, whose sums are longer.
        weight_rtol: Relative, of the same.
    """
    found.load_state_dict(plain.state_dict())
    found.to(dtype=images.dtype, memory_format=torch.channels_last)
    one = images.clone().requires_grad_()
    other = images.to(memory_format=torch.channels_last).clone().requires_grad_()
    expected, result = plain(one), found(other)
    assert torch.allclose(result, expected, atol=tolerance)
    pull = torch.randn_like(expected)
    expected.backward(pull)
    result.backward(pull)
    assert torch.allclose(other.grad, one.grad, atol=tolerance)
    assert torch.allclose(found.weight.grad, plain.weight.grad, rtol=weight_rtol, atol=weight_tolerance)
