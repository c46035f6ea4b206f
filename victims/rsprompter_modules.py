"""What both RSPrompters share: SAM's encoder as a backbone, the aggregator, the splitter, prompts. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from protectors.unseg.options import Geometry
from protectors.unseg.sam import encode_grid
from victims import sam_modules

MASK_CELLS = 2**22
"""Cells of the masks that are decoded together. The intermediate results of SAM's decoder are about 100 MB for a
mask of 256 x 256 cells; where there are more masks than 64 of those, they are computed again for the gradient."""


@MODELS.register_module()
class SamBackbone(BaseModule):
    """SAM's image encoder with the hidden states that the aggregator takes.

    Args:
        geometry: Fields of `Geometry`.
        stem: See `SamOptions`.
        frozen: Whether the encoder keeps its starting weights.
        layers: Numbers of the hidden states: 0 is what enters the first block, k what leaves the k-th.
    """

    def __init__(self, geometry: dict[str, Any], stem: str, frozen: bool, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.image_encoder = sam_modules.build_encoder(sam_modules.geometry_of(geometry), stem, frozen)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Hidden states `(B, embed_dim, T, T)` and the image embedding `(B, C, T, T)` of `(B, 3, S, S)`."""
        return sam_modules.encode(self.image_encoder, images, self.layers)


