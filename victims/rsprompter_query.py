"""RSPrompter-query: a Mask2Former-like detector whose queries prompt SAM's mask decoder. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.ops import point_sample
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.detectors import Mask2Former
from mmdet.models.utils import get_uncertain_point_coords_with_randomness
from mmdet.registry import MODELS
from mmdet.structures.mask import mask2bbox
from mmengine.structures import InstanceData
from torch import Tensor, nn

from victims import sam_modules
from victims.rsprompter_modules import Prompter, SamDecoder, prompt_tokens, resize_masks


@MODELS.register_module()
class QueryPrompter(Prompter, Mask2Former):
    """The detector: mmdet's Mask2Former, on SAM's encoder.

    Args:
        **kwargs: As for `Prompter` and `Mask2Former`, with `SamBackbone`, `PrompterNeck` and
            `PromptingQueryHead`.
    """

    @property
    def prompting_head(self) -> Any:
        """See `Prompter.prompting_head`."""
        return self.panoptic_head

    @property
    def sam_decoder(self) -> SamDecoder:
        """See `Prompter.sam_decoder`."""
        return self.panoptic_head.decoder

    def predict(self, batch_inputs: Tensor, batch_data_samples: Any, rescale: bool = True) -> Any:
        """Adds `pred_instances` with masks at the original size to the data samples."""
        instances = self.panoptic_head.predict(self.extract_feat(batch_inputs), batch_data_samples)
        for sample, found in zip(batch_data_samples, instances, strict=True):
            sample.pred_instances = found
        return batch_data_samples


@MODELS.register_module()
class PromptingQueryHead(Mask2FormerHead):
    """mmdet's Mask2Former head, whose queries have a second mask each: SAM's.

    A query becomes prompt tokens, and its coarse mask (Mask2Former's own) SAM's mask prompt. Queries are matched
    by their coarse masks; both masks of a matched query take the same losses at the same points. SAM's decoder
    treats each query by itself, so in training it runs for the matched ones alone, a few of a hundred.

    Args:
        geometry: Fields of `Geometry`.
        frozen_decoder: Whether SAM's decoder keeps its starting weights.
        prompts: Tokens per query.
        **kwargs: As for `Mask2FormerHead`.
    """

    def __init__(self, geometry: dict[str, Any], frozen_decoder: bool, prompts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        shape = sam_modules.geometry_of(geometry)
        channels = kwargs["feat_channels"]
        self.prompts = prompts
        self.embedding: Tensor | None = None
        self.decoder = SamDecoder(shape, frozen_decoder, mask_prompts=True)
        self.cls_embed = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, self.num_classes + 1)
        )
        self.prompter = nn.Sequential(
            nn.Linear(channels, channels // 2),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 2, channels // 2),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 2, 2 * prompts * shape.decoder_dim),
        )

    def sam_masks(self, queries: Tensor, coarse: Tensor, images: Tensor) -> Tensor:
        """SAM's masks of `N` queries, `(N, 4 T, 4 T)` logits.

        Args:
            queries: `(N, channels)`.
            coarse: `(N, 4 T, 4 T)` logits; no gradient goes back through them.
            images: `(N,)` int64, the image of each query.
        """
        sparse = prompt_tokens(self.prompter(queries), self.prompts)
        return self.decoder(self.embedding[images], sparse, coarse.detach()[:, None])

    def predict(self, x: list[Tensor], batch_data_samples: Any) -> list[InstanceData]:
        """The best instances of each image, `test_cfg.max_per_image` at most.

        As in Mask2Former: every pair of query and class is an instance, whose score is the class's probability
        times the mean probability of the pixels of its mask.

        Args:
            x: Levels of the pyramid.
            batch_data_samples: Metas of the images.

        Returns:
            Per image `masks` `(n, H, W)` bool at the original size, `bboxes`, `scores` and `labels`.
        """
        metas = [sample.metainfo for sample in batch_data_samples]
        classes, masks = self(x, batch_data_samples)
        coarse, queries = masks[-1]
        found = []
        for image, meta in enumerate(metas):
            probability = classes[-1][image].softmax(-1)[:, :-1]
            count = min(self.test_cfg["max_per_image"], probability.numel())
            scores, pairs = probability.flatten().topk(count, sorted=False)
            wanted, rows = (pairs // self.num_classes).unique(return_inverse=True)
            images = torch.full_like(wanted, image)
            logits = self.sam_masks(queries[image, wanted], coarse[image, wanted], images)
            certainty = _mean_inside(logits, meta)[rows]
            whole = resize_masks(logits, meta)[rows]
            instances = InstanceData(scores=scores * certainty, labels=pairs % self.num_classes, masks=whole)
            instances.bboxes = mask2bbox(whole)
            found.append(instances)
        return found

    def _forward_head(self, decoder_out: Tensor, mask_feature: Tensor, attn_mask_target_size: Any) -> Any:
        """As mmdet's; the mask predictions come with the queries that SAM's masks are made of."""
        classes, coarse, attention = super()._forward_head(decoder_out, mask_feature, attn_mask_target_size)
        return classes, (coarse, self.transformer_decoder.post_norm(decoder_out)), attention

    def _loss_by_feat_single(
        self,
        cls_scores: Tensor,
        mask_preds: tuple[Tensor, Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The losses of class, mask and dice of one decoder layer, the latter two summed over both masks.

        Args:
            cls_scores: `(B, queries, classes + 1)`.
            mask_preds: Coarse logits `(B, queries, h, w)` and queries `(B, queries, channels)`.
            batch_gt_instances: Per image `labels` and `masks` `(n, S, S)`.
            batch_img_metas: Metas of the images.
        """
        coarse, queries = mask_preds
        labels, label_weights, targets, mask_weights, matched = self.get_targets(
            list(cls_scores), list(coarse), batch_gt_instances, batch_img_metas
        )
        labels, weights = torch.stack(labels).flatten(), torch.stack(label_weights).flatten()
        class_weight = cls_scores.new_tensor(self.class_weight)
        loss_class = self.loss_cls(
            cls_scores.flatten(0, 1), labels, weights, avg_factor=class_weight[labels].sum()
        )
        positive = torch.stack(mask_weights) > 0
        target = torch.cat(targets)[:, None].float()
        if not len(target):
            nothing = coarse.sum() * 0 + queries.sum() * 0
            return loss_class, nothing, nothing
        images, _ = positive.nonzero(as_tuple=True)
        coarse = coarse[positive]
        masks = [self.sam_masks(queries[positive], coarse, images)[:, None], coarse[:, None]]
        count = max(matched, 1)
        with torch.no_grad():
            points = get_uncertain_point_coords_with_randomness(
                masks[0], None, self.num_points, self.oversample_ratio, self.importance_sample_ratio
            )
            truth = point_sample(target, points)[:, 0]
        at_points = [point_sample(mask, points)[:, 0] for mask in masks]
        dice = sum(self.loss_dice(logits, truth, avg_factor=count) for logits in at_points)
        entropy = sum(
            self.loss_mask(logits.flatten(), truth.flatten(), avg_factor=count * self.num_points)
            for logits in at_points
        )
        return loss_class, entropy, dice


def _mean_inside(logits: Tensor, meta: dict[str, Any]) -> Tensor:
    """Mean probability of the pixels inside each mask, without the padding; 0 for an empty mask.

    Args:
        logits: `(N, h, w)` over the network's padded square.
        meta: Of the image.
    """
    side = meta["batch_input_shape"][0]
    height, width = (max(1, round(length * logits.shape[-1] / side)) for length in meta["img_shape"][:2])
    part = logits[:, :height, :width].float()
    inside = part > 0
    total = (part.sigmoid() * inside).sum((1, 2))
    return total / inside.sum((1, 2)).clamp(min=1)
