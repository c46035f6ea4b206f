"""Transforms and an initialiser for the models of config files. Imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.model import PretrainedInit
from mmengine.registry import TRANSFORMS, WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import nn

from bench.errors import EnvironmentFault

LEAST_FOUND = 0.5
"""Share of a part's weights that a checkpoint must have: some backbones have norms of their own beside them."""


@TRANSFORMS.register_module()
class SwapColours(BaseTransform):
    """RGB to BGR, and back: transforms of mm libraries expect BGR images."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Swaps the first and the last channel of `img`."""
        results["img"] = np.ascontiguousarray(results["img"][..., ::-1])
        return results


@TRANSFORMS.register_module()
class ImageToFloat32(BaseTransform):
    """What mm's loading does where a config asks for `to_float32`."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Converts `img`; values stay in [0, 255]."""
        results["img"] = results["img"].astype(np.float32)
        return results


@WEIGHT_INITIALIZERS.register_module(name="Pretrained", force=True)
class MatchingPretrained(PretrainedInit):
    """mmengine's initialiser from a checkpoint, which leaves out whatever does not fit, without that silence.

    A victim that was to start from pretrained weights and did not would stand in the wrong table.
    """

    def __call__(self, module: nn.Module) -> None:
        """Loads the weights.

        Raises:
            EnvironmentFault: They have other shapes, or are of another network.
        """
        content = CheckpointLoader.load_checkpoint(self.checkpoint, map_location="cpu", logger="silent")
        weights = content.get("state_dict", content)
        prefix = f"{self.prefix.removesuffix('.')}." if self.prefix else ""
        shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
        found = {
            name: weights[f"{key}{name}"].shape
            for name in shapes
            for key in (prefix, f"module.{prefix}")
            if f"{key}{name}" in weights
        }
        unlike = [name for name, shape in found.items() if shape != shapes[name]]
        if unlike or len(found) < LEAST_FOUND * len(shapes):
            reason = (
                f"{unlike[0]} has another shape" if unlike else f"{len(found)} of {len(shapes)} weights found"
            )
            raise EnvironmentFault(
                f"the pretrained weights {self.checkpoint} are not of this {type(module).__name__} ({reason}): "
                "name others in the config, or use --init scratch"
            )
        super().__call__(module)
