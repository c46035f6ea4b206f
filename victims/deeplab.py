"""DeepLabV3 (Chen et al., 2017) from mmsegmentation, the paper's victim on Pascal VOC."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from bench.errors import SpecError
from bench.victim import DataInfo, Init, Task, VictimOptions
from victims import semantic
from victims.recipes import shipped_config
from victims.semantic_encoders import LITE0, normalisation

BASE_CONFIG = "_base_/models/deeplabv3_r50-d8.py"
"""mmseg's own model, inside its wheel."""

EXPANSION = {18: 1, 50: 4, 101: 4}
"""Output channels of a residual block as a multiple of its width, by depth of the ResNet."""

LITE0_DEPTH = 4
"""Stages of EfficientNet-Lite0 that are used: as many as a ResNet has, whose last two feed mmseg's two heads."""
LITE0_CHANNELS = (40, 112)
"""Of those two."""
LITE0_STRIDE = 8
"""Pixels per cell of the last of them, which is dilated for it."""
RESNET = ("depth", "width", "stem_channels", "max_pool", "strides", "dilations", "zero_init_residual")
"""Options that shape the ResNet."""


class DeepLabV3Options(semantic.SemanticOptions):
    """The network and its training.

    Attributes:
        encoder: `resnet`, which the options from `depth` to `dilations` and `zero_init_residual` shape; or
            `efficientnet-lite0`, the first four stages of it at stride 8, whose ImageNet weights come as a Python
            package.
        depth: Of the ResNet.
        width: Channels of the ResNet's first stage (64 in the original).
        stem_channels: Channels of its stem of three 3x3 convolutions.
        max_pool: Whether the stem ends in the usual pooling; without it everything is twice as fine.
        strides: Strides of the four stages.
        dilations: Dilations of the four stages.
        aspp_channels: Channels of each branch of the pyramid pooling.
        aspp_dilations: Rates of its branches; 1 is a 1x1 convolution.
        zero_init_residual: Whether residual branches start at zero; in a short training that wastes time.
        auxiliary_weight: Weight of the loss of a second head on the third stage.
        sliding_window: Whether evaluation slides a window of the training size over the image.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset({"encoder"})

    encoder: Literal["resnet", "efficientnet-lite0"] = "resnet"
    depth: Literal[18, 50, 101] = 18
    width: int = Field(default=16, gt=0)
    stem_channels: int = Field(default=16, gt=0)
    max_pool: bool = False
    strides: tuple[int, int, int, int] = (1, 2, 1, 1)
    dilations: tuple[int, int, int, int] = (1, 1, 2, 4)
    aspp_channels: int = Field(default=64, gt=0)
    aspp_dilations: tuple[int, ...] = (1, 2, 4, 6)
    zero_init_residual: bool = False
    auxiliary_weight: float = Field(default=0.4, ge=0)
    sliding_window: bool = False

    @model_validator(mode="after")
    def _shapes_what_it_has(self) -> DeepLabV3Options:
        changed = [name for name in RESNET if getattr(self, name) != type(self).model_fields[name].default]
        if self.encoder == LITE0 and changed:
            raise ValueError(
                f"{', '.join(changed)}: of the ResNet, and encoder={LITE0} has a shape of its own"
            )
        return self

    @property
    def output_stride(self) -> int:
        """Pixels per cell of the logits before they are enlarged."""
        if self.encoder == LITE0:
            return LITE0_STRIDE
        stride = 4 if self.max_pool else 2
        for factor in self.strides:
            stride *= factor
        return stride


FULL_SIZE: dict[str, Any] = {
    "depth": 50,
    "width": 64,
    "stem_channels": 64,
    "max_pool": True,
    "strides": (1, 2, 1, 1),
    "dilations": (1, 1, 2, 4),
    "aspp_channels": 256,
    "aspp_dilations": (1, 6, 12, 18),
    "zero_init_residual": True,
}

PRESETS: dict[str, dict[str, Any]] = {
    "ci": {
        "iterations": 12,
        "batch_size": 4,
        "shift": 4,
        "width": 8,
        "stem_channels": 8,
        "aspp_channels": 16,
    },
    "cpu": {"iterations": 2000},
    # Without the pooling the output stride is 4, fine enough for objects of tens of pixels.
    "gpu": FULL_SIZE
    | {
        "depth": 18,
        "max_pool": False,
        "aspp_dilations": (1, 2, 4, 6),
        "iterations": 4000,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "mixed_precision": True,
    },
    # Unlike in the code that the schedule is of, mmseg's head convolves 3x3 after the pyramid.
    "paper": FULL_SIZE
    | semantic.PASCAL_SCHEDULE
    | {
        "crop_size": 473,
        "rotation": 10.0,
        "blur": 0.5,
        "sliding_window": True,
    },
}


class DeepLabV3(semantic.SemanticVictim):
    """DeepLabV3 with a dilated encoder, pyramid pooling and an auxiliary head."""

    name: ClassVar[str] = "deeplabv3"
    summary: ClassVar[str] = f"mmsegmentation's DeepLabV3 with a dilated ResNet, or {LITE0}"
    paper: ClassVar[str] = "https://arxiv.org/abs/1706.05587"
    tasks: ClassVar[tuple[Task, ...]] = ("semantic", "binary")
    Options: ClassVar[type[VictimOptions]] = DeepLabV3Options
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS
    custom_imports: ClassVar[tuple[str, ...]] = (
        "victims.deeplab_model",
        "victims.lite0_backbone",
        "victims.pretrained_torchvision",
        "victims.semantic_losses",
    )
    pools_globally: ClassVar[bool] = True

    @classmethod
    def resolve_options(cls, profile: str, given: dict[str, Any]) -> VictimOptions:
        """The profile's preset with `given` on top; what it says of the ResNet is for the ResNet alone."""
        fields = cls.Options.model_fields if given.get("encoder") == LITE0 else {}
        plain = {name: fields[name].default for name in RESNET if name in fields}
        return super().resolve_options(profile, plain | given)

    @property
    def divisor(self) -> int:
        """The stride of the features."""
        assert isinstance(self.options, DeepLabV3Options)
        return self.options.output_stride

    def model(self, data: DataInfo, task: Task, init: Init) -> dict[str, Any]:
        """See `SemanticVictim.model`.

        Raises:
            SpecError: ImageNet weights for a ResNet of another width.
            EnvironmentFault: mmsegmentation is not installed.
        """
        options = self.options
        assert isinstance(options, DeepLabV3Options)
        model = base_model()
        if options.encoder == LITE0:
            mean, std = normalisation(LITE0, init)
            backbone, channels = self._lite0(init), LITE0_CHANNELS
        else:
            mean, std = semantic.MEAN, semantic.STD
            backbone = model["backbone"] | self._resnet(options, init)
            width = options.width * EXPANSION[options.depth]
            channels = (width * 4, width * 8)
        preprocessor = semantic.data_preprocessor(self.divisor, mean, std)
        model |= {"backbone": backbone, "data_preprocessor": preprocessor, "pretrained": None}
        for head, weight in (("decode_head", 1.0), ("auxiliary_head", options.auxiliary_weight)):
            model[head] |= self._head(semantic.class_count(data, task), weight)
        if options.dice_weight:
            dice = {"type": "ClassDiceLoss", "loss_weight": options.dice_weight}
            model["decode_head"]["loss_decode"] = [model["decode_head"]["loss_decode"], dice]
        model["decode_head"] |= {
            "in_channels": channels[1],
            "channels": options.aspp_channels,
            "dilations": options.aspp_dilations,
        }
        model["auxiliary_head"] |= {
            "in_channels": channels[0],
            "channels": max(options.aspp_channels // 2, 1),
        }
        if options.sliding_window:
            side = semantic.window_size(options, data, 1)
            stride = max(1, side * 2 // 3)
            model["test_cfg"] = {"mode": "slide", "crop_size": (side, side), "stride": (stride, stride)}
            # A window that is larger than the image would see the border sooner than in training.
            preprocessor["test_cfg"] = {"size": (side, side)}
        return model

    @staticmethod
    def _lite0(init: Init) -> dict[str, Any]:
        return {
            "type": "Lite0Backbone",
            "depth": LITE0_DEPTH,
            "output_stride": LITE0_STRIDE,
            "pretrained": init == "imagenet",
        }

    @staticmethod
    def _resnet(options: DeepLabV3Options, init: Init) -> dict[str, Any]:
        if init == "imagenet" and options.width != 64:
            raise SpecError(
                "victim 'deeplabv3': ImageNet weights exist for a ResNet of width 64 alone: add the options "
                f"width=64 and stem_channels=64, or encoder={LITE0}"
            )
        pretrained = {"type": "TorchvisionResNet", "depth": options.depth}
        return {
            "type": "DilatedResNet",
            "depth": options.depth,
            "base_channels": options.width,
            "stem_channels": options.stem_channels,
            "max_pool": options.max_pool,
            # torchvision's ResNets have one 7x7 convolution where DeepLab's have three 3x3 ones.
            "deep_stem": init == "scratch",
            "zero_init_residual": options.zero_init_residual,
            "strides": options.strides,
            "dilations": options.dilations,
            "norm_cfg": {"type": "BN", "requires_grad": True},
            "init_cfg": pretrained if init == "imagenet" else None,
        }

    @staticmethod
    def _head(classes: int, weight: float) -> dict[str, Any]:
        return {
            "num_classes": classes,
            "norm_cfg": {"type": "BN", "requires_grad": True},
            "loss_decode": {
                "type": "CrossEntropyLoss",
                "use_sigmoid": False,
                "loss_weight": weight,
                "avg_non_ignore": True,
            },
        }


def base_model() -> dict[str, Any]:
    """mmseg's DeepLabV3 configuration, read from its wheel.

    Raises:
        EnvironmentFault: mmsegmentation is not installed.
    """
    return shipped_config("mmseg", BASE_CONFIG).model.to_dict()
