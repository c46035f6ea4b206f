"""ScratchSam: the surrogate of UnSeg, and how noise is put on the images that it sees.

Importing this module imports torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from protectors.unseg.options import Geometry
from protectors.unseg.prompts import Prompts
from protectors.unseg.sam import (
    Normalize,
    encode_grid,
    encode_prompts,
    image_encoder,
    prompt_encoder,
    two_way_transformer,
)

MASK_TOKENS = 3
"""The authors' surrogate has three mask tokens and uses the first; there is no IoU token."""


class ScratchSam(nn.Module):
    """An interactive segmentation network in which every parameter is trained."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.normalize = Normalize()
        self.image_encoder = image_encoder(geometry)
        self.prompt_encoder = prompt_encoder(geometry)
        self.mask_decoder = PlainDecoder(geometry)

    def forward(self, image: Tensor, prompts: Prompts) -> Tensor:
        """Segments one object per image, the prompted one; without prompts what it was trained to find.

        Args:
            image: `(B, 3, S, S)` float in [0, 1], S = `geometry.image_size`.
            prompts: Prompts of `B` objects in the coordinates of that square, or none at all.

        Returns:
            `(B, 1, N, N)` logits, N = `geometry.output_size`.
        """
        embedding = self.image_encoder(self.normalize(image))
        sparse, dense = encode_prompts(self.prompt_encoder, prompts)
        return self.mask_decoder(embedding, encode_grid(self.prompt_encoder), sparse, dense)


class PlainDecoder(nn.Module):
    """SAM's mask decoder without the token and head that predict an IoU."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        dim = geometry.decoder_dim
        self.transformer = two_way_transformer(geometry)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(dim, dim, dim // 8, 3) for _ in range(MASK_TOKENS))

    def forward(self, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Logits `(B, 1, 4 T, 4 T)` of the first mask token."""
        batch, dim, height, width = embedding.shape
        own = self.mask_tokens.weight
        tokens = torch.cat([own.expand(batch, -1, -1), sparse.expand(batch, -1, -1)], dim=1)
        outputs, source = self.transformer(embedding + dense, position.expand(batch, -1, -1, -1), tokens)
        upscaled = self.output_upscaling(source.transpose(1, 2).reshape(batch, dim, height, width))
        weights = self.output_hypernetworks_mlps[0](outputs[:, 0])
        return torch.einsum("bc,bchw->bhw", weights, upscaled)[:, None]


def apply_noise(
    image: Tensor, noise: Tensor, mask: Tensor, epsilon: float, epsilon_background: float
) -> Tensor:
    """Noised images as training sees them: not rounded to 8 bits, so that gradients pass.

    Args:
        image: `(B, 3, S, S)` in [0, 1].
        noise: `(B, 3, N, N)` in [-1, 1]; resized bilinearly.
        mask: `(B, 1, S, S)` of 0 and 1.
        epsilon: Budget inside the mask, in levels of 255.
        epsilon_background: Budget outside.

    Returns:
        `(B, 3, S, S)` in [0, 1].
    """
    if noise.shape[-2:] != image.shape[-2:]:
        noise = F.interpolate(noise, size=image.shape[-2:], mode="bilinear", align_corners=False)
    budget = (mask * epsilon + (1 - mask) * epsilon_background) / 255
    return (image + noise * budget).clamp(0, 1)
