"""What UnSeg's open options become in each profile, and with pretrained weights.

`paper` is the paper's setting: SAM's and MAE's ViT-B. The others are too small to load pretrained weights, so
every part is trained.
"""

from __future__ import annotations

from typing import Any

from bench.errors import SpecError
from protectors.unseg import checkpoints
from protectors.unseg.checkpoints import RANDOM, Checkpoint, Network
from protectors.unseg.options import Geometry, UnSegOptions

_COMPACT = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 2,
    "window_size": 4,
    "global_blocks": (1,),
    "relative_positions": False,
    "decoder_dim": 64,
    "decoder_heads": 4,
    "decoder_mlp_dim": 128,
}
_MIDDLE = {
    **_COMPACT,
    "image_size": 128,
    "embed_dim": 192,
    "depth": 4,
    "num_heads": 3,
    "window_size": 8,
    "global_blocks": (1, 3),
    "decoder_dim": 128,
    "decoder_mlp_dim": 256,
}
_CPU = {
    "generator": _COMPACT,
    "surrogate": _COMPACT,
    "token_readout": "intended",
    "trainable": "all",
    "label_modification": False,
    # Trained at the budget that it is deployed with: at a quarter of it (epsilon generalization) the surrogate
    # never learns to look at the noise in so few steps, and the generator collapses to one constant tile.
    "train_epsilon": 8.0,
    "train_epsilon_background": 2.0,
    "surrogate_prompts": ("box",),
    "phases": 24,
    "phase_steps": 40,
    "batch_size": 8,
    "generator_learning_rate": 1e-3,
    "surrogate_learning_rate": 1e-3,
    "decay_phase": 1000,
    "loss": "dense",
    "flips": "all",
    "jitter": (1.0, 1.0),
    "cache_images": 4000,
}
PRESETS: dict[str, dict[str, Any]] = {
    "ci": {**_CPU, "phases": 5, "phase_steps": 2, "batch_size": 2},
    "cpu": _CPU,
    "gpu": {
        **_CPU,
        "generator": _MIDDLE,
        "surrogate": _MIDDLE,
        "phase_steps": 100,
        "batch_size": 32,
    },
    "paper": {
        "surrogate": {"image_size": 512},
        "generator_init": "sam_vit_b",
        "surrogate_init": "mae_vit_b",
    },
}
NETWORKS: tuple[Network, ...] = ("generator", "surrogate")


def completed(preset: dict[str, Any], given: dict[str, Any]) -> UnSegOptions:
    """The options of a preset with `given` in their place.

    Pretrained weights bring the geometry that they were trained with (a file that is not in the catalogue
    that of the paper), and leave only the noise parts of the generator to be trained. A trained generator
    brings all that describes it.

    Args:
        preset: Fields of `UnSegOptions`, as in `PRESETS`.
        given: Fields of `UnSegOptions`; of a geometry, those that differ from the profile's are enough.
            `generator_init`, `surrogate_init` and `weights` may be paths: what lies there is imported into
            the user's cache.

    Raises:
        SpecError: There are no such weights, or they do not go with the other options.
    """
    if given.get("weights") is not None:
        return _trained(given)
    merged = {**preset, **given}
    for network in NETWORKS:
        reference = checkpoints.resolve(str(merged.get(f"{network}_init", RANDOM)), network)
        merged[f"{network}_init"] = reference
        base = preset.get(network, {})
        if reference != RANDOM:
            checkpoint = checkpoints.known(reference)
            base = dict(checkpoint.geometry) if checkpoint else PRESETS["paper"].get(network, {})
        own = given.get(network, {})
        if isinstance(own, dict):
            if "encoder" in own and own["encoder"] != base.get("encoder", "vit"):
                base = {}
            merged[network] = {**base, **own}
    if "trainable" not in given:
        merged["trainable"] = "all" if merged["generator_init"] == RANDOM else "noise"
    options = UnSegOptions(**merged)
    for network in NETWORKS:
        checkpoint = checkpoints.known(getattr(options, f"{network}_init"))
        if checkpoint:
            _check_geometry(checkpoint, getattr(options, network))
    return options


def _check_geometry(checkpoint: Checkpoint, geometry: Geometry) -> None:
    """Refuses a geometry that the checkpoint's tensors do not fit."""
    right = Geometry(**checkpoint.geometry)
    for name in checkpoint.fixed or Geometry.model_fields:
        if getattr(geometry, name) != getattr(right, name):
            raise SpecError(
                f"protector 'unseg': {checkpoint.name} has {name} {getattr(right, name)}, and "
                f"{checkpoint.network}.{name} is {getattr(geometry, name)}: leave it out, or choose "
                f"{checkpoint.network}_init=random"
            )


def _trained(given: dict[str, Any]) -> UnSegOptions:
    """The options of a trained generator: its own, and the defaults for all that says how to train."""
    from protectors.unseg.weights import import_generator, stated_options

    reference = import_generator(str(given["weights"]))
    stated = stated_options(reference)
    deployed = {name: given[name] for name in ("deployment_prompt",) if name in given}
    options = UnSegOptions(
        weights=reference, generator=stated.generator, token_readout=stated.token_readout, **deployed
    )
    values = options.model_dump()
    for name, value in given.items():
        if name == "weights":
            continue
        if isinstance(value, dict) and name in NETWORKS:
            value = {**values[name], **value}
        if UnSegOptions(**{**values, name: value}) != options:
            raise SpecError(
                f"protector 'unseg': with weights nothing is trained, and their generator is what it is: "
                f"leave {name} out"
            )
    return options
