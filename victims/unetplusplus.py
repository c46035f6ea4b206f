"""UNet++ (Zhou et al., DLMIA 2018) from segmentation-models-pytorch, the paper's medical victim."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from bench.victim import Task, VictimOptions
from victims.semantic_encoders import COMPACT_ARGUMENTS, LITE0, EncoderOptions, EncoderVictim


class UNetPlusPlusOptions(EncoderOptions):
    """The network and its training.

    Attributes:
        decoder_channels: Channels of the decoder's stages, coarse to fine, `encoder_depth` of them. The
            coarsest features have stride 2**encoder_depth.
    """

    decoder_channels: tuple[int, ...] = (64, 32, 16)

    @model_validator(mode="after")
    def _fits(self) -> UNetPlusPlusOptions:
        if len(self.decoder_channels) != self.encoder_depth:
            raise ValueError(
                f"decoder_channels needs {self.encoder_depth} entries, one per stage of the encoder"
            )
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
        "encoder_arguments": COMPACT_ARGUMENTS | {"stem_width": 8, "channels": (16, 32, 64, 128)},
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

LITE0_SHAPES: dict[str, dict[str, Any]] = {
    "ci": {"encoder_depth": 3, "decoder_channels": (32, 16, 8)},
    # Photographs of 96 px: cells of 16 px are coarse enough to see an object with.
    "cpu": {"encoder_depth": 4, "decoder_channels": (64, 48, 32, 16)},
    "gpu": {},
    "paper": {},
}


class UNetPlusPlus(EncoderVictim):
    """UNet++ with cross-entropy and soft dice."""

    name: ClassVar[str] = "unetplusplus"
    summary: ClassVar[str] = f"UNet++ with any encoder of segmentation-models-pytorch, or {LITE0}"
    paper: ClassVar[str] = "https://arxiv.org/abs/1807.10165"
    tasks: ClassVar[tuple[Task, ...]] = ("semantic", "binary", "interactive")
    Options: ClassVar[type[VictimOptions]] = UNetPlusPlusOptions
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS
    architecture: ClassVar[str] = "UnetPlusPlus"
    lite0: ClassVar[dict[str, dict[str, Any]]] = LITE0_SHAPES

    @property
    def divisor(self) -> int:
        """The stride of the coarsest features."""
        return self.encoder_stride

    def network_arguments(self) -> dict[str, Any]:
        """See `EncoderVictim.network_arguments`."""
        assert isinstance(self.options, UNetPlusPlusOptions)
        return {"decoder_channels": self.options.decoder_channels}
