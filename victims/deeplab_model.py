"""mmseg's ResNet without its pooling. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS
from mmseg.models.backbones import ResNet

from victims.strided_pointwise import replace_strided_pointwise


@MODELS.register_module()
class DilatedResNet(ResNet):
    """mmseg's ResNet in channels-last memory order, optionally without the pooling after its stem.

    Without the pooling all features are twice as fine, which small images need: at stride 8 an object of 20
    pixels has two cells.

    Args:
        max_pool: Whether the stem ends in its 3x3 pooling of stride 2.
        **kwargs: As for `ResNet`.
    """

    def __init__(self, max_pool: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not max_pool:
            self.maxpool = torch.nn.Identity()
        self.to(memory_format=torch.channels_last)
        replace_strided_pointwise(self)
