"""NoiseSam: the generator of UnSeg (arXiv 2410.09909, section 3.2).

SAM with three more tokens in its decoder. Each of them is read out as one colour channel of the noise, from
a sum of three feature maps: the decoder's own, the final embedding, and that of the first global block.
Importing this module imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import ImageEncoderViT
from segment_anything.modeling.mask_decoder import MLP, MaskDecoder
from torch import Tensor, nn

from protectors.unseg.options import Geometry, TokenReadout
from protectors.unseg.prompts import Prompts
from protectors.unseg.sam import (
    Normalize,
    encode_grid,
    encode_prompts,
    full_precision,
    image_encoder,
    prompt_encoder,
    two_way_transformer,
)

if TYPE_CHECKING:
    from protectors.unseg.tiny_vit import TinyImageEncoder

CHANNELS = 3
"""Noise tokens: one for red, green and blue."""


class NoiseSam(nn.Module):
    """The generator. Parameter names are those of the authors' checkpoints.

    Args:
        geometry: Shape of the network.
        token_readout: Which outputs of the transformer become noise; see `UnSegOptions`.

    Attributes:
        segments: Whether SAM's own mask decoder in here is a trained one, whose masks mean something. Set by
            who loads the weights.
    """

    segments: bool = False

    def __init__(self, geometry: Geometry, token_readout: TokenReadout = "intended") -> None:
        super().__init__()
        self.geometry = geometry
        self.normalize = Normalize()
        self.image_encoder = image_encoder(geometry)
        self.prompt_encoder = prompt_encoder(geometry)
        self.mask_decoder = NoiseDecoder(geometry, token_readout)

    def forward(self, image: Tensor, prompts: Prompts) -> Tensor:
        """Noise for a batch of images, one prompted object each.

        Args:
            image: `(B, 3, S, S)` float in [0, 1], S = `geometry.image_size`.
            prompts: Prompts of `B` objects in the coordinates of that square.

        Returns:
            `(B, 3, N, N)` float in (-1, 1), N = `geometry.output_size`, in units of the budget.
        """
        learns = any(parameter.requires_grad for parameter in self.image_encoder.parameters())
        # A frozen encoder leaves no graph in either case, but without gradients faster forms may be taken.
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            early, embedding = encode_image(self.image_encoder, self.normalize(image))
        sparse, dense = encode_prompts(self.prompt_encoder, prompts)
        position = encode_grid(self.prompt_encoder)
        return self.mask_decoder.noise(early, embedding, position, sparse, dense)


def encode_image(encoder: ImageEncoderViT | TinyImageEncoder, image: Tensor) -> tuple[Tensor, Tensor]:
    """The encoder's final embedding together with the output of its first global block.

    Args:
        encoder: SAM's encoder with at least one block of global attention, or MobileSAM's.
        image: `(B, 3, S, S)`, normalised.

    Returns:
        `(B, early_dim, T, T)` early features and the `(B, decoder_dim, T, T)` embedding.
    """
    if not isinstance(encoder, ImageEncoderViT):
        return encoder.encode(image)
    tokens = encoder.patch_embed(image) + encoder.pos_embed
    early = None
    for block in encoder.blocks:
        tokens = block(tokens)
        if early is None and block.window_size == 0:
            early = tokens.permute(0, 3, 1, 2)
    return early, encoder.neck(tokens.permute(0, 3, 1, 2))


class NoiseDecoder(MaskDecoder):
    """SAM's mask decoder with the parts named `noise_*`, which are all that UnSeg trains."""

    def __init__(self, geometry: Geometry, token_readout: TokenReadout) -> None:
        dim, early_dim = geometry.decoder_dim, geometry.early_dim
        super().__init__(
            transformer_dim=dim,
            transformer=two_way_transformer(geometry),
            iou_head_hidden_dim=dim,
        )
        self.token_readout = token_readout
        self.noise_token = nn.Embedding(CHANNELS, dim)
        self.noise_mlp = nn.ModuleList(MLP(dim, dim, dim // 8, 3) for _ in range(CHANNELS))
        self.noise_compress_vit_feat = _upscaler(early_dim, early_dim, dim, dim // 8)
        self.noise_embedding_encoder = _upscaler(dim, dim, dim // 4, dim // 8)
        self.noise_embedding_maskfeature = nn.Sequential(
            nn.Conv2d(dim // 8, dim // 4, 3, padding=1),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.Conv2d(dim // 4, dim // 8, 3, padding=1),
        )
        nn.init.xavier_uniform_(self.noise_token.weight)
        for part in (
            self.noise_compress_vit_feat,
            self.noise_embedding_encoder,
            self.noise_embedding_maskfeature,
        ):
            for layer in part:
                if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                    nn.init.xavier_uniform_(layer.weight)

    @property
    def first_read_token(self) -> int:
        """Index of the transformer's output that becomes the red channel.

        Outputs are the IoU token, the mask tokens, then the noise tokens. The authors' code starts at the
        number of mask tokens and forgets the IoU token, so it reads the last mask token and the first two
        noise tokens; its checkpoints are trained that way.
        """
        return self.num_mask_tokens + (0 if self.token_readout == "official" else 1)

    def noise(
        self, early: Tensor, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor
    ) -> Tensor:
        """Decodes noise for a batch of images, one object each.

        Args:
            early: `(B, early_dim, T, T)` features of the first global block; 1 in place of B where all
                objects are of one image.
            embedding: `(B, decoder_dim, T, T)` image embedding, or 1 as well.
            position: `(1, decoder_dim, T, T)` positional encoding.
            sparse: `(B, N, decoder_dim)` embedded points and boxes.
            dense: `(B, decoder_dim, T, T)` embedded mask prompt.

        Returns:
            `(B, 3, 4 T, 4 T)` in (-1, 1).
        """
        _, dim, height, width = embedding.shape
        batch = len(sparse)
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.noise_token.weight])
        tokens = torch.cat([own.expand(batch, -1, -1), sparse], dim=1)
        outputs, source = self.transformer(embedding + dense, position.expand(batch, -1, -1, -1), tokens)
        source = source.transpose(1, 2).reshape(batch, dim, height, width)
        features = (
            self.noise_embedding_maskfeature(self.output_upscaling(source))
            + self.noise_embedding_encoder(embedding)
            + self.noise_compress_vit_feat(early)
        )
        start = self.first_read_token
        weights = torch.stack([mlp(outputs[:, start + i]) for i, mlp in enumerate(self.noise_mlp)], dim=1)
        precision = self.noise_token.weight.dtype
        with full_precision(self):
            # In bfloat16 tanh would reach 1 early, and where it does no gradient passes.
            return torch.tanh(torch.einsum("bkc,bchw->bkhw", weights.to(precision), features.to(precision)))


def _upscaler(source: int, hidden: int, middle: int, target: int) -> nn.Sequential:
    """A 3x3 convolution and two transposed ones that quadruple the side."""
    return nn.Sequential(
        nn.Conv2d(source, hidden, 3, padding=1),
        LayerNorm2d(hidden),
        nn.GELU(),
        nn.ConvTranspose2d(hidden, middle, 2, stride=2),
        LayerNorm2d(middle),
        nn.GELU(),
        nn.ConvTranspose2d(middle, target, 2, stride=2),
    )
