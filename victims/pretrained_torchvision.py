"""torchvision's ImageNet weights for the ResNets of mmseg and mmdet, as an initialiser. Imports torch."""

from __future__ import annotations

import torch
from mmengine.registry import WEIGHT_INITIALIZERS

from victims.pretrained import renamed, torchvision_resnet


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
