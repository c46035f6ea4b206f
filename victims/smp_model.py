"""Networks of segmentation-models-pytorch as an mmseg segmentor."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
import torch
from mmengine.registry import MODELS
from mmseg.models.segmentors.base import BaseSegmentor
from torch import Tensor

from bench.errors import SpecError
from victims.pretrained import smp_encoder
from victims.pretrained_efficientnet import load_lite0
from victims.semantic_encoders import LITE0
from victims.semantic_losses import cross_entropy, dice_loss


@MODELS.register_module()
class SmpSegmentor(BaseSegmentor):
    """A network trained with cross-entropy over the pixels that are not void, plus a weighted soft dice loss.

    Args:
        architecture: Name of its class in segmentation-models-pytorch.
        encoder: Encoder name.
        encoder_depth: Its stages.
        encoder_arguments: Further arguments of a timm encoder.
        network_arguments: Further arguments of the network.
        num_classes: Outputs.
        dice_weight: Weight of the dice loss of the object classes; 0 leaves it out.
        pretrained: The encoder whose ImageNet weights `init_weights` loads, as the victim's options name it;
            None for none.
        data_preprocessor: Config; pads to multiples of the stride of the coarsest features.

    Raises:
        SpecError: The network cannot be built on this encoder.
    """

    align_corners = False

    def __init__(
        self,
        architecture: str,
        encoder: str,
        encoder_depth: int,
        encoder_arguments: dict[str, Any],
        network_arguments: dict[str, Any],
        num_classes: int,
        dice_weight: float,
        pretrained: str | None,
        data_preprocessor: dict[str, Any],
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        try:
            self.net = getattr(smp, architecture)(
                encoder,
                encoder_depth=encoder_depth,
                encoder_weights=None,
                classes=num_classes,
                **network_arguments,
                **encoder_arguments,
            )
        except Exception as error:  # smp and timm raise anything here, from KeyError to AttributeError
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SpecError(
                f"{architecture} cannot be built on encoder {encoder!r} of depth {encoder_depth} ({reason}): "
                "take another encoder, such as resnet50"
            ) from error
        remove_unused_stages(self.net.encoder)
        # A quarter faster on CPU, and what mixed precision wants.
        self.net.to(memory_format=torch.channels_last)
        self.dice_weight = dice_weight
        self._pretrained = pretrained

    def init_weights(self) -> None:
        """Loads ImageNet weights into the encoder where they are asked for; all else is smp's own start.

        Raises:
            EnvironmentFault: They are neither on disk nor reachable.
            ArtifactCorrupt: They do not fit.
        """
        super().init_weights()
        if self._pretrained is None:
            return
        encoder = self.net.encoder
        if self._pretrained == LITE0:
            load_lite0(encoder)
        else:
            state = smp_encoder(self._pretrained, encoder._depth, encoder.output_stride)
            encoder.load_state_dict({name: state[name] for name in encoder.state_dict()})

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """The encoder's features, fine to coarse."""
        return self.net.encoder(inputs)

    def encode_decode(self, inputs: Tensor, batch_data_samples: Any = None) -> Tensor:
        """Logits `(N, classes, H, W)` of normalised images `(N, 3, H, W)`."""
        return self.net(inputs.contiguous(memory_format=torch.channels_last))

    def loss(self, inputs: Tensor, data_samples: Any) -> dict[str, Tensor]:
        """Cross-entropy and, where it is weighted, dice."""
        return self.losses_of(self.encode_decode(inputs), data_samples)

    def losses_of(self, logits: Tensor, data_samples: Any) -> dict[str, Tensor]:
        """`loss` of logits `(N, classes, H, W)`."""
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


def remove_unused_stages(encoder: torch.nn.Module) -> None:
    """Takes the stages behind the last feature out of timm's EfficientNets.

    timm's other networks leave them out themselves. These compute them, whatever depth was asked for.
    """
    model = getattr(encoder, "model", None)
    used = getattr(model, "_stage_out_idx", None)
    if used and isinstance(getattr(model, "blocks", None), torch.nn.Sequential):
        model.blocks = model.blocks[: max(used)]
