"""A convolution that oneDNN cannot be trusted with, done in another way."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SAFE = 16
"""From how many input channels on oneDNN does it right on every processor."""
SAFE_IF_SMALL, SMALL = 8, 48 * 48
"""From how many on it does so for inputs of at most so many pixels."""


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution with a stride; on few channels one without a stride, of every `stride`-th pixel.

    oneDNN, as of torch 2.15 on a CPU, writes past its memory in the backward pass if the input is in channels-last
    order and has fewer channels than the processor's vectors have places: with AVX-512 fewer than 16, and about 56x56
    pixels or more; with AVX2 fewer than 8, whatever its size. The process dies then, or goes on with other numbers.
    Elsewhere its result is kept, which differs in the last digits.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        least = SAFE_IF_SMALL if inputs.shape[-2] * inputs.shape[-1] <= SMALL else SAFE
        if inputs.is_cuda or self.in_channels >= least:
            return super().forward(inputs)
        rows, columns = self.stride
        picked = inputs[:, :, ::rows, ::columns].contiguous(memory_format=torch.channels_last)
        return nn.functional.conv2d(picked, self.weight, self.bias)


def replace_strided_pointwise(module: nn.Module) -> None:
    """Makes every 1x1 convolution with a stride in `module` a `StridedPointwise`; weights and names stay."""
    for child in module.modules():
        if type(child) is nn.Conv2d and child.kernel_size == (1, 1) and child.stride != (1, 1):
            child.__class__ = StridedPointwise
