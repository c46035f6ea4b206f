"""One protected file: encoded, written, decoded from disk again, checked and measured.

This is the only place where a protected image is written, whatever it comes from.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.budget import Budget
from bench.datasets import imageio
from bench.datasets.base import Annotation
from bench.errors import BudgetViolation, ContractViolation
from bench.metrics import quality
from bench.protector import Protector
from bench.spec import Codec

SUFFIXES: dict[Codec, str] = {"png": ".png", "jpeg95": ".jpg"}

Row = dict[str, Any]
"""A line of the manifest."""


@dataclass(frozen=True)
class Extras:
    """What of a source file besides its colours goes into the protected file.

    Attributes:
        alpha: `(H, W)` uint8, kept as it is; only PNG can hold it.
        colour_profile: ICC profile, without which some photographs would be shown in other colours.
    """

    alpha: np.ndarray | None = None
    colour_profile: bytes | None = None


def checksum(image: np.ndarray) -> int:
    """Tells whether an image was changed in place."""
    return zlib.crc32(np.ascontiguousarray(image))


def check_protected(name: str, image_id: str, image: np.ndarray, before: int, protected: Any) -> None:
    """Checks what a protector made of an image.

    Args:
        name: Name of the protector.
        image_id: Name of the image.
        image: `(H, W, 3)` uint8 source.
        before: Its `checksum` before the protector saw it.
        protected: The result.

    Raises:
        ContractViolation: It is no uint8 array of the same shape, or the source was changed.
    """
    if not isinstance(protected, np.ndarray) or protected.dtype != np.uint8:
        raise ContractViolation(f"protector {name!r} returned no uint8 array for image {image_id!r}")
    if protected.shape != image.shape:
        raise ContractViolation(
            f"protector {name!r} returned shape {protected.shape} for image {image_id!r} of {image.shape}"
        )
    if checksum(image) != before:
        raise ContractViolation(f"protector {name!r} changed its input in place (image {image_id!r})")


def write_protected(
    protector: Protector,
    image_id: str,
    image: np.ndarray,
    protected: np.ndarray,
    annotation: Annotation,
    budget: Budget,
    codec: Codec,
    target: Path,
    extras: Extras | None = None,
    quick: bool = False,
) -> Row:
    """Writes a protected image; a file appears under its name only after it has passed its check.

    Neither the file nor the folder is synced: after a power cut a file may be damaged, which its hash in the
    manifest shows.

    Args:
        protector: Who made it.
        image_id: Name of the image.
        image: `(H, W, 3)` uint8 source.
        protected: `(H, W, 3)` uint8.
        annotation: Its `foreground` is what the budget goes by.
        budget: The budget.
        codec: How to store it.
        target: The file, with the suffix of the codec.
        extras: What else the file holds.
        quick: See `encode`.

    Returns:
        `image`, `file` (the name of `target`), `sha256`, `over_budget_levels`, and what
        `quality.compare` gives for the decoded file.

    Raises:
        BudgetViolation: The decoded file exceeds the budget, though the codec is lossless and the protector
            does not declare itself unbounded.
        OSError: It cannot be written.
    """
    digest = hashlib.sha256(target.name.encode()).hexdigest()[
        :16
    ]  # a name may have all bytes a name can have
    temporary = target.with_name(f".{digest}.part")
    try:
        encode(temporary, protected, codec, extras or Extras(), quick)
        decoded = imageio.read_rgb(temporary)
        measured = quality.compare(image, decoded, annotation.foreground)
        over = excess_levels(measured, budget)
        if over > 0 and protector.bounded and codec == "png":
            raise BudgetViolation(
                f"protector {protector.name!r} exceeds its budget by {over} levels on image {image_id!r}"
            )
        row = {
            "image": image_id,
            "file": target.name,
            "sha256": file_sha256(temporary),
            "over_budget_levels": max(over, 0),
            **measured,
        }
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return row


def encode(path: Path, pixels: np.ndarray, codec: Codec, extras: Extras, quick: bool = False) -> None:
    """Writes `(H, W, 3)` uint8 as `imageio.write_png` and `write_jpeg95` do, with what else the file holds.

    `quick` takes zlib's run-length strategy for PNG. Noise leaves longer matches nothing to find: half the time,
    and on photographs two percent more bytes.
    """
    if extras.alpha is not None and codec == "png":
        pixels = np.dstack([pixels, extras.alpha])
    image = Image.fromarray(pixels)
    profile = {"icc_profile": extras.colour_profile} if extras.colour_profile else {}
    if codec == "png":
        strategy = {"compress_type": zlib.Z_RLE} if quick else {}
        image.save(path, "PNG", compress_level=imageio.PNG_LEVEL, **strategy, **profile)
    else:
        image.save(path, "JPEG", quality=imageio.JPEG_QUALITY, subsampling="4:2:0", **profile)


def excess_levels(measured: Row, budget: Budget) -> int:
    """By how many levels the worst pixel inside or outside the mask exceeds its budget; 0 or less: within.

    The same as `bench.budget.excess`, from what was measured already: within either region the budget is one
    number.
    """
    inside, outside = np.floor(budget.levels(np.array([[True, False]])))[0]
    return int(max(measured["linf_foreground"] - inside, measured["linf_background"] - outside))


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