class Aggregator(nn.Module):
    """Merges hidden states into one map.

    Each state is reduced to a few channels, f_i. With g_i a 3x3 convolution, m_i = h_i + g_i(h_i) where
    h_1 = f_1 and h_i = m_{i-1} + f_i; the last m is fused to the output's channels.

    Args:
        states: Number of hidden states.
        embed_dim: Their channels.
        hidden: Channels they are reduced to.
        channels: Of the output.
    """

    def __init__(self, states: int, embed_dim: int, hidden: int, channels: int) -> None:
        super().__init__()
        self.reductions = nn.ModuleList(
            nn.Sequential(*_convolution(embed_dim, hidden, 1), *_convolution(hidden, hidden, 3))
            for _ in range(states)
        )
        self.refinements = nn.ModuleList(
            nn.Sequential(*_convolution(hidden, hidden, 3)) for _ in range(states)
        )
        self.fusion = nn.Sequential(
            *_convolution(hidden, channels, 1),
            *_convolution(channels, channels, 3),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """`(B, embed_dim, T, T)` each to `(B, channels, T, T)`."""
        merged: Tensor | float = 0.0
        for state, reduce, refine in zip(states, self.reductions, self.refinements, strict=True):
            joined = merged + reduce(state)
            merged = joined + refine(joined)
        return self.fusion(merged)


class Splitter(nn.Module):
    """A simple feature pyramid from one map (Li et al., arXiv 2203.16527): 4, 2, 1, 1/2 and 1/4 times its side.

    Args:
        channels: Of the map and of all levels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(channels, channels // 2, 2, stride=2),
                    LayerNorm2d(channels // 2),
                    nn.GELU(),
                    nn.ConvTranspose2d(channels // 2, channels // 4, 2, stride=2),
                ),
                nn.ConvTranspose2d(channels, channels // 2, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self.projections = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, channels, 1, bias=False),
                LayerNorm2d(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm2d(channels),
            )
            for width in (channels // 4, channels // 2, channels, channels)
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """`(B, channels, T, T)` to five levels, the finest `(B, channels, 4 T, 4 T)` first."""
        levels = [
            project(scale(features)) for scale, project in zip(self.scales, self.projections, strict=True)
        ]
        return [*levels, levels[-1][:, :, ::2, ::2]]


@MODELS.register_module()
class PrompterNeck(BaseModule):
    """Aggregator and splitter.

    Args:
        states: Number of hidden states.
        embed_dim: Their channels.
        hidden: Channels of the aggregator.
        channels: Of the levels.
    """

    def __init__(self, states: int, embed_dim: int, hidden: int, channels: int) -> None:
        super().__init__()
        self.aggregator = Aggregator(states, embed_dim, hidden, channels)
        self.splitter = Splitter(channels)

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Hidden states `(B, embed_dim, T, T)` to five levels, finest first."""
        return self.splitter(self.aggregator(states))


class Prompter:
    """What both detectors share, as a mixin before one of mmdet's: SAM's weights, and a dense loss.

    From random weights a detector finds the classes of its regions only after its features tell classes apart, for
    which region losses at a few hundred places are slow teachers. A compact network therefore has a per-pixel
    cross-entropy on the finest level beside them. The published one starts from SAM, and has none.

    Args:
        pretrained: `sha256:` of SAM's weights, or None.
        dense_weight: Weight of the dense loss; 0 leaves it out.
        classes: Number of thing categories.
        channels: Of the levels.
        **kwargs: As for mmdet's detector.
    """

    def __init__(
        self, *, pretrained: str | None, dense_weight: float, classes: int, channels: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._pretrained = pretrained
        self.dense_weight = dense_weight
        self.classes = classes
        if dense_weight:
            self.dense_logits = nn.Conv2d(channels, classes + 1, 1)
        self._finest: Tensor | None = None

    @property
    def prompting_head(self) -> Any:
        """The head that prompts SAM's decoder; it has `embedding`, which it is handed before it is called."""
        raise NotImplementedError

    @property
    def sam_decoder(self) -> SamDecoder:
        """SAM's mask decoder."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Starts the heads as mmdet does, and SAM from its weights where they are asked for."""
        super().init_weights()
        if self._pretrained is not None:
            parts = {
                "image_encoder": self.backbone.image_encoder,
                "prompt_encoder": self.sam_decoder.prompt_encoder,
                "mask_decoder": self.sam_decoder.mask_decoder,
            }
            sam_modules.load_sam(parts, self._pretrained)

    def extract_feat(self, batch_inputs: Tensor) -> list[Tensor]:
        """The levels of the pyramid, finest first, of `(B, 3, S, S)`."""
        states, embedding = self.backbone(batch_inputs)
        # mmdet's detectors hand their heads the pyramid alone, and keep nothing of it for other losses.
        self.prompting_head.embedding = embedding
        levels = self.neck(states)
        self._finest = levels[0]
        return levels

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[Any]) -> dict[str, Any]:
        """The detector's losses, and `loss_dense` where it has a weight."""
        # The head of queries takes the masks of the samples away.
        masks = [sample.gt_instances.masks for sample in batch_data_samples] if self.dense_weight else []
        losses = super().loss(batch_inputs, batch_data_samples)
        if self.dense_weight:
            logits = _bilinear(self.dense_logits(self._finest), batch_inputs.shape[-2:])
            target = torch.full_like(logits[:, 0], self.classes, dtype=torch.long)
            for image, (instances, sample) in enumerate(zip(masks, batch_data_samples, strict=True)):
                for mask, label in zip(instances.masks, sample.gt_instances.labels, strict=True):
                    target[image][torch.from_numpy(mask).to(target.device) > 0] = label
            losses["loss_dense"] = self.dense_weight * functional.cross_entropy(logits, target)
        return losses


class SamDecoder(nn.Module):
    """SAM's mask decoder for prompts that a network makes, with what it needs of SAM's prompt encoder.

    Args:
        geometry: Shape of SAM.
        frozen: Whether all of it keeps its starting weights.
        mask_prompts: Whether dense prompts are made from masks; otherwise from SAM's embedding of "no mask".
    """

    def __init__(self, geometry: Geometry, frozen: bool, mask_prompts: bool) -> None:
        super().__init__()
        self.prompt_encoder = sam_modules.build_prompt_encoder(geometry, frozen)
        self.mask_decoder = sam_modules.build_decoder(geometry, frozen)
        unused = [self.prompt_encoder.point_embeddings, self.prompt_encoder.not_a_point_embed]
        unused.append(
            self.prompt_encoder.no_mask_embed if mask_prompts else self.prompt_encoder.mask_downscaling
        )
        for module in unused:
            module.requires_grad_(False)

    def forward(self, embedding: Tensor, sparse: Tensor, masks: Tensor | None = None) -> Tensor:
        """The mask of each of `N` prompted objects, `(N, 4 T, 4 T)` logits.

        Args:
            embedding: `(N, C, T, T)` image embedding of each object's image.
            sparse: `(N, K, C)` prompt tokens.
            masks: `(N, 1, 4 T, 4 T)` logits of a coarse mask, or None.
        """
        cells = (4 * embedding.shape[-1]) ** 2
        part = max(1, MASK_CELLS // cells)
        if len(sparse) <= part:
            return self._decode(embedding, sparse, masks)
        starts = range(0, len(sparse), part)
        rows = [slice(start, start + part) for start in starts]
        arguments = [(embedding[r], sparse[r], None if masks is None else masks[r]) for r in rows]
        return torch.cat([checkpoint(self._decode, *each, use_reentrant=False) for each in arguments])

    def _decode(self, embedding: Tensor, sparse: Tensor, masks: Tensor | None) -> Tensor:
        if masks is None:
            dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        else:
            dense = self.prompt_encoder.mask_downscaling(masks)
        position = encode_grid(self.prompt_encoder)
        return sam_modules.decode_masks(self.mask_decoder, embedding, position, sparse, dense)


def prompt_tokens(values: Tensor, count: int) -> Tensor:
    """Prompt tokens like those of SAM's points, which are sums of sines: sin of the even entries plus the odd ones.

    Args:
        values: `(N, 2 * count * C)`.
        count: Tokens per object.

    Returns:
        `(N, count, C)`.
    """
    pairs = values.reshape(len(values), count, -1, 2)
    return torch.sin(pairs[..., 0]) + pairs[..., 1]


def resize_masks(logits: Tensor, meta: dict[str, Any]) -> Tensor:
    """Masks at the size of the original image.

    Args:
        logits: `(N, h, w)` over the network's padded square.
        meta: Of the image: `batch_input_shape`, `img_shape` without the padding, `ori_shape`.

    Returns:
        `(N, H, W)` bool.
    """
    found = torch.zeros((len(logits), *meta["ori_shape"]), dtype=torch.bool, device=logits.device)
    height, width = meta["img_shape"][:2]
    # One at a time: at 1024 pixels a hundred of them as floats are 400 MB.
    for index, mask in enumerate(logits):
        square = _bilinear(mask[None, None].float(), meta["batch_input_shape"])
        found[index] = _bilinear(square[:, :, :height, :width], meta["ori_shape"])[0, 0] > 0
    return found


def _bilinear(maps: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _convolution(source: int, target: int, kernel: int) -> list[nn.Module]:
    return [
        nn.Conv2d(source, target, kernel, padding=kernel // 2),
        nn.BatchNorm2d(target),
        nn.ReLU(inplace=True),
    ]
