"""The parts of the compact Mask2Former, registered with mmdet and mmseg. Imports torch.

The published model does not learn from random weights in minutes on a CPU. Two things differ in the compact
one; matching, masked attention, point-sampled losses and inference are mmdet's own:

* backbone and pixel decoder are the halves of a U-Net. Multi-scale deformable attention costs most of an
  iteration where no CUDA kernel runs it;
* an auxiliary semantic loss on the mask features, as in MaX-DeepLab (Wang et al. 2021), which gives every
  pixel a signal before the matching has settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.layers import SinePositionalEncoding
from mmdet.registry import MODELS as DETECTION_MODELS
from mmengine.model import BaseModule
from mmseg.models.decode_heads import Mask2FormerHead as SemanticMask2FormerHead
from mmseg.registry import MODELS as SEGMENTATION_MODELS
from torch import Tensor, nn
from torch.nn import functional


@DETECTION_MODELS.register_module()
class PlainEncoder(BaseModule):
    """The contracting half of a U-Net: two 3x3 convolutions a stage, max-pooling between stages.

    The first stage works at the image's own resolution, where crisp edges are.

    Args:
        width: Channels of the first stage; each further one has twice as many.
        stages: Number of stages.
    """

    def __init__(self, width: int, stages: int = 4) -> None:
        super().__init__()
        channels = [3, *(width * 2**stage for stage in range(stages))]
        self.stages = nn.ModuleList(map(double_convolution, channels[:-1], channels[1:]))
        self.to(memory_format=torch.channels_last)  # the layout that CPU convolutions are fastest in

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps of strides 2, 4, ... `(B, width * stride, H / stride, W / stride)`, the finest first.

        Args:
            images: `(B, 3, H, W)` normalised; sides are multiples of the greatest stride.
        """
        maps = [self.stages[0](images.contiguous(memory_format=torch.channels_last))]
        for stage in self.stages[1:]:
            maps.append(stage(functional.max_pool2d(maps[-1], 2)))
        return maps[1:]


@DETECTION_MODELS.register_module()
class PlainPixelDecoder(BaseModule):
    """The expanding half of a U-Net up to half the image's resolution, as Mask2Former's pixel decoder.

    The features know their place in the image, as the published ones do: sine encodings stand beside the
    input of the last stage, whose output the masks are made from. Without them little would tell two objects
    of one class apart.

    Args:
        in_channels: Of the encoder's maps, the finest first.
        feat_channels: Of the maps for the transformer decoder.
        out_channels: Of the mask features.
        num_outs: Maps for the transformer decoder, the coarsest first.
        encoder: Read by `Mask2FormerHead` for the number of its levels; there is no encoder here.
    """

    position_channels = 16

    def __init__(
        self,
        in_channels: Sequence[int],
        feat_channels: int,
        out_channels: int,
        num_outs: int,
        encoder: dict[str, Any],
    ) -> None:
        super().__init__()
        wide, *narrower = reversed(in_channels)
        widths = [wide, *narrower[:-1], out_channels]
        inputs = [coarse + fine for coarse, fine in zip(widths[:-1], narrower, strict=True)]
        inputs[-1] += self.position_channels
        self.stages = nn.ModuleList(map(double_convolution, inputs, widths[1:]))
        self.projections = nn.ModuleList(nn.Conv2d(width, feat_channels, 1) for width in widths[:num_outs])
        self.position = SinePositionalEncoding(self.position_channels // 2, normalize=True)
        self.mask_feature = nn.Conv2d(out_channels, out_channels, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Mask features `(B, out_channels, H/2, W/2)` and `num_outs` maps `(B, feat_channels, h, w)`.

        Args:
            features: The encoder's maps, the finest first.
        """
        merged, *finer = reversed(features)
        maps = [merged]
        for stage, fine in zip(self.stages, finer, strict=True):
            merged = functional.interpolate(
                merged, size=fine.shape[-2:], mode="bilinear", align_corners=False
            )
            beside = [merged, fine]
            if stage is self.stages[-1]:
                nowhere_padded = fine.new_zeros((len(fine), *fine.shape[-2:]), dtype=torch.bool)
                beside.append(self.position(nowhere_padded))
            merged = stage(torch.cat(beside, 1))
            maps.append(merged)
        scales = [project(scale) for project, scale in zip(self.projections, maps, strict=False)]
        return self.mask_feature(merged), scales


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class _SemanticLoss:
    """Adds a per-pixel cross-entropy on the mask features to a Mask2Former head.

    A mixin, since mmseg's head is a subclass of mmdet's with another `loss`.

    Args:
        loss_semantic_weight: Weight of the loss.
        **kwargs: As for the head.
    """

    def __init__(self, loss_semantic_weight: float, **kwargs: Any) -> None:
        channels = kwargs["out_channels"]
        super().__init__(**kwargs)
        self.loss_semantic_weight = loss_semantic_weight
        self.semantic_logits = nn.Conv2d(channels, self.num_classes, 1)

    def _forward_head(self, decoder_out: Tensor, mask_feature: Tensor, attn_mask_target_size: Any) -> Any:
        # The only place where the mask features pass by: `forward` does not return them.
        self._mask_feature = mask_feature
        return super()._forward_head(decoder_out, mask_feature, attn_mask_target_size)

    def loss_by_feat(
        self,
        all_cls_scores: Any,
        all_mask_preds: Any,
        batch_gt_instances: list[Any],
        batch_img_metas: list[dict],
    ) -> dict[str, Tensor]:
        """The head's losses and `loss_semantic`; pixels of no segment count in none of them.

        Args:
            all_cls_scores: Of each decoder layer, `(B, queries, classes + 1)`.
            all_mask_preds: Of each decoder layer, `(B, queries, h, w)`.
            batch_gt_instances: Per image `labels` `(N,)` and `masks` `(N, H, W)`, stuff included.
            batch_img_metas: As for the head.
        """
        losses = super().loss_by_feat(all_cls_scores, all_mask_preds, batch_gt_instances, batch_img_metas)
        target = semantic_target(batch_gt_instances, self.num_classes)
        logits = functional.interpolate(
            self.semantic_logits(self._mask_feature), target.shape[-2:], mode="bilinear", align_corners=False
        )
        pixels = functional.cross_entropy(logits, target, ignore_index=self.num_classes, reduction="sum")
        counted = (target != self.num_classes).sum().clamp(min=1)
        losses["loss_semantic"] = self.loss_semantic_weight * pixels / counted
        return losses


def semantic_target(instances: Sequence[Any], nothing: int) -> Tensor:
    """The label map behind segments.

    Args:
        instances: Per image `labels` `(N,)` and `masks` `(N, H, W)`; later ones lie on top.
        nothing: Label of pixels of no segment.

    Returns:
        `(B, H, W)` int64.
    """
    masks = [instance.masks for instance in instances]
    target = torch.full((len(masks), *masks[0].shape[-2:]), nothing, dtype=torch.long, device=masks[0].device)
    for index, instance in enumerate(instances):
        for label, mask in zip(instance.labels, instance.masks, strict=True):
            target[index][mask > 0] = label
    return target


@DETECTION_MODELS.register_module()
class CompactMask2FormerHead(_SemanticLoss, Mask2FormerHead):
    """mmdet's Mask2Former head with the auxiliary semantic loss."""


@SEGMENTATION_MODELS.register_module()
class CompactSemanticMask2FormerHead(_SemanticLoss, SemanticMask2FormerHead):
    """mmseg's Mask2Former head with the auxiliary semantic loss."""
