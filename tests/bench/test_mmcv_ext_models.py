"""mmdet's and mmseg's models on the stand-in for mmcv's extension."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.mmcv_ext import install


def tiny_mask_rcnn() -> Any:
    """Mask R-CNN with a ResNet-18 and 32 channels, from the config that mmdet ships."""
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.logging import MMLogger

    MMLogger.get_instance("mmengine", log_level="ERROR")
    register_all_modules()
    configs = Path(mmdet.__file__).parent / ".mim" / "configs"
    model = Config.fromfile(configs / "mask_rcnn" / "mask-rcnn_r50_fpn_1x_coco.py").model
    model.backbone.update(depth=18, init_cfg=None, frozen_stages=-1, norm_eval=False)
    model.neck.update(in_channels=[64, 128, 256, 512], out_channels=32)
    model.rpn_head.update(in_channels=32, feat_channels=32)
    head = model.roi_head
    head.bbox_roi_extractor.out_channels = head.mask_roi_extractor.out_channels = 32
    head.bbox_head.update(in_channels=32, fc_out_channels=64, num_classes=3)
    head.mask_head.update(in_channels=32, conv_out_channels=32, num_convs=1, num_classes=3)
    model.test_cfg.rcnn.score_thr = 0.0
    return MODELS.build(model)


def sample(size: int) -> dict[str, Any]:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    masks = torch.zeros(2, size, size)
    masks[0, 8:40, 8:40] = 1
    masks[1, 20:60, 30:60] = 1
    truth = DetDataSample(
        metainfo={
            "img_shape": (size, size),
            "ori_shape": (size, size),
            "pad_shape": (size, size),
            "batch_input_shape": (size, size),
            "scale_factor": (1.0, 1.0),
        }
    )
    truth.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 40, 40], [30, 20, 60, 60]]),
        labels=torch.tensor([0, 2]),
        masks=BitmapMasks(masks.numpy().astype("uint8"), size, size),
    )
    image = torch.randint(
        0, 256, (3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return {"inputs": [image], "data_samples": [truth]}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_mask_rcnn_learns_and_predicts(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    install()
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401  needs operators that mmdet does not

    torch.manual_seed(0)
    model = tiny_mask_rcnn().to(device).train()
    losses = model(**model.data_preprocessor(sample(64), training=True), mode="loss")
    total, logged = model.parse_losses(losses)
    assert {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"} <= set(logged)
    assert all(torch.isfinite(value) for value in logged.values())
    total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        (result,) = model.eval()(**model.data_preprocessor(sample(64), training=False), mode="predict")
    found = result.pred_instances
    assert 0 < len(found) <= 100
    assert found.masks.shape == (len(found), 64, 64)
    assert torch.isfinite(found.bboxes).all()
