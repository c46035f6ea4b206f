"""The dilated depthwise convolution on the CPU: the one that it replaces, whatever the size."""

from __future__ import annotations

import pytest
import torch
from convolution_support import assert_same_convolution
from torch import nn

from victims.dilated_depthwise import DilatedDepthwise, replace_dilated_depthwise


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (5, 9), (1, 3)])
@pytest.mark.parametrize(("kernel", "step"), [(3, 2), (5, 2), (3, 4), (5, 3)])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_convolution_that_it_replaces(
    height: int, width: int, kernel: int, step: int, bias: bool
) -> None:
    torch.manual_seed(0)
    shape = {"padding": step * (kernel // 2), "dilation": step, "groups": 6, "bias": bias}
    plain, found = nn.Conv2d(6, 6, kernel, **shape).double(), nn.Conv2d(6, 6, kernel, **shape)
    replace_dilated_depthwise(found)
    assert type(found) is DilatedDepthwise
    images = torch.randn(2, 6, height, width, dtype=torch.float64)
    assert_same_convolution(plain, found, images, tolerance=1e-12, weight_tolerance=1e-12)


def test_it_replaces_nothing_else() -> None:
    others = [
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3),
        nn.Conv2d(6, 12, 3, padding=2, dilation=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, stride=2),
        nn.Conv2d(6, 6, 3, padding=1, dilation=2, groups=6),
        nn.Conv2d(6, 6, (3, 5), padding=(2, 8), dilation=(2, 4), groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, padding_mode="reflect"),
    ]
    network = nn.Sequential(*others)
    replace_dilated_depthwise(network)
    assert all(type(layer) is nn.Conv2d for layer in network)
