"""UNet++ (Zhou et al., DLMIA 2018) from segmentation-models-pytorch, the paper's medical victim."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from bench.errors import SpecError
from bench.victim import DataInfo, Init, Task, TrainingRecipe, Victim, VictimOptions
from victims import semantic


class UNetPlusPlusOptions(semantic.SemanticOptions):
    """The network and its training.

    Attributes:
        encoder: Name of an encoder of segmentation-models-pytorch; `tu-` prefixes one of timm.
        encoder_depth: Stages of the encoder; the network's coarsest features have stride 2**encoder_depth.
        stem_width: Width of the stem of a `tu-resnet...` encoder; None: its own.
        stage_channels: Channels of its four stages; None: its own.
        decoder_channels: Channels of the decoder's stages, coarse to fine, `encoder_depth` of them.
    """

    encoder: str = "tu-resnet18d"
    encoder_depth: int = Field(default=3, ge=3, le=5)
    stem_width: int | None = Field(default=16, gt=0)
    stage_channels: tuple[int, int, int, int] | None = (64, 128, 256, 512)
    decoder_channels: tuple[int, ...] = (64, 32, 16)

    @model_validator(mode="after")
    def _channels_fit(self) -> UNetPlusPlusOptions:
        if len(self.decoder_channels) != self.encoder_depth:
            raise ValueError(
                f"decoder_channels needs {self.encoder_depth} entries, one per stage of the encoder"
            )
        if (self.stem_width or self.stage_channels) and not self.encoder.startswith("tu-resnet"):
            raise ValueError("stem_width and stage_channels are for tu-resnet encoders: set them to null")
        return self


FULL_SIZE: dict[str, Any] = {
    "encoder": "resnet50",
    "encoder_depth": 5,
    "stem_width": None,
    "stage_channels": None,
    "decoder_channels": (256, 128, 64, 32, 16),
}

PRESETS: dict[str, dict[str, Any]] = {
    "ci": {
        "iterations": 12,
        "batch_size": 4,
        "shift": 4,
        "stem_width": 8,
        "stage_channels": (16, 32, 64, 128),
        "decoder_channels": (32, 16, 8),
    },
    "cpu": {},
    "gpu": FULL_SIZE
    | {"iterations": 4000, "learning_rate": 1e-3, "scale_range": (0.75, 1.25), "mixed_precision": True},
    # The paper names the networks and the data of its table 9 and no schedule. This one is ours.
    "paper": FULL_SIZE
    | {
        "epochs": 100,
        "learning_rate": 1e-3,
        "image_size": 352,
        "shift": 32,
        "scale_range": (0.75, 1.25),
        "mixed_precision": True,
    },
}


class UNetPlusPlus(Victim):
    """UNet++ with cross-entropy, and soft dice besides where there is one kind of object."""

    name: ClassVar[str] = "unetplusplus"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "UNet++ with any encoder of segmentation-models-pytorch"
    paper: ClassVar[str] = "https://arxiv.org/abs/1807.10165"
    tasks: ClassVar[tuple[Task, ...]] = ("semantic", "binary", "interactive")
    inits: ClassVar[tuple[Init, ...]] = ("scratch", "imagenet")
    Options: ClassVar[type[VictimOptions]] = UNetPlusPlusOptions

    @classmethod
    def resolve_options(cls, profile: str, given: dict[str, Any]) -> VictimOptions:
        """The profile's preset with `given` on top. Another encoder than the preset's has its own widths."""
        preset = dict(PRESETS[profile])
        if given.get("encoder", UNetPlusPlusOptions().encoder) != UNetPlusPlusOptions().encoder:
            preset |= {"stem_width": None, "stage_channels": None}
        return cls.Options(**{**preset, **given})

    def recipe(self, data: DataInfo, task: Task, init: Init, profile: str) -> TrainingRecipe:
        """See `Victim.recipe`.

        Raises:
            SpecError: Unknown task or init, or ImageNet weights for an encoder of other widths.
        """
        semantic.check(type(self), task, init)
        options = self.options
        assert isinstance(options, UNetPlusPlusOptions)
        if init == "imagenet" and (options.stem_width or options.stage_channels):
            raise SpecError(
                "victim 'unetplusplus': no ImageNet weights exist for an encoder of other widths than its "
                "own: add the options encoder=resnet18 (or stem_width=null and stage_channels=null)"
            )
        divisor = 2**options.encoder_depth
        widths = {"stem_width": options.stem_width, "channels": options.stage_channels}
        iterations = semantic.training_length(options, data)
        return TrainingRecipe(
            model={
                "type": "UNetPlusPlusSegmentor",
                "encoder": options.encoder,
                "encoder_depth": options.encoder_depth,
                "encoder_arguments": {key: value for key, value in widths.items() if value is not None},
                "decoder_channels": options.decoder_channels,
                "num_classes": semantic.class_count(data, task),
                "dice_weight": 0.0 if task == "semantic" else 1.0,
                "pretrained": init == "imagenet",
                "data_preprocessor": semantic.data_preprocessor(divisor),
            },
            scope="mmseg",
            train_pipeline=semantic.train_pipeline(options, data, divisor),
            test_pipeline=semantic.test_pipeline(options),
            optim_wrapper=semantic.optim_wrapper(options),
            param_scheduler=semantic.param_scheduler(options, iterations),
            iterations=iterations,
            batch_size=options.batch_size,
            task=task,
            custom_imports=("victims.unetplusplus_model",),
        )
