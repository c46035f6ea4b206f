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
    "depth": 4,
    "num_heads": 4,
    "window_size": 8,
    "global_blocks": (1, 3),
    "relative_positions": False,
    "decoder_dim": 64,
    "decoder_heads": 4,
    "decoder_mlp_dim": 128,
}
PROFILES: dict[str, dict[str, Any]] = {
    "ci": {"generator": _COMPACT, "surrogate": _COMPACT},
    "gpu": {"generator": _COMPACT, "surrogate": _COMPACT},
    "cpu": {"generator": _COMPACT, "surrogate": _COMPACT},
    "paper": {},
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
