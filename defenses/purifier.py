"""`purifier`: a denoiser that is trained on clean images of others cleans the training images before the training.

As AVATAR (Dolatabadi et al., SaTML 2024) with its diffusion model: Gaussian noise that is stronger than any
protection drowns it, and what was learned from clean images brings the image back. Here this is one step in place
of sixty, which Salman et al. call denoised smoothing (NeurIPS 2020), by a residual network of the shape of IRCNN's
denoiser (Zhang et al., CVPR 2017), small enough to be trained beside every experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from bench.defense import Defense, DefenseOptions, PreprocessingOptions
from bench.learner import FitContext

if TYPE_CHECKING:
    from bench.datasets.base import Dataset

PRESETS: dict[str, dict[str, Any]] = {
    "ci": {"width": 8, "iterations": 30},
    "cpu": {},
    "gpu": {"width": 64, "iterations": 20_000, "batch_size": 64, "patch": 64},
    "paper": {"width": 64, "iterations": 100_000, "batch_size": 64, "patch": 64},
}


class PurifierOptions(PreprocessingOptions):
    """Options of `purifier`.

    Attributes:
        sigma: Standard deviation of the Gaussian noise that is added and taken away, in levels (0 to 255).
        width: Channels of the hidden layers.
        iterations: Training steps.
        batch_size: Patches of a step.
        patch: Side of a patch in pixels.
        learning_rate: Adam's first one; it falls to 0 along a half cosine.
    """

    sigma: float = Field(default=16.0, gt=0, le=255, allow_inf_nan=False)
    width: int = Field(default=24, ge=1, le=512)
    iterations: int = Field(default=3000, ge=1)
    batch_size: int = Field(default=8, ge=2)
    patch: int = Field(default=32, ge=8, le=1024)
    learning_rate: float = Field(default=5e-3, gt=0, le=1)


class Purifier(Defense):
    """Trains a denoiser on clean images, and replaces every training image by what it makes of it under new noise."""

    name: ClassVar[str] = "purifier"
    summary: ClassVar[str] = "a denoiser that learned on clean images of others cleans the training images"
    paper: ClassVar[str] = "after Dolatabadi et al., The Devil's Advocate, SaTML 2024, arXiv 2303.08500"
    clean_drop: ClassVar[float | None] = 13.0
    learns: ClassVar[bool] = True
    Options: ClassVar[type[DefenseOptions]] = PurifierOptions
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS
    options: PurifierOptions

    def fit(self, datasets: Sequence[Dataset], context: FitContext) -> None:
        """Trains the denoiser; see `defenses.purifier_network.fit`."""
        from defenses.purifier_network import fit

        fit(datasets, self.options, context)

    def load(self, state_dir: Path, device: str) -> Any:
        """The trained `defenses.purifier_network.Denoiser`."""
        from defenses.purifier_network import load

        return load(self.options, state_dir, device)

    def purify(self, image: np.ndarray, state: Any, rng: np.random.Generator) -> np.ndarray:
        """The image with noise added and taken away again, `(H, W, 3)` uint8."""
        from defenses.purifier_network import denoise

        return denoise(state, image + rng.normal(0, self.options.sigma, image.shape))
