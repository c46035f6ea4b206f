"""A picture of what a protection does: clean image, protected image, noise, one row per image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 192
GAP = 4
NOISE_RANGE = 8
"""Levels of noise that are drawn as full swing, around middle grey."""
BAND_ROWS = 256


def write_contact_sheet(pairs: Iterable[tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Draws rows of (clean, protected, noise amplified to the whole range) and saves them as PNG.

    Args:
        pairs: `(H, W, 3)` uint8 clean and protected images, as decoded from disk. One at a time is held.
        path: Where to write; nothing is written if there are no pairs.
    """
    rows = []
    for clean, protected in pairs:
        tiles = [_tile(image) for image in (clean, protected, amplified_noise(clean, protected))]
        rows.append(np.concatenate(tiles, axis=1))
    if rows:
        Image.fromarray(np.concatenate(rows, axis=0)).save(path, "PNG")


def amplified_noise(clean: np.ndarray, protected: np.ndarray) -> np.ndarray:
    """The difference of two `(H, W, 3)` uint8 images around middle grey, `NOISE_RANGE` levels to full swing."""
    differences = np.arange(-255, 256, dtype=np.float32)
    shade = np.clip(127.5 + differences * (127.5 / NOISE_RANGE), 0, 255).astype(np.uint8)
    result = np.empty_like(clean)
    for start in range(0, len(clean), BAND_ROWS):
        rows = slice(start, start + BAND_ROWS)
        result[rows] = shade[np.subtract(protected[rows], clean[rows], dtype=np.int16) + 255]
    return result


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
