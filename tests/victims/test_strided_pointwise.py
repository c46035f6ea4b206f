"""The strided 1x1 convolution: right, also where oneDNN's is not."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from convolution_support import assert_same_convolution
from torch import nn

from victims.strided_pointwise import StridedPointwise, replace_strided_pointwise


@pytest.mark.parametrize(("channels", "side"), [(4, 64), (4, 8), (8, 57), (8, 20), (16, 64), (24, 31)])
@pytest.mark.parametrize("stride", [2, 3])
def test_it_is_the_convolution_that_it_replaces(channels: int, side: int, stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 8, 1, stride)  # in the usual memory order, where oneDNN is right
    found = StridedPointwise(channels, 8, 1, stride)
    images = torch.randn(2, channels, side, side + 1)
    assert_same_convolution(plain, found, images, tolerance=1e-5, weight_tolerance=1e-3, weight_rtol=1e-4)


@pytest.mark.parametrize(("channels", "side"), [(8, 128), (4, 128), (4, 16), (7, 32), (8, 32), (12, 40)])
def test_narrow_networks_survive_their_training(channels: int, side: int) -> None:
    # In a process of its own: with oneDNN's own convolution it is killed by the first iterations, on processors with
    # AVX-512 the first two, on those with AVX2 those of fewer than 8 channels.
    code = (
        "import torch; from victims.strided_pointwise import StridedPointwise as S\n"
        f"c = S({channels}, 8, 1, 2, bias=False).to(memory_format=torch.channels_last)\n"
        "for _ in range(100):\n"
        f"    x = torch.randn(4, {channels}, {side}, {side}).to(memory_format=torch.channels_last).requires_grad_()\n"
        "    c(x).sum().backward()\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_it_replaces_strided_pointwise_convolutions_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 1), nn.Sequential(nn.Conv2d(8, 8, 1, 2)))
    names = set(network.state_dict())
    replace_strided_pointwise(network)
    assert [type(module) for module in (network[0], network[1], network[2][0])] == [
        nn.Conv2d,
        nn.Conv2d,
        StridedPointwise,
    ]
    assert set(network.state_dict()) == names
