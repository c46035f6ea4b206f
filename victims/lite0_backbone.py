"""EfficientNet-Lite0 as a dilated backbone of mmseg's models. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor

from victims.dilated_depthwise import replace_dilated_depthwise
from victims.pretrained_efficientnet import load_lite0
from victims.semantic_encoders import LITE0_TIMM
from victims.smp_model import remove_unused_stages


@MODELS.register_module()
class Lite0Backbone(BaseModule):
    """The first stages of EfficientNet-Lite0 (112 channels at most), in channels-last memory order.

    Args:
        depth: Stages, each of half the resolution of the one before.
        output_stride: Pixels per cell of the last features. Where it is less than `2**depth` later stages are dilated.
        pretrained: Whether `init_weights` loads ImageNet weights.
    """

    def __init__(self, depth: int, output_stride: int, pretrained: bool) -> None:
        super().__init__()
        self.encoder = get_encoder(LITE0_TIMM, depth=depth, weights=None, output_stride=output_stride)
        remove_unused_stages(self.encoder)
        replace_dilated_depthwise(self.encoder)
        self.to(memory_format=torch.channels_last)
        self._pretrained = pretrained

    def init_weights(self) -> None:
        """Loads ImageNet weights where they are asked for; else the start is timm's own.

        Raises:
            EnvironmentFault: The package that carries them is not installed.
            ArtifactCorrupt: They do not fit.
        """
        super().init_weights()
        if self._pretrained:
            load_lite0(self.encoder)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Features of the stages, fine to coarse, of images `(N, 3, H, W)`."""
        features: list[Any] = self.encoder(inputs.contiguous(memory_format=torch.channels_last))
        return tuple(features[1:])
