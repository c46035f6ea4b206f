"""The noise budget: how far a protected pixel may lie from its source, in integer levels of 255."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from bench.errors import ContractViolation

BudgetKind = Literal["mask", "uniform"]


class Budget(BaseModel):
    """The L-infinity budget of a protection, in levels (8.0 is the field's 8/255).

    Attributes:
        kind: `mask`: `epsilon` on the protected mask, `epsilon_background` elsewhere (UnSeg);
            `uniform`: `epsilon` everywhere.
        epsilon: Levels in [0, 255] inside the mask.
        epsilon_background: Levels in [0, 255] outside.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: BudgetKind = "mask"
    epsilon: float = Field(default=8.0, ge=0, le=255)
    epsilon_background: float = Field(default=2.0, ge=0, le=255)

    def levels(self, foreground: np.ndarray) -> np.ndarray:
        """The budget of each pixel.

        Args:
            foreground: `(H, W)` bool, the protected mask.

        Returns:
            `(H, W)` float32 levels.
        """
        if self.kind == "uniform":
            return np.full(foreground.shape, self.epsilon, np.float32)
        return np.where(foreground, self.epsilon, self.epsilon_background).astype(np.float32)


def add_noise(image: np.ndarray, noise: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """x' = round(x + noise * B), kept within B and within [0, 255] after rounding.

    Args:
        image: `(H, W, 3)` uint8.
        noise: `(H, W, 3)` float in [-1, 1]; values outside are clipped.
        levels: `(H, W)` float budget B in levels.

    Returns:
        `(H, W, 3)` uint8 with |x' - x| <= floor(B) in integer levels.

    Raises:
        ContractViolation: The noise has another shape than the image, or is not finite.
    """
    if noise.shape != image.shape:
        raise ContractViolation(f"noise of shape {noise.shape} for an image of shape {image.shape}")
    if not np.isfinite(noise).all():
        raise ContractViolation("the noise holds NaN or infinity")
    limit = np.floor(levels)[..., None]
    delta = np.clip(np.rint(np.clip(noise, -1, 1) * levels[..., None]), -limit, limit)
    return np.clip(image.astype(np.int16) + delta.astype(np.int16), 0, 255).astype(np.uint8)


def excess(image: np.ndarray, protected: np.ndarray, levels: np.ndarray) -> int:
    """By how many integer levels the worst channel value exceeds its budget (0 or less: within).

    Args:
        image: `(H, W, 3)` uint8 source.
        protected: `(H, W, 3)` uint8, as decoded from disk.
        levels: `(H, W)` float budget in levels.

    Raises:
        ContractViolation: The protected image has another shape than its source, or is not uint8.
    """
    if protected.shape != image.shape or protected.dtype != np.uint8:
        raise ContractViolation(
            f"protected image of shape {protected.shape} and type {protected.dtype}, "
            f"its source has {image.shape} and uint8"
        )
    distance = np.abs(protected.astype(np.int16) - image.astype(np.int16)).max(-1)
    return int((distance - np.floor(levels)).max())
