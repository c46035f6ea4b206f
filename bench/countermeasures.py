"""Named lists of countermeasures: what an attacker would try, in one word."""

from __future__ import annotations

from typing import Any

BUILT_IN = {"apply_to": "both"}
"""Options of a defense that the attacker builds into his network: test images go through it, too."""


PREPROCESSING = frozenset(
    {
        "grayscale",
        "bit_depth",
        "gaussian",
        "median",
        "total_variation",
        "jpeg",
        "resize",
        "orthogonal_projection",
        "purifier",
    }
)
"""What changes every image in one way, so that it can be built in."""


def _both_ways(*names: str) -> tuple[str | dict[str, Any], ...]:
    """The defenses, and once more, built in, those that can be."""
    return (*names, *({"name": name, "options": BUILT_IN} for name in names if name in PREPROCESSING))


def listed(name: str) -> tuple[dict[str, Any], ...]:
    """The countermeasures of a list, each with its name and options."""
    return tuple({"name": each, "options": {}} if isinstance(each, str) else each for each in LISTS[name])


LISTS: dict[str, tuple[str | dict[str, Any], ...]] = {
    "paper": ("none", "gaussian", "jpeg", "at", "ddc_at"),
    "best": _both_ways(
        "none",
        "grayscale",
        "bit_depth",
        "gaussian",
        "median",
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
    "all": _both_ways(
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
"""`paper`: those of UnSeg's table 4. `best`: one of each kind: squeezing (Liu et al., ICML 2023), smoothing, new noise,
projection, learned purification, mixing, colour, adversarial augmentation and adversarial training. The best score
per protector among them is the protection that a data owner really gets. `all`: every defense of this package.
What changes images in one way stands in both twice: for training images alone, and built into the network."""
