"""UnSeg (Sun et al., NeurIPS 2024, arXiv 2410.09909): a noise generator against segmentation.

A generator made of SAM and a few noise parts is trained in turns with an interactive segmentation network,
once, on any images with masks. It then protects other images, prompted by the union of their objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.datasets.base import Annotation, Dataset
from bench.protector import FitContext, Protector
from protectors.unseg.options import UnSegOptions
from protectors.unseg.profiles import profile_options

__all__ = ["UnSeg", "UnSegOptions"]


class UnSeg(Protector):
    """Noise from a generator that was trained to make segmentation easy on noised images.

    An image without foreground gets no noise.
    """

    name = "unseg"
    learns = True
    seeded = False  # the noise follows from state and image; the seed enters by the fit
    summary = "noise generator on SAM, trained in turns with an interactive segmentation network"
    paper = "arXiv 2410.09909"
    Options = UnSegOptions
    options: UnSegOptions

    @classmethod
    def resolve_options(cls, profile: str, given: dict[str, Any]) -> UnSegOptions:
        """The profile's settings, with those in `given` in their place; a partial geometry is filled up."""
        return profile_options(profile, given)

    def noise_grid(self, height: int, width: int) -> int:
        """Cells of the generator's output along the longer side, at most one per pixel."""
        return min(self.options.generator.output_size, max(height, width))

    def fit(self, datasets: Sequence[Dataset], context: FitContext) -> None:
        """Trains the generator; see `protectors.unseg.training.fit`."""
        from protectors.unseg.training import fit

        fit(datasets, self.options, context)

    def load(self, state_dir: Any, device: str) -> Any:
        """The trained `protectors.unseg.generator.NoiseSam`, ready for `noise`."""
        from protectors.unseg.deploy import load_generator

        return load_generator(state_dir, device)

    def noise(
        self,
        image: np.ndarray,
        annotation: Annotation,
        rng: np.random.Generator,
        state: Any,
        run_seed: int,
    ) -> np.ndarray:
        """The generator's noise for one image, in [-1, 1]; it draws nothing from `rng` or `run_seed`."""
        from protectors.unseg.deploy import deployed_noise

        return deployed_noise(state, image, annotation.foreground)
