"""DeepLabV1's head, and the augmentation that the images of a batch share."""

from __future__ import annotations

from typing import Any

from mmcv.transforms import BaseTransform, Resize
from mmengine.registry import MODELS, TRANSFORMS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from bench.seeds import generator


@MODELS.register_module()
class LargeFOVHead(BaseDecodeHead):
    """DeepLab-LargeFOV: a dilated 3x3 convolution, ReLU, and another to the classes.

    Args:
        dilation: Of both.
        **kwargs: As for `BaseDecodeHead`.
    """

    def __init__(self, dilation: int = 12, **kwargs: Any) -> None:
        super().__init__(dropout_ratio=0, init_cfg=None, **kwargs)
        self.conv = nn.Conv2d(self.in_channels, self.channels, 3, padding=dilation, dilation=dilation)
        self.conv_seg = nn.Conv2d(self.channels, self.out_channels, 3, padding=dilation, dilation=dilation)

    def init_weights(self) -> None:
        """Weights as of Glorot and Bengio (2010), uniform; biases stay torch's."""
        super().init_weights()
        for convolution in (self.conv, self.conv_seg):
            nn.init.xavier_uniform_(convolution.weight)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits `(N, classes, h, w)` of the last of the features."""
        return self.cls_seg(self.conv(self._transform_inputs(inputs)).relu())


@TRANSFORMS.register_module()
class BatchRandomResize(BaseTransform):
    """Resizes all images of a batch by one random factor.

    Args:
        ratio_range: Least and greatest factor.
    """

    def __init__(self, ratio_range: tuple[float, float]) -> None:
        self.ratio_range = tuple(ratio_range)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resizes `img` bilinearly and `gt_seg_map` by nearest neighbours."""
        factor = generator(results["batch_seed"], "scale").uniform(*self.ratio_range)
        height, width = results["img"].shape[:2]
        size = (max(1, int(width * factor)), max(1, int(height * factor)))
        return Resize(scale=size, keep_ratio=False)(results)
