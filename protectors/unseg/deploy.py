"""The trained generator on one image: padding, scaling, the union mask as prompt, and back.

Importing this module imports torch.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import ArtifactCorrupt
from bench.training.checkpoint import load_weights
from protectors.unseg.generator import NoiseSam
from protectors.unseg.options import UnSegOptions
from protectors.unseg.prompts import MASK_ON, Prompts, resize
from protectors.unseg.training import OPTIONS, WEIGHTS


def load_generator(state_dir: Path, device: str) -> NoiseSam:
    """Reads what `training.fit` wrote.

    Raises:
        ArtifactCorrupt: A file is missing or does not hold a generator.
    """
    try:
        options = UnSegOptions(**json.loads((state_dir / OPTIONS).read_text()))
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(
            f"unseg: no readable {OPTIONS} in {state_dir}; delete it and fit again"
        ) from error
    with torch.random.fork_rng(devices=[]):
        generator = NoiseSam(options.generator, options.token_readout)
    load_weights(state_dir / WEIGHTS, generator)
    return generator.to(device).eval().requires_grad_(False)


@torch.no_grad()
def deployed_noise(generator: NoiseSam, image: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Noise for one image, prompted by its union mask.

    The image is padded below and right to a square, as the generator was trained, then scaled; the noise
    goes the way back.

    Args:
        generator: A trained generator.
        image: `(H, W, 3)` uint8 RGB.
        foreground: `(H, W)` bool.

    Returns:
        `(H, W, 3)` float32 in [-1, 1]; zero everywhere if the mask is empty.
    """
    height, width = foreground.shape
    if not foreground.any():
        return np.zeros((height, width, 3), np.float32)
    device = next(generator.parameters()).device
    side, geometry = max(height, width), generator.geometry
    padding = ((0, side - height), (0, side - width))
    square = (
        torch.from_numpy(np.pad(image, (*padding, (0, 0)))).permute(2, 0, 1)[None].to(device).float() / 255
    )
    mask = torch.from_numpy(np.pad(foreground, padding).astype(np.float32))[None, None].to(device)
    mask = F.interpolate(mask, size=(geometry.image_size, geometry.image_size), mode="nearest")
    prompt = MASK_ON * resize(mask, geometry.output_size).round()
    noise = generator(_bilinear(square, geometry.image_size), Prompts(masks=prompt))
    return _bilinear(noise, side)[0, :, :height, :width].permute(1, 2, 0).cpu().numpy()


def _bilinear(image: Tensor, side: int) -> Tensor:
    if image.shape[-2:] == (side, side):
        return image
    return F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)
