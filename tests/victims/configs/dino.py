"""Boxes: mmdetection's own DINO, made smaller, as a user would change a shipped config."""

_base_ = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"
model = dict(
    num_queries=12,
    backbone=dict(depth=18, base_channels=8),
    neck=dict(in_channels=[16, 32, 64]),
    encoder=dict(num_layers=1, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64))),
    decoder=dict(num_layers=1, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64))),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=8)),
)
