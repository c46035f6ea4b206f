"""mmseg's ResNet without its pooling, and torchvision's ImageNet weights for it."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
from mmseg.models.backbones import ResNet

from victims.pretrained import renamed, torchvision_resnet
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


@WEIGHT_INITIALIZERS.register_module()
class TorchvisionResNet:
    """Initialises a ResNet by torchvision's ImageNet weights.

    Args:
        depth: 18, 50 or 101.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth

    def __call__(self, module: torch.nn.Module) -> None:
        """Loads the weights; the classifier is left out.

        Raises:
            EnvironmentFault: They are neither in torch's cache nor reachable.
            ArtifactCorrupt: They are damaged, or do not fit.
        """
        state = renamed(
            torchvision_resnet(self._depth),
            lambda name: None if name.startswith("fc.") else name,
            module.state_dict(),
            f"torchvision's weights of ResNet-{self._depth}",
        )
        module.load_state_dict(state, strict=False)
