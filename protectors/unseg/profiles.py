"""What UnSeg's open options become in each profile.

`paper` is the paper's setting. The others are too small to load pretrained weights, so every part is trained.
"""

from __future__ import annotations

from typing import Any

from bench.errors import SpecError
from protectors.unseg.options import UnSegOptions

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
PROFILES: dict[str, dict[str, Any]] = {
    "ci": {**_CPU, "phases": 5, "phase_steps": 2, "batch_size": 2},
    "cpu": _CPU,
    "gpu": {
        **_CPU,
        "generator": _MIDDLE,
        "surrogate": _MIDDLE,
        "phase_steps": 100,
        "batch_size": 32,
    },
    "paper": {"trainable": "all"},
}


def profile_options(profile: str, given: dict[str, Any]) -> UnSegOptions:
    """The options of a profile with `given` in their place.

    Args:
        profile: `ci`, `cpu`, `gpu` or `paper`.
        given: Fields of `UnSegOptions`; of a geometry, those that differ from the profile's are enough.

    Raises:
        SpecError: There is no such profile.
    """
    if profile not in PROFILES:
        raise SpecError(f"unseg has no profile '{profile}'; choose one of {', '.join(PROFILES)}")
    merged = {**PROFILES[profile], **given}
    for network in ("generator", "surrogate"):
        if isinstance(given.get(network), dict):
            merged[network] = {**PROFILES[profile].get(network, {}), **given[network]}
    return UnSegOptions(**merged)
