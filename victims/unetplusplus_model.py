"""smp's UNet++ as an mmseg segmentor."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
import torch
from mmengine.registry import MODELS
from mmseg.models.segmentors.base import BaseSegmentor
from torch import Tensor

from bench.errors import EnvironmentFault
from victims.semantic_losses import cross_entropy, dice_loss


@MODELS.register_module()
class UNetPlusPlusSegmentor(BaseSegmentor):
    """UNet++ trained with cross-entropy over the pixels that are not void, plus a weighted soft dice loss.

    Args:
        encoder: Encoder name for `smp.UnetPlusPlus`.
        encoder_depth: Its stages.
        encoder_arguments: Further arguments of a timm encoder.
        decoder_channels: As for `smp.UnetPlusPlus`.
        num_classes: Outputs.
        dice_weight: Weight of the dice loss of the object classes; 0 leaves it out.
        pretrained: Whether `init_weights` loads the encoder's ImageNet weights.
        data_preprocessor: Config; pads to multiples of 2**encoder_depth.
    """

    align_corners = False

    def __init__(
        self,
        encoder: str,
        encoder_depth: int,
        encoder_arguments: dict[str, Any],
        decoder_channels: tuple[int, ...],
        num_classes: int,
        dice_weight: float,
        pretrained: bool,
        data_preprocessor: dict[str, Any],
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.net = smp.UnetPlusPlus(
            encoder,
            encoder_depth=encoder_depth,
            encoder_weights=None,
            decoder_channels=tuple(decoder_channels),
            classes=num_classes,
            **encoder_arguments,
        ).to(memory_format=torch.channels_last)  # a quarter faster on CPU, and what mixed precision wants
        self.dice_weight = dice_weight
        self._pretrained = (encoder, encoder_depth) if pretrained else None

    def init_weights(self) -> None:
        """Loads ImageNet weights into the encoder where they are asked for; all else is smp's own start.

        Raises:
            EnvironmentFault: They are neither in the cache nor reachable.
        """
        super().init_weights()
        if self._pretrained is not None:
            name, depth = self._pretrained
            self.net.encoder.load_state_dict(_imagenet_encoder(name, depth).state_dict())

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """The encoder's features, fine to coarse."""
        return self.net.encoder(inputs)

    def encode_decode(self, inputs: Tensor, batch_data_samples: Any = None) -> Tensor:
        """Logits `(N, classes, H, W)` of normalised images `(N, 3, H, W)`."""
        return self.net(inputs.contiguous(memory_format=torch.channels_last))

    def loss(self, inputs: Tensor, data_samples: Any) -> dict[str, Tensor]:
        """Cross-entropy and, where it is weighted, dice."""
        logits = self.encode_decode(inputs)
        target = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples])
        losses = {"loss_ce": cross_entropy(logits, target)}
        if self.dice_weight:
            losses["loss_dice"] = self.dice_weight * dice_loss(logits, target)
        return losses

    def predict(self, inputs: Tensor, data_samples: Any = None) -> Any:
        """Data samples with `pred_sem_seg` at the images' original sizes."""
        return self.postprocess_result(self.encode_decode(inputs), data_samples)

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        return self.encode_decode(inputs)


def _imagenet_encoder(name: str, depth: int) -> Any:
    try:
        return smp.encoders.get_encoder(name, in_channels=3, depth=depth, weights="imagenet")
    except Exception as error:
        raise EnvironmentFault(
            f"the ImageNet weights of encoder {name!r} are not in the cache and cannot be fetched "
            f'({type(error).__name__}): on a machine with network access run python -c "import '
            f"segmentation_models_pytorch as s; s.encoders.get_encoder('{name}', weights='imagenet')\" and "
            "copy its Hugging Face cache (HF_HOME) here, or use --init scratch"
        ) from error
