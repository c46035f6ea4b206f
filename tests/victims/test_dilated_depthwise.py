"""The dilated depthwise convolution on the CPU: the one that it replaces, whatever the size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from victims.dilated_depthwise import DilatedDepthwise, replace_dilated_depthwise


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (5, 9), (1, 3)])
@pytest.mark.parametrize(("kernel", "step"), [(3, 2), (5, 2), (3, 4), (5, 3)])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_convolution_that_it_replaces(
    height: int, width: int, kernel: int, step: int, bias: bool
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, kernel, padding=step * (kernel // 2), dilation=step, groups=6, bias=bias).double()
    found = nn.Sequential(
        nn.Conv2d(6, 6, kernel, padding=step * (kernel // 2), dilation=step, groups=6, bias=bias)
    )
    replace_dilated_depthwise(found)
    assert type(found[0]) is DilatedDepthwise
    found[0].load_state_dict(plain.state_dict())
    found.double().to(memory_format=torch.channels_last)
    one = torch.randn(2, 6, height, width, dtype=torch.float64).requires_grad_()
    other = one.detach().to(memory_format=torch.channels_last).requires_grad_()
    expected, result = plain(one), found(other)
    assert torch.allclose(result, expected, atol=1e-12)
    pull = torch.randn_like(expected)
    expected.backward(pull)
    result.backward(pull)
    assert torch.allclose(other.grad, one.grad, atol=1e-12)
    assert torch.allclose(found[0].weight.grad, plain.weight.grad, atol=1e-12)


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
