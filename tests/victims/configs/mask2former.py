"""Things and stuff: mmdetection's own Mask2Former, made smaller."""

_base_ = "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py"
model = dict(
    backbone=dict(depth=18, base_channels=8),
    panoptic_head=dict(
        in_channels=[8, 16, 32, 64],
        num_queries=8,
        num_transformer_feat_level=3,
        pixel_decoder=dict(encoder=dict(num_layers=1, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64)))),
        transformer_decoder=dict(num_layers=3, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64))),
    ),
    train_cfg=dict(num_points=112),
)
