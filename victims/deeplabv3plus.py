"""DeepLabV3+ (Chen et al., ECCV 2018) from segmentation-models-pytorch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from bench.victim import Task, VictimOptions
from victims import semantic
from victims.semantic_encoders import COMPACT_ARGUMENTS, LITE0, EncoderOptions, EncoderVictim


class DeepLabV3PlusOptions(EncoderOptions):
    """The network and its training.

    Attributes:
        encoder_depth: Stages of the encoder. Those beyond `output_stride` are dilated.
        output_stride: Stride of the features that the pyramid pooling sees.
        decoder_channels: Channels of each of its branches and of the decoder.
        aspp_dilations: Rates of its three 3x3 branches.
        aspp_dropout: Dropout after it.
    """

    encoder_depth: int = Field(default=4, ge=3, le=5)
    output_stride: Literal[8, 16] = 8
    decoder_channels: int = Field(default=64, gt=0)
    aspp_dilations: tuple[int, int, int] = (1, 2, 4)
    aspp_dropout: float = Field(default=0.0, ge=0, lt=1)


FULL_SIZE: dict[str, Any] = {
    "encoder": "resnet50",
    "encoder_arguments": {},
    "encoder_depth": 5,
    "output_stride": 16,
    "decoder_channels": 256,
    "aspp_dilations": (6, 12, 18),
    "aspp_dropout": 0.5,
}

PRESETS: dict[str, dict[str, Any]] = {
    "ci": {
        "iterations": 12,
        "batch_size": 4,
        "shift": 4,
        "encoder_arguments": COMPACT_ARGUMENTS | {"stem_width": 8, "channels": (16, 32, 64, 128)},
        "decoder_channels": 16,
    },
    "cpu": {"iterations": 2000},
    "gpu": FULL_SIZE
    | {
        "output_stride": 8,
        "aspp_dilations": (2, 4, 6),
        "iterations": 4000,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "scale_range": (0.75, 1.25),
        "mixed_precision": True,
    },
    # Not a victim of the UnSeg paper. The schedule is DeepLabV3's, with the output stride and rates that the
    # authors of DeepLabV3+ train with.
    "paper": FULL_SIZE | semantic.PASCAL_SCHEDULE | {"crop_size": 512},
}

LITE0_SHAPES: dict[str, dict[str, Any]] = {
    "ci": {},
    # At stride 8 four times as slow: its depthwise convolutions would be dilated, which CPUs have no kernels for.
    "cpu": {"encoder_depth": 5, "output_stride": 16, "decoder_channels": 96},
    "gpu": {},
    "paper": {},
}


class DeepLabV3Plus(EncoderVictim):
    """DeepLabV3+ with separable convolutions in pyramid pooling and decoder, cross-entropy and soft dice."""

    name: ClassVar[str] = "deeplabv3plus"
    summary: ClassVar[str] = f"DeepLabV3+ with encoders of segmentation-models-pytorch, or {LITE0}"
    paper: ClassVar[str] = "https://arxiv.org/abs/1802.02611"
    tasks: ClassVar[tuple[Task, ...]] = ("semantic", "binary")
    Options: ClassVar[type[VictimOptions]] = DeepLabV3PlusOptions
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS
    architecture: ClassVar[str] = "DeepLabV3Plus"
    lite0: ClassVar[dict[str, dict[str, Any]]] = LITE0_SHAPES
    pools_globally: ClassVar[bool] = True

    @property
    def divisor(self) -> int:
        """The stride of the coarsest features."""
        return min(self.encoder_stride, self._options.output_stride)

    @property
    def _options(self) -> DeepLabV3PlusOptions:
        assert isinstance(self.options, DeepLabV3PlusOptions)
        return self.options

    def network_arguments(self) -> dict[str, Any]:
        """See `EncoderVictim.network_arguments`."""
        options = self._options
        return {
            "encoder_output_stride": options.output_stride,
            "decoder_channels": options.decoder_channels,
            "decoder_atrous_rates": options.aspp_dilations,
            "decoder_aspp_dropout": options.aspp_dropout,
        }
