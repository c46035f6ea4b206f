"""The parts of the compact DINO, registered with mmdet. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from mmdet.models.detectors import DINO
from mmdet.models.layers.transformer import MLP
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional

from victims.mask2former_modules import double_convolution

ENCODED_REFERENCE = 4 * 128
"""Numbers by which mmdet encodes a reference box, whatever the width of the network."""

UNSURE = 255
"""Label of cells that do not count."""

CORE_MARGIN = 0.15
"""Share of a box's sides that is cut off on each side of its core."""

GROUPS = 8
"""Groups of the group norm after the projections."""


@MODELS.register_module()
class CompactDINO(DINO):
    """mmdet's DINO for widths other than 256, with a second, dense loss on its finest features.

    Args:
        dense_weight: Weight of the dense loss.
        **kwargs: As for `DINO`.
    """

    def __init__(self, *, dense_weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense_weight = dense_weight
        self.dense_logits = nn.Conv2d(self.embed_dims, self.bbox_head.num_classes + 1, 1)

    def _init_layers(self) -> None:
        super()._init_layers()
        self.decoder.ref_point_head = MLP(ENCODED_REFERENCE, self.embed_dims, self.embed_dims, 2)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[Any]) -> dict[str, Tensor]:
        """DINO's losses and `loss_dense`."""
        features = self.extract_feat(batch_inputs)
        inputs = self.forward_transformer(features, batch_data_samples)
        losses = self.bbox_head.loss(**inputs, batch_data_samples=batch_data_samples)
        logits = self.dense_logits(features[0])
        stride = batch_inputs.shape[-1] / logits.shape[-1]
        target = torch.stack(
            [
                dense_target(sample.gt_instances, logits.shape[-2:], stride, self.bbox_head.num_classes)
                for sample in batch_data_samples
            ]
        )
        cells = functional.cross_entropy(logits, target, ignore_index=UNSURE, reduction="sum")
        losses["loss_dense"] = self.dense_weight * cells / (target != UNSURE).sum().clamp(min=1)
        return losses


def dense_target(instances: Any, size: tuple[int, int], stride: float, nothing: int) -> Tensor:
    """The class of each cell of a feature map, by the boxes that it lies in.

    Args:
        instances: `bboxes` `(N, 4)` in pixels and `labels` `(N,)`.
        size: `(h, w)` of the map.
        stride: Pixels per cell.
        nothing: Label of cells outside all boxes.

    Returns:
        `(h, w)` int64. Cells in the core of a box have its label, those between core and border `UNSURE`; small
        boxes lie on large ones.
    """
    boxes = instances.bboxes
    y, x = ((torch.arange(cells, device=boxes.device) + 0.5) * stride for cells in size)
    target = torch.full(size, nothing, dtype=torch.long, device=boxes.device)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for index in areas.argsort(descending=True).tolist():
        x1, y1, x2, y2 = boxes[index]
        for margin, label in ((0.0, UNSURE), (CORE_MARGIN, instances.labels[index])):
            dx, dy = margin * (x2 - x1), margin * (y2 - y1)
            rows, columns = (y > y1 + dy) & (y < y2 - dy), (x > x1 + dx) & (x < x2 - dx)
            target[rows[:, None] & columns] = label
    return target


@MODELS.register_module()
class FinerLevels(BaseModule):
    """The expanding half of a U-Net: each map gets what the coarser ones know.

    Args:
        in_channels: Of the encoder's maps, the finest first.
        out_channels: Of the maps for the transformer.
        levels: Number of maps for the transformer, the coarsest ones.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, levels: int) -> None:
        super().__init__()
        kept = list(in_channels)[-levels:]
        self.levels = levels
        self.stages = nn.ModuleList(
            double_convolution(coarse + fine, fine) for fine, coarse in pairwise(kept)
        )
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, out_channels, 1), nn.GroupNorm(GROUPS, out_channels))
            for channels in kept
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps `(B, out_channels, h, w)`, the finest first.

        Args:
            features: The encoder's maps, the finest first.
        """
        maps = list(features)[-self.levels :]
        for index in reversed(range(len(self.stages))):
            fine, coarse = maps[index], maps[index + 1]
            enlarged = functional.interpolate(
                coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False
            )
            maps[index] = self.stages[index](torch.cat([enlarged, fine], 1))
        return tuple(project(scale) for project, scale in zip(self.projections, maps, strict=True))
