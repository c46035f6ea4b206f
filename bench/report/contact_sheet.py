"""A picture of what a protection does: clean image, protected image, noise, one row per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 192
GAP = 4
NOISE_RANGE = 8
"""Levels of noise that are drawn as full swing, around middle grey."""


def write_contact_sheet(pairs: Sequence[tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Draws rows of (clean, protected, noise amplified to the whole range) and saves them as PNG.

    Args:
        pairs: `(H, W, 3)` uint8 clean and protected images, as decoded from disk.
        path: Where to write.
    """
    rows = []
    for clean, protected in pairs:
        noise = protected.astype(np.float32) - clean.astype(np.float32)
        amplified = np.clip(127.5 + noise * (127.5 / NOISE_RANGE), 0, 255).astype(np.uint8)
        rows.append(np.concatenate([_tile(image) for image in (clean, protected, amplified)], axis=1))
    Image.fromarray(np.concatenate(rows, axis=0)).save(path, "PNG")


def _tile(image: np.ndarray) -> np.ndarray:
    """The image scaled by whole numbers where it is small, so that noise stays visible pixel by pixel."""
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= TILE:
        factor = TILE // longest
        shape = (width * factor, height * factor)
        resample = Image.Resampling.NEAREST
    else:
        shape = (max(1, width * TILE // longest), max(1, height * TILE // longest))
        resample = Image.Resampling.BOX
    tile = np.full((TILE + GAP, TILE + GAP, 3), 255, np.uint8)
    pixels = np.asarray(Image.fromarray(image).resize(shape, resample))
    tile[: pixels.shape[0], : pixels.shape[1]] = pixels
    return tile
