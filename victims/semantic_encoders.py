"""Which encoders the victims of segmentation-models-pytorch may have, and how they start and see images."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from bench.errors import SpecError
from bench.registry import unknown
from bench.victim import DataInfo, Init, Task, VictimOptions
from victims import semantic

LITE0 = "efficientnet-lite0"
"""An encoder whose ImageNet weights come as a Python package: no hub, no download of our own."""
LITE0_TIMM = "tu-tf_efficientnet_lite0"
"""What it is in segmentation-models-pytorch; under this name its weights come from the Hugging Face hub."""

COMPACT = "tu-resnet18d"
COMPACT_ARGUMENTS: dict[str, Any] = {
    "stem_width": 16,
    "channels": (64, 128, 256, 512),
    "zero_init_last": False,
}
"""A narrow encoder for small images. Residual branches that start at zero would waste a short training."""

PAPER = ("resnet50", "densenet169", "efficientnet-b6", "tu-res2net50_26w_4s", "tu-regnetx_064")
"""The encoders of the paper's table 9, under today's names."""

HALF = ((127.5,) * 3, (127.5,) * 3)
"""Mean and deviation in levels for weights that were trained on inputs in [-1, 1]."""
HALF_FAMILIES = ("inception", "xception", "timm-tf_efficientnet_lite")
DPN = ((124.0, 117.0, 104.0), (59.88,) * 3)


class EncoderOptions(semantic.SemanticOptions):
    """A network with an encoder of segmentation-models-pytorch, and its training.

    Attributes:
        encoder: Name of an encoder of segmentation-models-pytorch; `tu-` prefixes one of timm.
            `efficientnet-lite0` is timm's `tf_efficientnet_lite0` with weights from a Python package.
        encoder_arguments: Further arguments of a `tu-` encoder, such as its `channels`.
        encoder_depth: Stages of the encoder.
    """

    encoder: str = COMPACT
    encoder_arguments: dict[str, bool | int | tuple[int, ...]] = COMPACT_ARGUMENTS
    encoder_depth: int = Field(default=3, ge=3, le=5)

    @field_validator("encoder")
    @classmethod
    def _exists(cls, name: str) -> str:
        problem = unknown_encoder(name)
        if problem:
            raise ValueError(problem)
        return name

    @model_validator(mode="after")
    def _takes_arguments(self) -> EncoderOptions:
        if self.encoder_arguments and not self.encoder.startswith("tu-"):
            raise ValueError("encoder_arguments are for tu- encoders: leave them empty")
        return self


class EncoderVictim(semantic.SemanticVictim):
    """A victim with an encoder of segmentation-models-pytorch.

    Attributes:
        architecture: Name of the class in segmentation-models-pytorch.
        lite0: Options, by profile, with which `encoder=efficientnet-lite0` replaces the preset's shape.
    """

    architecture: ClassVar[str]
    lite0: ClassVar[dict[str, dict[str, Any]]]
    custom_imports: ClassVar[tuple[str, ...]] = ("victims.smp_model",)

    @classmethod
    def resolve_options(cls, profile: str, given: dict[str, Any]) -> VictimOptions:
        """The profile's preset with `given` on top. Another encoder than the preset's keeps its own shape."""
        encoder = cls.preset(profile).get("encoder", COMPACT)
        own_shape: dict[str, Any] = {}
        if given.get("encoder", encoder) != encoder:
            own_shape = {"encoder_arguments": {}}
            if given["encoder"] == LITE0:
                own_shape |= cls.lite0[profile]
        return super().resolve_options(profile, own_shape | given)

    def network_arguments(self) -> dict[str, Any]:
        """Arguments of the architecture beside its encoder."""
        raise NotImplementedError

    @property
    def encoder_stride(self) -> int:
        """Stride of the encoder's coarsest features."""
        assert isinstance(self.options, EncoderOptions)
        return 2**self.options.encoder_depth

    def model(self, data: DataInfo, task: Task, init: Init) -> dict[str, Any]:
        """See `SemanticVictim.model`.

        Raises:
            SpecError: ImageNet weights for an encoder of another shape.
        """
        options = self.options
        assert isinstance(options, EncoderOptions)
        if init == "imagenet" and options.encoder_arguments:
            raise SpecError(
                f"victim {self.name!r}: no ImageNet weights exist for an encoder whose shape was changed by "
                f"encoder_arguments: add the option encoder={LITE0}, or encoder=resnet18"
            )
        mean, std = normalisation(options.encoder, init)
        return {
            "type": "SmpSegmentor",
            "architecture": self.architecture,
            "encoder": LITE0_TIMM if options.encoder == LITE0 else options.encoder,
            "encoder_depth": options.encoder_depth,
            "encoder_arguments": dict(options.encoder_arguments),
            "network_arguments": self.network_arguments(),
            "num_classes": semantic.class_count(data, task),
            "dice_weight": options.dice_weight,
            "pretrained": options.encoder if init == "imagenet" else None,
            "data_preprocessor": semantic.data_preprocessor(self.divisor, mean, std),
        }


def unknown_encoder(name: str) -> str:
    """Why there is no such encoder, with the nearest names; empty if there is one.

    The libraries are imported only for names that are not expected: they bring torch along.
    """
    if name in (LITE0, COMPACT, LITE0_TIMM, *PAPER):
        return ""
    import segmentation_models_pytorch as smp
    import timm

    renamed = name.replace("timm-", "tu-", 1) if smp.encoders.is_equivalent_to_timm_universal(name) else name
    if renamed.startswith("tu-"):
        model, _, tag = renamed.removeprefix("tu-").partition(".")
        if not timm.is_model(model):
            return unknown("encoder", name, [f"tu-{known}" for known in timm.list_models()])
        if tag and not timm.is_model_pretrained(f"{model}.{tag}"):
            return unknown("encoder", name, [f"tu-{known}" for known in timm.list_pretrained(f"{model}.*")])
        return ""
    known = [LITE0, *PAPER, *smp.encoders.get_encoder_names()]
    return "" if name in known else unknown("encoder", name, sorted(set(known)))


def normalisation(encoder: str, init: Init) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in levels that an encoder's ImageNet weights were trained with.

    Args:
        encoder: As in `EncoderOptions`.
        init: From scratch every encoder takes ImageNet's own statistics.
    """
    if init != "imagenet":
        return semantic.MEAN, semantic.STD
    if encoder == LITE0 or encoder.startswith(HALF_FAMILIES):
        return HALF
    if encoder.startswith("dpn"):
        return DPN
    if encoder.startswith("tu-"):
        import timm

        config = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if config is not None and config.mean is not None and config.std is not None:
            return tuple(255 * value for value in config.mean), tuple(255 * value for value in config.std)
    return semantic.MEAN, semantic.STD
