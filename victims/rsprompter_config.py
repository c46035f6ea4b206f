"""RSPrompter's models as mmdet configs, from the numbers of its paper and code. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protectors.unseg.options import Geometry
from victims.semantic import MEAN, STD


@dataclass(frozen=True)
class PrompterShape:
    """What both variants are built from.

    Attributes:
        geometry: Shape of SAM.
        stem: See `SamOptions`.
        frozen_encoder: See `SamOptions`.
        frozen_decoder: See `SamOptions`.
        pretrained: `sha256:` of SAM's weights, or None.
        classes: Number of thing categories.
        channels: Of the pyramid's levels.
        hidden: Of the aggregator.
        layers: Hidden states that it takes.
        prompts: Prompt tokens per region or query.
        detections: Greatest number of instances per image.
        dense_weight: Weight of the dense loss.
    """

    geometry: Geometry
    stem: str
    frozen_encoder: bool
    frozen_decoder: bool
    pretrained: str | None
    classes: int
    channels: int
    hidden: int
    layers: tuple[int, ...]
    prompts: int
    detections: int
    dense_weight: float

    @property
    def strides(self) -> list[int]:
        """Of the pyramid's five levels, in pixels of the input: 4 to 64 with SAM's patches of 16."""
        return [self.geometry.patch_size * factor // 4 for factor in (1, 2, 4, 8, 16)]


def anchor_model(
    shape: PrompterShape,
    *,
    box_channels: int,
    proposals: int,
    rpn_samples: int,
    region_samples: int,
    region_sampling: int,
) -> dict[str, Any]:
    """The two-stage variant.

    Args:
        shape: What it is built from.
        box_channels: Of the two layers of the box head.
        proposals: Regions of an image that the second stage looks at.
        rpn_samples: Anchors of an image at which the first stage's losses are taken.
        region_samples: Regions of an image at which the second stage's losses are taken, up to a quarter of them
            on objects.
        region_sampling: Points per side of a cell of a region's features; 0: as many as the feature map has there.
    """
    channels, strides = shape.channels, shape.strides
    return {
        "type": "AnchorPrompter",
        "pretrained": shape.pretrained,
        "dense_weight": shape.dense_weight,
        "classes": shape.classes,
        "channels": shape.channels,
        "data_preprocessor": _preprocessor(shape),
        **_features(shape),
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": channels,
            "feat_channels": channels,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": [4, 8],
                "ratios": [0.5, 1.0, 2.0],
                "strides": strides,
            },
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [1.0, 1.0, 1.0, 1.0]},
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
            "loss_bbox": {"type": "SmoothL1Loss"},
        },
        "roi_head": {
            "type": "PromptingRoIHead",
            "bbox_roi_extractor": _regions(shape, 7, region_sampling),
            "bbox_head": {
                "type": "Shared2FCBBoxHead",
                "in_channels": channels,
                "fc_out_channels": box_channels,
                "roi_feat_size": 7,
                "num_classes": shape.classes,
                "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
                "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False},
                "loss_bbox": {"type": "SmoothL1Loss"},
            },
            "mask_roi_extractor": _regions(shape, 14, region_sampling),
            "mask_head": {
                "type": "PromptMaskHead",
                "geometry": shape.geometry.model_dump(),
                "frozen_decoder": shape.frozen_decoder,
                "channels": channels,
                "region": 14,
                "prompts": shape.prompts,
            },
        },
        "train_cfg": {
            "rpn": {
                "assigner": {
                    "type": "MaxIoUAssigner",
                    "pos_iou_thr": 0.7,
                    "neg_iou_thr": 0.3,
                    "min_pos_iou": 0.3,
                    "match_low_quality": True,
                },
                "sampler": {
                    "type": "RandomSampler",
                    "num": rpn_samples,
                    "pos_fraction": 0.5,
                    "add_gt_as_proposals": False,
                },
                "allowed_border": -1,
                "pos_weight": -1,
                "debug": False,
            },
            "rpn_proposal": _proposals(2 * proposals, proposals),
            "rcnn": {
                "assigner": {
                    "type": "MaxIoUAssigner",
                    "pos_iou_thr": 0.5,
                    "neg_iou_thr": 0.5,
                    "min_pos_iou": 0.5,
                    "match_low_quality": True,
                },
                "sampler": {
                    "type": "RandomSampler",
                    "num": region_samples,
                    "pos_fraction": 0.25,
                    "add_gt_as_proposals": True,
                },
                "pos_weight": -1,
                "debug": False,
            },
        },
        "test_cfg": {
            "rpn": _proposals(proposals, proposals),
            "rcnn": {
                "score_thr": 0.05,
                "nms": {"type": "nms", "iou_threshold": 0.5},
                "max_per_img": shape.detections,
            },
        },
    }


def query_model(
    shape: PrompterShape,
    *,
    query_channels: int,
    queries: int,
    encoder_layers: int,
    decoder_layers: int,
    points: int,
) -> dict[str, Any]:
    """The variant with queries.

    Args:
        shape: What it is built from.
        query_channels: Of queries and pixel decoder, a multiple of 8.
        queries: Number of queries.
        encoder_layers: Layers of deformable attention of the pixel decoder.
        decoder_layers: Layers of the query decoder.
        points: Points per mask at which losses and matching costs are taken.
    """
    attention = {"embed_dims": query_channels, "num_heads": 8, "dropout": 0.0, "batch_first": True}
    hidden = {
        "embed_dims": query_channels,
        "feedforward_channels": 4 * query_channels,
        "num_fcs": 2,
        "ffn_drop": 0.0,
        "act_cfg": {"type": "ReLU", "inplace": True},
    }
    position = {"num_feats": query_channels // 2, "normalize": True}
    return {
        "type": "QueryPrompter",
        "pretrained": shape.pretrained,
        "dense_weight": shape.dense_weight,
        "classes": shape.classes,
        "channels": shape.channels,
        "data_preprocessor": _preprocessor(shape),
        **_features(shape),
        "panoptic_head": {
            "type": "PromptingQueryHead",
            "geometry": shape.geometry.model_dump(),
            "frozen_decoder": shape.frozen_decoder,
            "prompts": shape.prompts,
            "in_channels": [shape.channels] * 5,
            "feat_channels": query_channels,
            "out_channels": shape.channels,
            "num_things_classes": shape.classes,
            "num_stuff_classes": 0,
            "num_queries": queries,
            "num_transformer_feat_level": 3,
            "pixel_decoder": {
                "type": "MSDeformAttnPixelDecoder",
                "strides": shape.strides,
                "num_outs": 3,
                "norm_cfg": {"type": "GN", "num_groups": min(32, query_channels // 2)},
                "act_cfg": {"type": "ReLU"},
                "encoder": {
                    "num_layers": encoder_layers,
                    "layer_cfg": {
                        "self_attn_cfg": {**attention, "num_levels": 3, "num_points": 4},
                        "ffn_cfg": hidden,
                    },
                },
                "positional_encoding": position,
            },
            "positional_encoding": position,
            "transformer_decoder": {
                "return_intermediate": True,
                "num_layers": decoder_layers,
                "layer_cfg": {"self_attn_cfg": attention, "cross_attn_cfg": attention, "ffn_cfg": hidden},
                "init_cfg": None,
            },
            "loss_cls": {
                "type": "CrossEntropyLoss",
                "use_sigmoid": False,
                "loss_weight": 2.0,
                # The last weight is that of "no object".
                "class_weight": [1.0] * shape.classes + [0.1],
            },
            "loss_mask": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 5.0},
            "loss_dice": {
                "type": "DiceLoss",
                "use_sigmoid": True,
                "activate": True,
                "naive_dice": True,
                "eps": 1.0,
                "loss_weight": 5.0,
            },
        },
        "panoptic_fusion_head": {
            "type": "MaskFormerFusionHead",
            "num_things_classes": shape.classes,
            "num_stuff_classes": 0,
        },
        "train_cfg": {
            "num_points": points,
            "oversample_ratio": 3.0,
            "importance_sample_ratio": 0.75,
            "assigner": {
                "type": "HungarianAssigner",
                "match_costs": [
                    {"type": "ClassificationCost", "weight": 2.0},
                    {"type": "CrossEntropyLossCost", "weight": 5.0, "use_sigmoid": True},
                    {"type": "DiceCost", "weight": 5.0, "pred_act": True, "eps": 1.0},
                ],
            },
            "sampler": {"type": "MaskPseudoSampler"},
        },
        "test_cfg": {"max_per_image": shape.detections},
    }


def _preprocessor(shape: PrompterShape) -> dict[str, Any]:
    return {
        "type": "DetDataPreprocessor",
        "mean": list(MEAN),
        "std": list(STD),
        "bgr_to_rgb": False,
        "pad_mask": True,
        # No image is larger, so every one becomes a square of this side: SAM's position embeddings are of it.
        "pad_size_divisor": shape.geometry.image_size,
    }


def _features(shape: PrompterShape) -> dict[str, Any]:
    return {
        "backbone": {
            "type": "SamBackbone",
            "geometry": shape.geometry.model_dump(),
            "stem": shape.stem,
            "frozen": shape.frozen_encoder,
            "layers": shape.layers,
        },
        "neck": {
            "type": "PrompterNeck",
            "states": len(shape.layers),
            "embed_dim": shape.geometry.embed_dim,
            "hidden": shape.hidden,
            "channels": shape.channels,
        },
    }


def _regions(shape: PrompterShape, side: int, sampling: int) -> dict[str, Any]:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": side, "sampling_ratio": sampling},
        "out_channels": shape.channels,
        "featmap_strides": shape.strides[:4],
        # mmdet's 56 pixels for strides from 4 on.
        "finest_scale": 14 * shape.strides[0],
    }


def _proposals(before: int, after: int) -> dict[str, Any]:
    return {
        "nms_pre": before,
        "max_per_img": after,
        "nms": {"type": "nms", "iou_threshold": 0.7},
        "min_bbox_size": 0,
    }
