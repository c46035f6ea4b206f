"""mmseg's ResNet without its pooling, and torchvision's ImageNet weights for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
from mmseg.models.backbones import ResNet

from bench.errors import EnvironmentFault

WEIGHTS_URL = "https://download.pytorch.org/models/"
WEIGHTS_FILES = {18: "resnet18-f37072fd.pth", 50: "resnet50-0676ba61.pth", 101: "resnet101-63fe2227.pth"}
"""torchvision's IMAGENET1K_V1 files by depth; the name ends in the start of their sha256."""


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
            EnvironmentFault: They are neither in torch's cache nor reachable, or do not fit.
        """
        state = torch.load(_weights_file(self._depth), map_location="cpu", weights_only=True)
        expected = set(module.state_dict())
        found = {name: tensor for name, tensor in state.items() if name in expected}
        missing = {name for name in expected - set(found) if not name.endswith("num_batches_tracked")}
        if missing:
            raise EnvironmentFault(
                f"{WEIGHTS_FILES[self._depth]} lacks {sorted(missing)[0]} and {len(missing) - 1} more "
                "weights of the backbone: it is not torchvision's file, fetch it again"
            )
        module.load_state_dict(found, strict=False)


def _weights_file(depth: int) -> Path:
    name = WEIGHTS_FILES[depth]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = name.removesuffix(".pth").rsplit("-", 1)[1]
        torch.hub.download_url_to_file(WEIGHTS_URL + name, str(path), hash_prefix=prefix, progress=False)
    except (OSError, URLError, RuntimeError) as error:
        raise EnvironmentFault(
            f"no ImageNet weights for ResNet-{depth} and no way to fetch them ({error}): "
            f"put {WEIGHTS_URL}{name} at {path}, or use --init scratch"
        ) from error
    return path
