"""DINO's model configs, from the one that mmdet ships. Imports nothing heavy by itself."""

from __future__ import annotations

from typing import Any

from victims.recipes import shipped_config

CONFIG = "dino-4scale_r50_8xb2-12e_coco.py"

PUBLISHED_STRIDES = (8, 16, 32, 64)
COMPACT_STRIDES = (4, 8, 16)
"""Strides of the feature maps that the transformer reads."""

COMPACT_HEADS = 4


def published_config() -> Any:
    """The whole config file (model, optimizer, augmentation) of the published model.

    Returns:
        mmengine `Config`.

    Raises:
        EnvironmentFault: mmdet lacks the file.
    """
    return shipped_config("mmdet", f"dino/{CONFIG}")


def published_model(config: Any, pretrained: bool) -> Any:
    """The published architecture.

    Args:
        config: From `published_config`.
        pretrained: Starts the backbone from ImageNet weights. Without them its first stage and batch norm,
            which are frozen in the published config, are trained.

    Returns:
        mmengine `ConfigDict`.
    """
    model = config.model
    if not pretrained:
        model.backbone.update(
            init_cfg=None, frozen_stages=-1, norm_eval=False, norm_cfg={"type": "BN", "requires_grad": True}
        )
    else:
        # The same weights as in the config, but checked before they are read.
        model.backbone.init_cfg = {"type": "TorchvisionResNet", "depth": model.backbone.depth}
    return model


def compact_model(
    config: Any,
    *,
    width: int,
    channels: int,
    encoder_layers: int,
    decoder_layers: int,
    dense_weight: float,
) -> Any:
    """A small model of the same kind, see `victims.dino_modules`.

    Args:
        config: From `published_config`.
        width: Channels of the first of the encoder's stages.
        channels: Channels of the transformer, a multiple of 8.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers.
        dense_weight: Weight of the dense loss.

    Returns:
        mmengine `ConfigDict`.
    """
    model = config.model
    model.dense_weight = dense_weight
    levels = len(COMPACT_STRIDES)
    model.type = "CompactDINO"
    model.num_feature_levels = levels
    model.backbone = {"type": "PlainEncoder", "width": width, "stages": 5}
    model.neck = {
        "type": "FinerLevels",
        "in_channels": [2 * width, 4 * width, 8 * width, 16 * width],
        "out_channels": channels,
        "levels": levels,
    }
    for part, layers in ((model.encoder, encoder_layers), (model.decoder, decoder_layers)):
        part.num_layers = layers
        part.layer_cfg.self_attn_cfg.update(embed_dims=channels, num_heads=COMPACT_HEADS)
        part.layer_cfg.ffn_cfg.update(embed_dims=channels, feedforward_channels=2 * channels)
    model.encoder.layer_cfg.self_attn_cfg.num_levels = levels
    model.decoder.layer_cfg.cross_attn_cfg.update(
        embed_dims=channels, num_levels=levels, num_heads=COMPACT_HEADS
    )
    model.positional_encoding.num_feats = channels // 2
    model.bbox_head.embed_dims = channels
    return model
