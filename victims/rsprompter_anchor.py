"""RSPrompter-anchor: a two-stage detector whose mask head prompts SAM's mask decoder. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.layers import SinePositionalEncoding
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi, scale_boxes
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from victims import sam_modules
from victims.rsprompter_modules import Prompter, SamDecoder, prompt_tokens, resize_masks

LOSS_MASKS = 8
"""Masks that the loss enlarges at a time. At 1024 pixels each one is 4 MB, and so is its gradient."""


@MODELS.register_module()
class AnchorPrompter(Prompter, TwoStageDetector):
    """The detector: mmdet's, on SAM's encoder.

    Args:
        **kwargs: As for `Prompter` and `TwoStageDetector`, with `SamBackbone`, `PrompterNeck` and
            `PromptingRoIHead`.
    """

    @property
    def prompting_head(self) -> Any:
        """See `Prompter.prompting_head`."""
        return self.roi_head

    @property
    def sam_decoder(self) -> SamDecoder:
        """See `Prompter.sam_decoder`."""
        return self.roi_head.mask_head.decoder


@MODELS.register_module()
class PromptingRoIHead(StandardRoIHead):
    """mmdet's head of boxes, beside a mask head that prompts SAM.

    Both look at levels to which sine encodings of the place are added.

    Args:
        **kwargs: As for `StandardRoIHead`, with a `PromptMaskHead`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding: Tensor | None = None
        channels = self.bbox_roi_extractor.out_channels
        self.position = SinePositionalEncoding(channels // 2, normalize=True)

    def loss(self, x: tuple[Tensor, ...], *args: Any) -> dict[str, Tensor]:
        """See `StandardRoIHead.loss`."""
        return super().loss(self._placed(x), *args)

    def predict(self, x: tuple[Tensor, ...], *args: Any, **kwargs: Any) -> Any:
        """See `StandardRoIHead.predict`."""
        return super().predict(self._placed(x), *args, **kwargs)

    def mask_loss(
        self, x: tuple[Tensor, ...], sampling_results: Any, bbox_feats: Tensor, batch_gt_instances: Any
    ) -> dict[str, Any]:
        """Binary cross-entropy of the positive samples' masks against their objects', over the whole square.

        See `StandardRoIHead.mask_loss`.
        """
        logits = self._mask_logits(x, [result.pos_priors for result in sampling_results])
        if not len(logits):
            # Zero, and in the graph.
            return {"loss_mask": {"loss_mask": logits.sum()}}
        targets = [
            instances.masks.masks[result.pos_assigned_gt_inds.cpu().numpy()]
            for result, instances in zip(sampling_results, batch_gt_instances, strict=True)
        ]
        flat = [mask for masks in targets for mask in masks]
        return {"loss_mask": {"loss_mask": self.mask_head.loss(logits, flat)}}

    def predict_mask(
        self, x: tuple[Tensor, ...], batch_img_metas: list[dict], results_list: Any, rescale: bool = False
    ) -> Any:
        """Adds `masks` `(n, H, W)` bool at the original size, and brings the boxes to it.

        See `StandardRoIHead.predict_mask`.
        """
        logits = self._mask_logits(x, [result.bboxes for result in results_list])
        parts = logits.split([len(result) for result in results_list])
        for meta, result, part in zip(batch_img_metas, results_list, parts, strict=True):
            result.masks = resize_masks(part, meta)
            if rescale:
                inverse = tuple(1 / factor for factor in meta["scale_factor"])
                result.bboxes = scale_boxes(result.bboxes, inverse)
        return results_list

    def _mask_logits(self, x: tuple[Tensor, ...], boxes: list[Tensor]) -> Tensor:
        rois = bbox2roi(boxes)
        features = self.mask_roi_extractor(x[: self.mask_roi_extractor.num_inputs], rois)
        return self.mask_head(features, self.embedding, rois[:, 0].long())

    def _placed(self, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        batch, _, height, width = x[0].shape
        place = self.position(x[0].new_zeros((batch, height, width), dtype=torch.bool)).to(x[0].dtype)
        return tuple(
            level + functional.interpolate(place, size=level.shape[-2:], mode="bilinear", align_corners=False)
            for level in x
        )


@MODELS.register_module()
class PromptMaskHead(BaseModule):
    """Makes prompt tokens of a region's features, and the region's mask with SAM's decoder.

    Args:
        geometry: Fields of `Geometry`.
        frozen_decoder: Whether SAM's decoder keeps its starting weights.
        channels: Of the features.
        region: Side of a region's features, even.
        prompts: Tokens per region.
    """

    def __init__(
        self, geometry: dict[str, Any], frozen_decoder: bool, channels: int, region: int, prompts: int
    ) -> None:
        super().__init__()
        shape = sam_modules.geometry_of(geometry)
        self.prompts = prompts
        self.decoder = SamDecoder(shape, frozen_decoder, mask_prompts=False)
        self.prompter = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(channels * (region // 2) ** 2, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, 2 * prompts * shape.decoder_dim),
        )

    def forward(self, features: Tensor, embedding: Tensor, images: Tensor) -> Tensor:
        """Mask logits `(R, 4 T, 4 T)` over the network's square.

        Args:
            features: `(R, channels, region, region)`.
            embedding: `(B, C, T, T)`.
            images: `(R,)` int64, the image of each region.
        """
        if len(features) == 0:
            side = 4 * embedding.shape[-1]
            return features.sum() + features.new_zeros((0, side, side))
        return self.decoder(embedding[images], prompt_tokens(self.prompter(features), self.prompts))

    def loss(self, logits: Tensor, targets: list[Any]) -> Tensor:
        """Mean binary cross-entropy over all pixels of the enlarged masks.

        Args:
            logits: `(R, h, w)`.
            targets: R arrays `(S, S)` of 0 and 1.
        """
        total = logits.new_zeros(())
        for start in range(0, len(targets), LOSS_MASKS):
            rows = slice(start, start + LOSS_MASKS)
            target = torch.stack([torch.from_numpy(mask) for mask in targets[rows]]).to(logits.device)
            total = total + checkpoint(_entropy, logits[rows], target, use_reentrant=False)
        return total / (len(targets) * targets[0].size)


def _entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Summed cross-entropy of logits `(R, h, w)`, enlarged, against targets `(R, S, S)`."""
    enlarged = functional.interpolate(
        logits[:, None].float(), size=target.shape[-2:], mode="bilinear", align_corners=False
    )
    return functional.binary_cross_entropy_with_logits(enlarged[:, 0], target.float(), reduction="sum")
