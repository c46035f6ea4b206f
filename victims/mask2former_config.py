"""Mask2Former's model configs, from the ones that mmdet and mmseg ship. Imports nothing heavy by itself."""

from __future__ import annotations

from typing import Any, Literal

from victims.recipes import shipped_config

Backbone = Literal["r50", "swin-t"]

CONFIGS: dict[tuple[str, Backbone], tuple[str, str]] = {
    ("panoptic", "r50"): ("mmdet", "mask2former_r50_8xb2-lsj-50e_coco-panoptic.py"),
    ("panoptic", "swin-t"): ("mmdet", "mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py"),
    ("instance", "r50"): ("mmdet", "mask2former_r50_8xb2-lsj-50e_coco.py"),
    ("instance", "swin-t"): ("mmdet", "mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py"),
    ("semantic", "r50"): ("mmseg", "mask2former_r50_8xb2-160k_ade20k-512x512.py"),
    ("semantic", "swin-t"): ("mmseg", "mask2former_swin-t_8xb2-160k_ade20k-512x512.py"),
}
"""The package and file of each published model."""

PUBLISHED_DIVISOR = 32
COMPACT_DIVISOR = 8
"""Stride of the coarsest features: sides of the network's input are padded to multiples of it."""


def published_config(task: str, backbone: Backbone) -> Any:
    """The whole config file (model, optimizer) of a published model.

    Args:
        task: `panoptic`, `instance` or `semantic`.
        backbone: `r50` or `swin-t`.

    Returns:
        mmengine `Config`.

    Raises:
        EnvironmentFault: The installed package lacks the file.
    """
    package, name = CONFIGS[task, backbone]
    return shipped_config(package, f"mask2former/{name}")


def published_model(config: Any, task: str, things: int, stuff: int, points: int, pretrained: bool) -> Any:
    """The published architecture for other classes.

    Args:
        config: From `published_config`.
        task: Its task.
        things: Number of thing categories; 0 for `semantic`.
        stuff: Number of stuff categories, or of classes for `semantic`.
        points: Points per mask at which losses are taken.
        pretrained: Starts the backbone from ImageNet weights. Without them ResNet's batch norm, which is
            frozen in the published config, is trained.

    Returns:
        mmengine `ConfigDict`: mmdet's models read their configs by attribute.
    """
    model = config.model
    _set_classes(model, task, things, stuff)
    _head_config(model, task).train_cfg.num_points = points
    _set_preprocessing(model, task, PUBLISHED_DIVISOR)
    if not pretrained:
        model.backbone.init_cfg = None
        if model.backbone.type == "ResNet":
            model.backbone.norm_cfg = {"type": "BN", "requires_grad": True}
            model.backbone.norm_eval = False
    elif model.backbone.type == "ResNet":
        # The same weights as in the config, but checked before they are read.
        model.backbone.init_cfg = {"type": "TorchvisionResNet", "depth": model.backbone.depth}
    return model


def compact_model(
    config: Any,
    task: str,
    things: int,
    stuff: int,
    *,
    width: int,
    channels: int,
    queries: int,
    decoder_layers: int,
    points: int,
    semantic_weight: float,
) -> Any:
    """A small model of the same kind, see `victims.mask2former_modules`.

    Args:
        config: From `published_config`, ResNet-50.
        task: Its task.
        things: As for `published_model`.
        stuff: As for `published_model`.
        width: Channels of the first of the encoder's four stages.
        channels: Channels of the pixel decoder and the queries, a multiple of 8.
        queries: Number of queries.
        decoder_layers: Number of decoder layers.
        points: Points per mask at which losses are taken.
        semantic_weight: Weight of the auxiliary semantic loss.

    Returns:
        mmengine `ConfigDict`.
    """
    model = config.model
    _set_classes(model, task, things, stuff)
    _set_preprocessing(model, task, COMPACT_DIVISOR)
    scope = "mmdet." if task == "semantic" else ""
    model.backbone = {"type": scope + "PlainEncoder", "width": width, "stages": 4}
    head = _head(model, task)
    head.type = "CompactSemanticMask2FormerHead" if task == "semantic" else "CompactMask2FormerHead"
    head.update(
        in_channels=[2 * width, 4 * width, 8 * width],
        strides=[2, 4, 8],
        feat_channels=channels,
        out_channels=channels,
        num_queries=queries,
        positional_encoding={"num_feats": channels // 2, "normalize": True},
        loss_semantic_weight=semantic_weight,
    )
    # The head asks the pixel decoder's config for the number of levels of an encoder that is not there.
    head.pixel_decoder = {
        "type": scope + "PlainPixelDecoder",
        "num_outs": 3,
        "encoder": {"layer_cfg": {"self_attn_cfg": {"num_levels": 3}}},
    }
    decoder = head.transformer_decoder
    decoder.num_layers = decoder_layers
    for attention in ("self_attn_cfg", "cross_attn_cfg"):
        decoder.layer_cfg[attention].update(embed_dims=channels, num_heads=4)
    decoder.layer_cfg.ffn_cfg.update(embed_dims=channels, feedforward_channels=2 * channels)
    train = _head_config(model, task).train_cfg
    train.num_points = points
    if task != "semantic":
        # mmdet takes the best of all (query, class) pairs and fails if there are fewer.
        model.test_cfg.max_per_image = min(100, queries * (things + stuff))
    return model


def _head(model: Any, task: str) -> Any:
    return model.decode_head if task == "semantic" else model.panoptic_head


def _head_config(model: Any, task: str) -> Any:
    """Where `train_cfg` stands: mmseg keeps it in the head, mmdet in the model."""
    return model.decode_head if task == "semantic" else model


def _set_classes(model: Any, task: str, things: int, stuff: int) -> None:
    head = _head(model, task)
    # The last weight is that of "no object".
    head.loss_cls.class_weight = [1.0] * (things + stuff) + [0.1]
    if task == "semantic":
        head.num_classes = stuff
        return
    for part in (head, model.panoptic_fusion_head):
        part.num_things_classes = things
        part.num_stuff_classes = stuff
    model.test_cfg.update(panoptic_on=task == "panoptic", instance_on=task == "instance")


def _set_preprocessing(model: Any, task: str, divisor: int) -> None:
    preprocessor = model.data_preprocessor
    preprocessor.bgr_to_rgb = False
    if task == "semantic":
        preprocessor.size = None
        preprocessor.size_divisor = divisor
        preprocessor.test_cfg = {"size_divisor": divisor}
    else:
        preprocessor.batch_augments = None
        preprocessor.pad_size_divisor = divisor
