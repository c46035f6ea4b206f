"""UNet++ (Zhou et al., DLMIA 2018) from segmentation-models-pytorch, the paper's medical victim."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from bench.errors import SpecError
from bench.victim import DataInfo, Init, Task, VictimOptions
from victims import semantic

CPU_ENCODER = "tu-resnet18d"
CPU_ARGUMENTS: dict[str, Any] = {"stem_width": 16, "channels": (64, 128, 256, 512), "zero_init_last": False}
"""A narrow encoder for small images. Residual branches that start at zero would waste a short training."""


class UNetPlusPlusOptions(semantic.SemanticOptions):
    """The network and its training.

    Attributes:
        encoder: Name of an encoder of segmentation-models-pytorch; `tu-` prefixes one of timm.
        encoder_arguments: Further arguments of a `tu-` encoder, such as its `channels`.
        encoder_depth: Stages of the encoder; the network's coarsest features have stride 2**encoder_depth.
        decoder_channels: Channels of the decoder's stages, coarse to fine, `encoder_depth` of them.
    """

    encoder: str = CPU_ENCODER
    encoder_arguments: dict[str, bool | int | tuple[int, ...]] = CPU_ARGUMENTS
    encoder_depth: int = Field(default=3, ge=3, le=5)
    decoder_channels: tuple[int, ...] = (64, 32, 16)

    @model_validator(mode="after")
    def _fits(self) -> UNetPlusPlusOptions:
        if len(self.decoder_channels) != self.encoder_depth:
            raise ValueError(
                f"decoder_channels needs {self.encoder_depth} entries, one per stage of the encoder"
            )
        if self.encoder_arguments and not self.encoder.startswith("tu-"):
            raise ValueError("encoder_arguments are for tu- encoders: leave them empty")
        return self


FULL_SIZE: dict[str, Any] = {
    "encoder": "resnet50",
    "encoder_arguments": {},
    "encoder_depth": 5,
    "decoder_channels": (256, 128, 64, 32, 16),
}

PRESETS: dict[str, dict[str, Any]] = {
    "ci": {
        "iterations": 12,
        "batch_size": 4,
        "shift": 4,
        "encoder_arguments": CPU_ARGUMENTS | {"stem_width": 8, "channels": (16, 32, 64, 128)},
        "decoder_channels": (32, 16, 8),
    },
    "cpu": {},
    "gpu": FULL_SIZE
    | {
        "iterations": 4000,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "scale_range": (0.75, 1.25),
        "mixed_precision": True,
    },
    # The paper names the networks and the data of its table 9 and no schedule. This one is ours.
    "paper": FULL_SIZE
    | {
        "epochs": 100,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "image_size": 352,
        "shift": 32,
        "scale_range": (0.75, 1.25),
        "mixed_precision": True,
    },
}


class UNetPlusPlus(semantic.SemanticVictim):
    """UNet++ with cross-entropy and soft dice."""

    name: ClassVar[str] = "unetplusplus"
    summary: ClassVar[str] = "UNet++ with any encoder of segmentation-models-pytorch"
    paper: ClassVar[str] = "https://arxiv.org/abs/1807.10165"
    tasks: ClassVar[tuple[Task, ...]] = ("semantic", "binary", "interactive")
    Options: ClassVar[type[VictimOptions]] = UNetPlusPlusOptions
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS
    custom_imports: ClassVar[tuple[str, ...]] = ("victims.unetplusplus_model",)

    @classmethod
    def resolve_options(cls, profile: str, given: dict[str, Any]) -> VictimOptions:
        """The profile's preset with `given` on top. Another encoder than the preset's keeps its own shape."""
        encoder = PRESETS[profile].get("encoder", CPU_ENCODER)
        own_shape = {} if given.get("encoder", encoder) == encoder else {"encoder_arguments": {}}
        return super().resolve_options(profile, own_shape | given)

    @property
    def divisor(self) -> int:
        """The stride of the coarsest features."""
        assert isinstance(self.options, UNetPlusPlusOptions)
        return 2**self.options.encoder_depth

    def model(self, data: DataInfo, task: Task, init: Init) -> dict[str, Any]:
        """See `SemanticVictim.model`.

        Raises:
            SpecError: ImageNet weights for an encoder of another shape.
        """
        options = self.options
        assert isinstance(options, UNetPlusPlusOptions)
        if init == "imagenet" and options.encoder_arguments:
            raise SpecError(
                "victim 'unetplusplus': no ImageNet weights exist for an encoder whose shape was changed by "
                "encoder_arguments: add the option encoder=resnet18"
            )
        return {
            "type": "UNetPlusPlusSegmentor",
            "encoder": options.encoder,
            "encoder_depth": options.encoder_depth,
            "encoder_arguments": dict(options.encoder_arguments),
            "decoder_channels": options.decoder_channels,
            "num_classes": semantic.class_count(data, task),
            "dice_weight": options.dice_weight,
            "pretrained": init == "imagenet",
            "data_preprocessor": semantic.data_preprocessor(self.divisor),
        }
