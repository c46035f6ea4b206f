"""What the operators share: working precision and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def widen(tensor: Tensor) -> Tensor:
    """`tensor` in float32 if it is half or bfloat16, for which torchvision has no or only CUDA kernels."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def vector_jacobian(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `function(*inputs)` with respect to each input, given the gradient of its output.

    Runs `function` once more under autograd: mmcv calls forward and backward as separate functions that share
    no graph, and torchvision's backward kernels are private.
    """
    with torch.enable_grad(), torch.autocast(gradient.device.type, enabled=False):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        output = function(*leaves)
        return torch.autograd.grad(output, leaves, gradient.to(output.dtype))
