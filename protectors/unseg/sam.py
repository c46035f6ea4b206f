"""What generator and surrogate share: segment-anything's modules, built from a `Geometry`.

Importing this module imports torch.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from segment_anything.modeling.image_encoder import ImageEncoderViT
from segment_anything.modeling.prompt_encoder import PromptEncoder
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor, nn

from protectors.unseg.attention import use_fast_attention
from protectors.unseg.options import Geometry
from protectors.unseg.prompts import Prompts

if TYPE_CHECKING:
    from protectors.unseg.tiny_vit import TinyImageEncoder

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def image_encoder(geometry: Geometry) -> ImageEncoderViT | TinyImageEncoder:
    """The vision transformer with its neck: `(B, 3, S, S)` to `(B, decoder_dim, S / patch, S / patch)`."""
    if geometry.encoder == "tiny_vit":
        from protectors.unseg.tiny_vit import TinyImageEncoder  # imports timm

        return TinyImageEncoder(geometry.decoder_dim)
    encoder = ImageEncoderViT(
        img_size=geometry.image_size,
        patch_size=geometry.patch_size,
        embed_dim=geometry.embed_dim,
        depth=geometry.depth,
        num_heads=geometry.num_heads,
        out_chans=geometry.decoder_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=geometry.relative_positions,
        window_size=geometry.window_size,
        global_attn_indexes=geometry.global_blocks,
    )
    if geometry.relative_positions:
        use_fast_attention(encoder)
    return encoder


def prompt_encoder(geometry: Geometry) -> PromptEncoder:
    """SAM's prompt encoder; its mask prompt has `geometry.output_size` pixels a side."""
    return PromptEncoder(
        embed_dim=geometry.decoder_dim,
        image_embedding_size=(geometry.tokens, geometry.tokens),
        input_image_size=(geometry.image_size, geometry.image_size),
        mask_in_chans=geometry.mask_channels,
    )


def two_way_transformer(geometry: Geometry) -> TwoWayTransformer:
    """The transformer of SAM's mask decoder."""
    return TwoWayTransformer(
        depth=geometry.decoder_depth,
        embedding_dim=geometry.decoder_dim,
        num_heads=geometry.decoder_heads,
        mlp_dim=geometry.decoder_mlp_dim,
    )


def encode_prompts(encoder: PromptEncoder, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Encodes one object per image.

    Returns:
        Sparse `(B, N, C)` and dense `(B, C, tokens, tokens)` embeddings; `B` is 1 without any prompt.
    """
    points = None
    if prompts.points is not None:
        labels = torch.ones(prompts.points.shape[:2], device=prompts.points.device)
        points = (prompts.points, labels)
    with full_precision(encoder):
        return encoder(points=points, boxes=prompts.boxes, masks=prompts.masks)


def encode_grid(encoder: PromptEncoder) -> Tensor:
    """The positional encoding of the image embedding's cells, `(1, C, tokens, tokens)`."""
    with full_precision(encoder):
        return encoder.get_dense_pe()


def full_precision(module: nn.Module) -> torch.autocast:
    """Ends autocast: in bfloat16 a coordinate is off by up to a thousandth of the frame."""
    return torch.autocast(next(module.parameters()).device.type, enabled=False)


class Normalize(nn.Module):
    """Maps RGB in [0, 1] to ImageNet's zero mean and unit deviation."""

    def __init__(self) -> None:
        super().__init__()
        # Not persistent: the authors' state dict holds no such buffers.
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalises `(B, 3, H, W)`."""
        return (image - self.mean) / self.std
