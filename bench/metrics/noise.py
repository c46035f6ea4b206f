"""What the noise of a protection is like: its strength, its spectrum, and how much of it is the same everywhere.

A learned protector is worth more than random noise only by what its noise is. Three numbers tell the cheap
explanations apart: how strong it is on objects and elsewhere (the mask budget is a shortcut by itself), at which
spatial frequencies it lies (low ones survive JPEG, high ones survive grayscale), and which share of it is one
small tile repeated in all images (which needs no training at all).
"""

from __future__ import annotations

from typing import Any

import numpy as np

BANDS = 8
"""Rings of equal width between 0 and half a cycle per pixel; the corners beyond belong to the last."""
TILE_PERIODS = (1, 2, 4, 8)
LARGEST_SIDE = 512
"""Spectra are taken of the central window of this side at most."""


class NoiseStatistics:
    """Gathers the noise of many images, one after the other, in memory that does not grow."""

    def __init__(self) -> None:
        self._images = 0
        self._power = np.zeros(BANDS)
        self._cells = np.zeros(BANDS)
        self._absolute = {"inside": [0.0, 0], "outside": [0.0, 0]}
        self._energy = 0.0
        self._tiles = {p: (np.zeros((p, p, 3)), np.zeros((p, p, 1))) for p in TILE_PERIODS}

    def update(self, clean: np.ndarray, protected: np.ndarray, foreground: np.ndarray) -> None:
        """Adds an image.

        Args:
            clean: `(H, W, 3)` uint8.
            protected: `(H, W, 3)` uint8, as decoded from disk.
            foreground: `(H, W)` bool, the protected mask.
        """
        noise = protected.astype(np.int16) - clean.astype(np.int16)
        self._images += 1
        magnitude = np.abs(noise).sum(axis=-1)
        for name, where in (("inside", foreground), ("outside", ~foreground)):
            self._absolute[name][0] += float(magnitude[where].sum())
            self._absolute[name][1] += 3 * int(where.sum())
        self._add_spectrum(noise)
        inside = np.where(foreground[..., None], noise, 0).astype(np.float64)
        self._energy += float((inside**2).sum())
        for period, (sums, counts) in self._tiles.items():
            for row in range(period):
                for column in range(period):
                    sums[row, column] += inside[row::period, column::period].sum(axis=(0, 1))
                    counts[row, column] += foreground[row::period, column::period].sum()

    def summary(self) -> dict[str, Any]:
        """The statistics of all images so far.

        Returns:
            `mean_abs_inside`, `mean_abs_outside`: levels, None where there is no such pixel.
            `spectrum`: power density in `BANDS` rings from low to high frequency, divided by that of white
            noise of the same power; all ones is white. None where there is no noise.
            `tile_share`: by period p, the share in [0, 1] of the energy inside the mask that is one p x p
            colour tile, aligned with the image's corner and the same in all images; period 1 is one colour.
        """
        total = self._power.sum()
        spectrum = None
        if total > 0:
            spectrum = [round(float(v), 4) for v in (self._power / self._cells) / (total / self._cells.sum())]
        shares = {}
        for period, (sums, counts) in self._tiles.items():
            explained = (sums**2 / np.maximum(counts, 1)).sum()
            shares[str(period)] = round(float(explained / self._energy), 4) if self._energy else None
        means = {
            f"mean_abs_{name}": round(total / count, 4) if count else None
            for name, (total, count) in self._absolute.items()
        }
        return {**means, "spectrum": spectrum, "tile_share": shares}

    def _add_spectrum(self, noise: np.ndarray) -> None:
        height, width = noise.shape[:2]
        if min(height, width) < 2:
            return
        top, left = max(0, height - LARGEST_SIDE) // 2, max(0, width - LARGEST_SIDE) // 2
        window = noise[top : top + LARGEST_SIDE, left : left + LARGEST_SIDE].astype(np.float32)
        power = (np.abs(np.fft.fft2(window, axes=(0, 1), norm="ortho")) ** 2).sum(axis=-1)
        rows, columns = np.fft.fftfreq(window.shape[0]), np.fft.fftfreq(window.shape[1])
        radius = np.hypot(rows[:, None], columns[None, :])
        band = np.minimum((radius * 2 * BANDS).astype(int), BANDS - 1)
        self._power += np.bincount(band.ravel(), weights=power.ravel(), minlength=BANDS)
        self._cells += np.bincount(band.ravel(), minlength=BANDS)
