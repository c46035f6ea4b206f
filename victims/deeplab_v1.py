"""DeepLabV1 (Chen et al., ICLR 2015) with LargeFOV on ResNet38, the victim of the paper's ablations."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from bench.errors import SpecError
from bench.victim import DataInfo, Init, Task, VictimOptions
from victims import semantic

PAPER_WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)


class DeepLabV1Options(semantic.SemanticOptions):
    """The network and its training.

    Attributes:
        widths: Output channels of the seven levels of ResNet38.
        strides: Strides of levels 2 to 7; their product is the output stride.
        dilations: Dilations of levels 2 to 7.
        dropouts: Probabilities with which channels are left out at levels 6 and 7.
        head_channels: Channels between the head's two convolutions.
        head_dilation: Dilation of both; 12 at stride 8 sees 97 pixels.
        momentum: Of SGD.
        zoom_per_batch: Whether the random zoom of `scale_range` is one for all images of a batch.
        pad_window: Whether a training window that is larger than the image is filled with the mean colour,
            labelled background, instead of going on at the image's other side.
    """

    widths: tuple[int, int, int, int, int, int, int] = (16, 16, 32, 64, 64, 128, 128)
    strides: tuple[int, int, int, int, int, int] = (2, 2, 1, 1, 1, 1)
    dilations: tuple[int, int, int, int, int, int] = (1, 1, 1, 2, 2, 2)
    dropouts: tuple[float, float] = (0.0, 0.0)
    head_channels: int = Field(default=64, gt=0)
    head_dilation: int = Field(default=2, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    zoom_per_batch: bool = False
    pad_window: bool = False

    @model_validator(mode="after")
    def _fits(self) -> DeepLabV1Options:
        if min(self.widths) < 4:
            raise ValueError("widths needs 4 channels or more at each level")
        if min(*self.strides, *self.dilations) < 1:
            raise ValueError("strides and dilations have to be 1 or more")
        if not all(0 <= dropout < 1 for dropout in self.dropouts):
            raise ValueError("dropouts have to lie in [0, 1)")
        if self.zoom_per_batch and self.scale_range is None:
            raise ValueError("zoom_per_batch needs a scale_range")
        return self

    @property
    def output_stride(self) -> int:
        """Pixels per cell of the logits before they are enlarged."""
        stride = 1
        for factor in self.strides:
            stride *= factor
        return stride


PRESETS: dict[str, dict[str, Any]] = {
    "ci": {
        "iterations": 12,
        "batch_size": 4,
        "shift": 4,
        "widths": (8, 8, 16, 16, 16, 32, 32),
        "head_channels": 16,
    },
    "cpu": {"iterations": 2000, "learning_rate": 4e-3},
    "gpu": {
        "widths": (32, 64, 128, 256, 512, 1024, 1024),
        "dilations": (1, 1, 1, 2, 4, 4),
        "head_dilation": 6,
        "head_channels": 256,
        "iterations": 4000,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "mixed_precision": True,
    },
    # The code that the paper's tables 6 and 7 were made with, on Pascal VOC. It means weight decay 1e-5 and
    # no momentum of 0.9: its optimizer hands 1e-5 to SGD in the place of the momentum, and 0.9 to the power of
    # the polynomial decay. That is what was run, so that is what stands here.
    "paper": {
        "widths": PAPER_WIDTHS,
        "strides": (2, 2, 2, 1, 1, 1),
        "dilations": (1, 1, 1, 2, 4, 4),
        "dropouts": (0.3, 0.5),
        "head_channels": 512,
        "head_dilation": 12,
        "epochs": 30,
        "batch_size": 16,
        "optimizer": "sgd",
        "learning_rate": 7e-4,
        "head_rate_factor": 10.0,
        "momentum": 1e-5,
        "weight_decay": 0.0,
        "crop_size": 321,
        "pad_window": True,
        "scale_range": (0.7, 1.3),
        "zoom_per_batch": True,
        "symmetries": "horizontal",
        "dice_weight": 0.0,
    },
}


class DeepLabV1(semantic.SemanticVictim):
    """DeepLab-LargeFOV on ResNet38.

    From ImageNet weights the first convolution and all batch norms are frozen, as in the paper's code. From
    scratch everything is trained: frozen at their random start, they would normalise nothing.
    """

    name: ClassVar[str] = "deeplabv1"
    summary: ClassVar[str] = "DeepLabV1 (LargeFOV) on ResNet38"
    paper: ClassVar[str] = "https://arxiv.org/abs/1412.7062"
    tasks: ClassVar[tuple[Task, ...]] = ("semantic", "binary")
    Options: ClassVar[type[VictimOptions]] = DeepLabV1Options
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS
    custom_imports: ClassVar[tuple[str, ...]] = (
        "victims.resnet38",
        "victims.pretrained_resnet38",
        "victims.deeplab_v1_model",
        "victims.semantic_losses",
    )

    @property
    def divisor(self) -> int:
        """Any size will do."""
        return 1

    @property
    def coarsest(self) -> int:
        """The stride of the features."""
        assert isinstance(self.options, DeepLabV1Options)
        return self.options.output_stride

    def train_pipeline(self, data: DataInfo) -> list[dict[str, Any]]:
        """See `SemanticVictim.train_pipeline`; with the paper's zoom and window where they are asked for."""
        options = self.options
        assert isinstance(options, DeepLabV1Options)
        pipeline = super().train_pipeline(data)
        side = semantic.window_size(options, data, 1)
        for index, step in enumerate(pipeline):
            if step["type"] == "RandomResize" and options.zoom_per_batch:
                pipeline[index] = {"type": "BatchRandomResize", "ratio_range": options.scale_range}
            elif step["type"] == "RandomWindow" and options.pad_window:
                # The data preprocessor pads what stays smaller, after the normalisation.
                pipeline[index] = {"type": "RandomCrop", "crop_size": (side, side)}
        return pipeline

    def optim_wrapper(self) -> dict[str, Any]:
        """See `SemanticVictim.optim_wrapper`; with the momentum of the options."""
        options = self.options
        assert isinstance(options, DeepLabV1Options)
        wrapper = super().optim_wrapper()
        if options.optimizer == "sgd":
            wrapper["optimizer"]["momentum"] = options.momentum
        return wrapper

    def model(self, data: DataInfo, task: Task, init: Init) -> dict[str, Any]:
        """See `SemanticVictim.model`.

        Raises:
            SpecError: ImageNet weights for a ResNet38 of other widths.
        """
        options = self.options
        assert isinstance(options, DeepLabV1Options)
        if init == "imagenet" and options.widths != PAPER_WIDTHS:
            raise SpecError(
                "victim 'deeplabv1': ImageNet weights exist for the full ResNet38 alone: add the option "
                f"widths={list(PAPER_WIDTHS)}, or take --profile paper"
            )
        preprocessor = semantic.data_preprocessor(1)
        if options.pad_window:
            side = semantic.window_size(options, data, 1)
            del preprocessor["size_divisor"]
            preprocessor |= {"size": (side, side), "seg_pad_val": 0}
        losses: list[dict[str, Any]] = [
            {"type": "CrossEntropyLoss", "use_sigmoid": False, "avg_non_ignore": True}
        ]
        if options.dice_weight:
            losses.append({"type": "ClassDiceLoss", "loss_weight": options.dice_weight})
        return {
            "type": "EncoderDecoder",
            "data_preprocessor": preprocessor,
            "backbone": {
                "type": "ResNet38",
                "widths": options.widths,
                "strides": options.strides,
                "dilations": options.dilations,
                "dropouts": options.dropouts,
                "frozen": init == "imagenet",
                "init_cfg": {"type": "ResNet38ImageNet"} if init == "imagenet" else None,
            },
            "decode_head": {
                "type": "LargeFOVHead",
                "dilation": options.head_dilation,
                "in_channels": options.widths[-1],
                "channels": options.head_channels,
                "num_classes": semantic.class_count(data, task),
                "loss_decode": losses,
            },
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
        }
