"""SAM's modules as victims use them: many prompts per image, features of any block, weights. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import pairwise
from typing import Any

import torch
from segment_anything.modeling.image_encoder import ImageEncoderViT
from segment_anything.modeling.mask_decoder import MaskDecoder
from segment_anything.modeling.prompt_encoder import PromptEncoder
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import UsageError
from protectors.unseg import checkpoints
from protectors.unseg.options import Geometry
from protectors.unseg.pretrained import Comparison, compare, read_state_dict
from protectors.unseg.sam import image_encoder, prompt_encoder, two_way_transformer

FROZEN_IMAGES = 4
"""Images that a frozen encoder looks at together."""


class ConvolutionalStem(nn.Module):
    """Convolutions in place of the patch embedding, as Xiao et al. (arXiv 2106.14881) propose.

    Each stage halves the sides and ends with two residual blocks: an object of a few patches is told by its
    outline, which a transformer from random weights does not find within its patches.

    Args:
        patch_size: Side of a token in pixels, a power of two.
        channels: Of the tokens.
    """

    def __init__(self, patch_size: int, channels: int) -> None:
        super().__init__()
        steps = round(math.log2(patch_size))
        if 2**steps != patch_size or not steps:
            raise UsageError(f"a convolutional stem needs a patch_size of 2, 4, 8, ... and not {patch_size}")
        widths = [3, *(max(channels // 2 ** (steps - step), 32) for step in range(1, steps + 1))]
        layers: list[nn.Module] = []
        for source, target in pairwise(widths):
            layers += [*_convolution(source, target, 2), ResidualBlock(target), ResidualBlock(target)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], channels, 1))

    def forward(self, images: Tensor) -> Tensor:
        """`(B, 3, S, S)` to tokens `(B, S / patch_size, S / patch_size, channels)`."""
        return self.layers(images).permute(0, 2, 3, 1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity.

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_convolution(channels, channels), *_convolution(channels, channels)[:2])

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, channels, h, w)` to the same shape."""
        return functional.relu(maps + self.layers(maps))


