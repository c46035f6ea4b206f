"""ResNet38, the wide residual network of Wu, Shen and van den Hengel (2016), as a backbone of mmseg.

"Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", https://arxiv.org/abs/1611.10080, model
A1: down-sampling by strided convolutions alone, residual units with batch norm and ReLU before each
convolution, few units and many channels. At stride 8 the last strides are replaced by dilation. For each level
the paper gives the channels and the number of units:

    level  channels            units
    1      64                  one 3x3 convolution
    2      128-128             3
    3      256-256             3
    4      512-512             6
    5      512-1024            3
    6      512-1024-2048       1, kernels 1, 3, 1
    7      1024-2048-4096      1, kernels 1, 3, 1
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from victims.strided_pointwise import StridedPointwise

WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
"""Output channels of levels 1 to 7."""
UNITS = (3, 3, 6, 3, 1, 1)
"""Residual units of levels 2 to 7."""
STRIDES = (2, 2, 2, 1, 1, 1)
DILATIONS = (1, 1, 1, 2, 4, 4)
"""Of levels 2 to 7 at output stride 8. A level's first 3x3 convolution has the dilation of the level before."""
DROPOUTS = (0.3, 0.5)
"""Of levels 6 and 7, as in the code that the paper of UnSeg evaluates with."""


class ResidualUnit(nn.Module):
    """Batch norm, ReLU and convolution, two or three times, beside a shortcut.

    Args:
        channels: In, between the convolutions, and out.
        kernels: Of the convolutions, one less than `channels`.
        stride: Of the first convolution.
        dilations: Of the convolutions; it matters to 3x3 ones.
        dropout: Probability with which whole channels are left out before every convolution but the first.
        projects: Whether the shortcut is a 1x1 convolution of the activated input instead of the input.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        kernels: tuple[int, ...],
        stride: int,
        dilations: tuple[int, ...],
        dropout: float,
        projects: bool,
    ) -> None:
        super().__init__()
        self.count = len(kernels)
        for index, (kernel, dilation) in enumerate(zip(kernels, dilations, strict=True)):
            convolution = nn.Conv2d(
                channels[index],
                channels[index + 1],
                kernel,
                stride=stride if index == 0 else 1,
                padding=dilation * (kernel // 2),
                dilation=dilation,
                bias=False,
            )
            self.add_module(f"norm{index + 1}", nn.BatchNorm2d(channels[index]))
            self.add_module(f"conv{index + 1}", convolution)
        self.dropout = nn.Dropout2d(dropout)
        self.shortcut = (
            StridedPointwise(channels[0], channels[-1], 1, stride, bias=False) if projects else None
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """`(N, channels[0], H, W)` to `(N, channels[-1], H / stride, W / stride)`."""
        activated = self.norm1(inputs).relu()
        branch = self.conv1(activated)
        for index in range(2, self.count + 1):
            branch = self.dropout(self.get_submodule(f"norm{index}")(branch).relu())
            branch = self.get_submodule(f"conv{index}")(branch)
        return branch + (inputs if self.shortcut is None else self.shortcut(activated))


@MODELS.register_module()
class ResNet38(BaseModule):
    """Levels 1 to 7 and the last batch norm and ReLU, without the classifier.

    Args:
        widths: Output channels of the seven levels. Within a unit the channels follow from them in the paper's
            proportions: half of the output at level 5, a quarter and a half at levels 6 and 7.
        strides: Of levels 2 to 7.
        dilations: Of levels 2 to 7.
        dropouts: Of levels 6 and 7.
        frozen: Keeps the first convolution and all batch norms, weights and statistics, as they are.
        init_cfg: As for mmengine's `BaseModule`.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = WIDTHS,
        strides: tuple[int, ...] = STRIDES,
        dilations: tuple[int, ...] = DILATIONS,
        dropouts: tuple[float, float] = DROPOUTS,
        frozen: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        self.conv1a = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        before = (1, *dilations)
        for index in range(6):
            level = index + 2
            self.add_module(
                f"level{level}",
                _level(
                    level,
                    widths[index],
                    widths[index + 1],
                    strides[index],
                    (before[index], dilations[index]),
                    dropouts[level - 6] if level >= 6 else 0.0,
                ),
            )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.frozen = frozen
        self._freeze()
        self.to(memory_format=torch.channels_last)

    def init_weights(self) -> None:
        """Convolutions as of He et al. (2015), or what `init_cfg` says."""
        super().init_weights()
        if self.init_cfg is None:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        """Features `(N, widths[-1], H / 8, W / 8)` (rounded up) of images `(N, 3, H, W)`."""
        features = self.conv1a(inputs.contiguous(memory_format=torch.channels_last))
        for level in range(2, 8):
            features = self.get_submodule(f"level{level}")(features)
        return (self.norm(features).relu(),)

    def train(self, mode: bool = True) -> ResNet38:
        """As usual, except that frozen parts stay frozen."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if not self.frozen:
            return
        self.conv1a.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
                module.requires_grad_(False)


def _level(
    level: int, inputs: int, outputs: int, stride: int, dilations: tuple[int, int], dropout: float
) -> nn.Sequential:
    """The units of a level; the first one has its stride and changes the channels."""
    before, dilation = dilations
    units = []
    for index in range(UNITS[level - 2]):
        first = index == 0
        entry = inputs if first else outputs
        if level >= 6:
            channels = (entry, outputs // 4, outputs // 2, outputs)
            kernels, spread = (1, 3, 1), (1, dilation, 1)
        else:
            middle = outputs // 2 if level == 5 else outputs
            channels = (entry, middle, outputs)
            kernels, spread = (3, 3), (before if first else dilation, dilation)
        # Bottlenecks always project, as model A1 does.
        projects = level >= 6 or entry != outputs or (first and stride != 1)
        units.append(ResidualUnit(channels, kernels, stride if first else 1, spread, dropout, projects))
    return nn.Sequential(*units)
