"""What victims on SAM (Kirillov et al., ICCV 2023) share: the shape of its image encoder, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from bench import cache
from bench.errors import SpecError
from bench.victim import Init, VictimOptions
from protectors.unseg import checkpoints
from protectors.unseg.options import Geometry

Encoder = Literal["compact", "vit_b", "vit_l", "vit_h"]

PUBLISHED: dict[str, Geometry] = {
    name: Geometry(**checkpoints.CATALOGUE[f"sam_{name}"].geometry) for name in ("vit_b", "vit_l", "vit_h")
}
"""The shapes that SAM's weights exist for."""

COMPACT: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 4,
    "num_heads": 3,
    "window_size": 8,
    "global_blocks": (1, 3),
    "relative_positions": True,
    "decoder_dim": 64,
    "decoder_heads": 4,
    "decoder_mlp_dim": 128,
}
"""The shape of an encoder that learns from random weights in minutes on a CPU."""


class SamOptions(VictimOptions):
    """SAM's part of a victim.

    Attributes:
        encoder: `vit_b`, `vit_l` and `vit_h` are SAM's; `compact` has the shape `geometry`, and no pretrained
            weights exist for it, so that it has to be trained along.
        geometry: Shape of encoder and decoder. With a published encoder it follows from that.
        stem: What cuts the image into tokens: SAM's `patch` embedding (one strided convolution), or, for a
            compact encoder, a `convolutional` one (Xiao et al., NeurIPS 2021), with which a transformer learns
            from random weights in a fraction of the time.
        frozen_encoder: Whether the image encoder keeps its starting weights. It then needs the patch stem, whose
            output does not depend on the rest of the batch.
        frozen_decoder: Whether SAM's prompt encoder and mask decoder keep theirs.
        weights: For `init sam`: `sha256:` of a file in the user's cache with the weights to start from, also
            of the parts that a victim adds to SAM where the file has them; None: those that Meta published. A
            path may be given: what lies there is imported into the cache.
    """

    encoder: Encoder = "compact"
    geometry: Geometry = Geometry(**COMPACT)
    stem: Literal["patch", "convolutional"] = "convolutional"
    frozen_encoder: bool = False
    frozen_decoder: bool = False
    weights: str | None = None
    test_batch_size: int = Field(default=16, gt=0)

    @field_validator("geometry")
    @classmethod
    def _geometry_is_the_encoders(cls, value: Geometry, info: ValidationInfo) -> Geometry:
        encoder = info.data.get("encoder", "compact")
        if encoder in PUBLISHED and value != PUBLISHED[encoder]:
            raise ValueError(f"encoder {encoder} has a geometry of its own: leave geometry out")
        return value

    @model_validator(mode="after")
    def _stem_fits(self) -> SamOptions:
        if self.stem == "convolutional" and (self.encoder in PUBLISHED or self.frozen_encoder):
            raise ValueError(
                "the convolutional stem is for compact encoders that are trained: leave stem out"
            )
        return self

    @field_validator("weights")
    @classmethod
    def _weights_are_a_reference(cls, value: str | None) -> str | None:
        if value is not None and not cache.is_reference(value):
            raise ValueError("weights are named by sha256: and 64 hex digits")
        return value


def resolve(preset: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A preset with `given` on top, the geometry completed.

    Args:
        preset: Options of a profile.
        given: What the user asked for; of a compact geometry, the fields that differ are enough. `weights`
            may be a path.

    Raises:
        SpecError: There is no file of weights at that path.
    """
    merged = {**preset, **given}
    weights = given.get("weights")
    if weights is not None and not cache.is_reference(str(weights)):
        path = Path(str(weights)).expanduser()
        if not path.is_file():
            raise SpecError(f"option weights: {weights} is neither a file nor sha256: and 64 hex digits")
        merged["weights"] = cache.PREFIX + cache.import_file(path)
    encoder = merged.get("encoder", "compact")
    if encoder in PUBLISHED or merged.get("frozen_encoder"):
        merged["stem"] = given.get("stem", "patch")
    if encoder in PUBLISHED:
        merged["geometry"] = given.get("geometry", PUBLISHED[encoder])
    else:
        # The shape that a profile gives to its own encoder is none for another.
        own = preset.get("geometry", {}) if preset.get("encoder", "compact") == "compact" else {}
        geometry = given.get("geometry", {})
        if isinstance(geometry, dict):
            merged["geometry"] = {**COMPACT, **own, **geometry}
    return merged


def starting_weights(options: SamOptions, init: Init, victim: str) -> str | None:
    """The `sha256:` reference of the file to start from; None for random weights.

    Raises:
        SpecError: There are no weights of this encoder.
    """
    if init != "sam":
        if options.weights:
            raise SpecError(f"victim {victim!r}: the option weights is for --init sam")
        return None
    if options.weights:
        return options.weights
    if options.encoder == "compact":
        raise SpecError(
            f"victim {victim!r}: SAM's weights exist for its own encoders alone: add the option encoder=vit_b, "
            "vit_l or vit_h, or use the profile paper"
        )
    return checkpoints.CATALOGUE[f"sam_{options.encoder}"].reference
