"""Named lists of countermeasures: what an attacker would try, in one word."""

from __future__ import annotations

from typing import Any

from bench import registry
from bench.defense import PreprocessingOptions

BUILT_IN = {"apply_to": "both"}
"""Options of a defense that the attacker builds into his network: test images go through it, too."""


LISTS: dict[str, tuple[str, ...]] = {
    "paper": ("none", "gaussian", "jpeg", "at", "ddc_at"),
    "best": (
        "none",
        "grayscale",
        "bit_depth",
        "gaussian",
        "total_variation",
        "jpeg",
        "resize",
        "noise",
        "orthogonal_projection",
        "purifier",
        "cutmix",
        "color_jitter",
        "ueraser",
        "at",
    ),
    "all": (
        "none",
        "grayscale",
        "bit_depth",
        "gaussian",
        "median",
        "total_variation",
        "jpeg",
        "resize",
        "noise",
        "coin",
        "sharpen_frequency",
        "orthogonal_projection",
        "purifier",
        "cutout",
        "cutmix",
        "mixup",
        "color_jitter",
        "rand_augment",
        "ueraser",
        "at",
        "segpgd_at",
        "ddc_at",
        "early_stop",
    ),
}
"""`paper`: those of UnSeg's table 4. `best`: one of each kind, of several the one that gave most back in our tables
(docs/defenses.md): squeezing (Liu et al., ICML 2023), smoothing, new noise, projection, learned purification, mixing,
colour, adversarial augmentation and adversarial training. The best score per protector among them is the protection
that a data owner really gets. `all`: every defense of this package."""


def listed(name: str) -> tuple[dict[str, Any], ...]:
    """The countermeasures of a list, each with its name and options.

    What changes every image in one way stands in it twice, for training images alone and built into the network;
    but for `paper`, whose victims see test images as they are.
    """
    plain = [{"name": each, "options": {}} for each in LISTS[name]]
    if name == "paper":
        return tuple(plain)
    options = {each: registry.load("defense", each).Options for each in LISTS[name]}
    built_in = [each for each in LISTS[name] if issubclass(options[each], PreprocessingOptions)]
    return (*plain, *({"name": each, "options": BUILT_IN} for each in built_in))
