"""Named lists of countermeasures: what an attacker would try, in one word."""

from __future__ import annotations

LISTS: dict[str, tuple[str, ...]] = {
    "paper": ("none", "gaussian", "jpeg", "at", "ddc_at"),
    "best": (
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
"""`paper`: those of UnSeg's table 4. `best`: one of each kind: squeezing (Liu et al., ICML 2023), smoothing, new noise,
projection, learned purification, mixing, colour, adversarial augmentation and adversarial training. The best score
per protector among them is the protection that a data owner really gets. `all`: every defense of this package."""