def _convolution(source: int, target: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(source, target, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(target),
        nn.ReLU(inplace=True),
    ]


def build_encoder(geometry: Geometry, stem: str, frozen: bool) -> ImageEncoderViT:
    """SAM's image encoder.

    Args:
        geometry: Its shape.
        stem: `patch` or `convolutional`.
        frozen: Whether its parameters take no gradient.
    """
    encoder = image_encoder(geometry)
    if stem == "convolutional":
        encoder.patch_embed = ConvolutionalStem(geometry.patch_size, geometry.embed_dim)
        nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    return encoder.requires_grad_(not frozen)


def encode(encoder: ImageEncoderViT, images: Tensor, wanted: Collection[int]) -> tuple[list[Tensor], Tensor]:
    """The image embedding and hidden states. A frozen encoder leaves no graph.

    Args:
        encoder: From `build_encoder`.
        images: `(B, 3, S, S)`, normalised.
        wanted: Which hidden states: 0 is what enters the first block, k what leaves the k-th.

    Returns:
        The hidden states in ascending order, each `(B, embed_dim, T, T)`, and the embedding
        `(B, decoder_dim, T, T)`.
    """
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        return _encode(encoder, images, wanted)
    with torch.no_grad():
        # What a block needs for one image is freed before the next ones: at 1024 pixels that is a gigabyte.
        parts = [_encode(encoder, part, wanted) for part in images.split(FROZEN_IMAGES)]
    states = [torch.cat(state) for state in zip(*(states for states, _ in parts), strict=True)]
    return states, torch.cat([embedding for _, embedding in parts])


def _encode(encoder: ImageEncoderViT, images: Tensor, wanted: Collection[int]) -> tuple[list[Tensor], Tensor]:
    kept = []
    tokens = encoder.patch_embed(images) + encoder.pos_embed
    for number, block in enumerate([nn.Identity(), *encoder.blocks]):
        tokens = block(tokens)
        if number in wanted:
            kept.append(tokens.permute(0, 3, 1, 2))
    return kept, encoder.neck(tokens.permute(0, 3, 1, 2))


def first_global_state(encoder: ImageEncoderViT) -> int:
    """Number of the hidden state that leaves the first block with global attention."""
    return next(k for k, block in enumerate(encoder.blocks, start=1) if block.window_size == 0)


def build_prompt_encoder(geometry: Geometry, frozen: bool) -> PromptEncoder:
    """SAM's prompt encoder."""
    return prompt_encoder(geometry).requires_grad_(not frozen)


def build_decoder(geometry: Geometry, frozen: bool) -> MaskDecoder:
    """SAM's mask decoder. What only its other outputs need, the three masks and the IoUs, takes no gradient."""
    decoder = MaskDecoder(
        transformer_dim=geometry.decoder_dim,
        transformer=two_way_transformer(geometry),
        iou_head_hidden_dim=geometry.decoder_dim,
    ).requires_grad_(not frozen)
    decoder.iou_prediction_head.requires_grad_(False)
    decoder.output_hypernetworks_mlps[1:].requires_grad_(False)
    return decoder


def attend(
    decoder: MaskDecoder, own: Tensor, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs the transformer of a mask decoder for `N` prompted objects, of one image or of many.

    Args:
        decoder: SAM's.
        own: `(K, C)` output tokens, the IoU token first.
        embedding: `(N, C, T, T)` image embedding of each object's image.
        position: `(1, C, T, T)` positional encoding of the grid.
        sparse: `(N, P, C)` prompt tokens.
        dense: `(N, C, T, T)`, or with 1 in place of N.

    Returns:
        The output tokens `(N, K + P, C)`, and the features `(N, C / 8, 4 T, 4 T)` that masks are read from.
    """
    count, channels, height, width = embedding.shape
    tokens = torch.cat([own.expand(count, -1, -1), sparse], dim=1)
    outputs, source = decoder.transformer(embedding + dense, position.expand(count, -1, -1, -1), tokens)
    source = source.transpose(1, 2).reshape(count, channels, height, width)
    return outputs, decoder.output_upscaling(source)


def decode_masks(
    decoder: MaskDecoder, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor
) -> Tensor:
    """The single mask of each of `N` prompted objects, `(N, 4 T, 4 T)` logits; arguments as for `attend`."""
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    outputs, features = attend(decoder, own, embedding, position, sparse, dense)
    weights = decoder.output_hypernetworks_mlps[0](outputs[:, 1])
    return torch.einsum("nc,nchw->nhw", weights, features)


def load_sam(parts: dict[str, nn.Module], reference: str, own: Collection[str] = ()) -> None:
    """Puts the weights of a file into parts of a victim.

    Args:
        parts: Modules by the name that SAM's checkpoints have for them (`image_encoder`, `prompt_encoder`,
            `mask_decoder`).
        reference: `sha256:` of the file.
        own: Beginnings of the names, part included, of tensors that only the victim has. They are loaded if
            the file has all of them, and stay as they are if it has none.

    Raises:
        EnvironmentFault: The file is neither in the cache nor reachable; the message names its URL, its sha256
            and the place to put it.
        UsageError: The file is no checkpoint of this shape.
    """
    known = checkpoints.known(reference)
    label = known.name if known else reference
    state = read_state_dict(checkpoints.obtain(reference))
    state = {name: tensor for name, tensor in state.items() if name.partition(".")[0] in parts}
    wanted = {
        f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()
    }
    added = {name for name in wanted if name.startswith(tuple(own))}
    if not added & state.keys():
        wanted = {name: tensor for name, tensor in wanted.items() if name not in added}
    comparison: Comparison = compare(state, wanted)
    if not comparison.fits:
        raise UsageError(f"the weights {label} do not fit the victim's SAM: {comparison}")
    for part, module in parts.items():
        prefix = f"{part}."
        values = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        module.load_state_dict(values, strict=False)


def geometry_of(config: dict[str, Any]) -> Geometry:
    """A geometry from a model's config, where it stands as plain values."""
    return Geometry(**{key: tuple(v) if isinstance(v, list) else v for key, v in dict(config).items()})
