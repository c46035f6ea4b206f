"""UnSeg (Sun et al., NeurIPS 2024, arXiv 2410.09909): a noise generator against segmentation.

A generator made of SAM and a few noise parts is trained in turns with an interactive segmentation network,
once, on any images with masks. It then protects other images, prompted by the union of their objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets.base import Annotation, Dataset
from bench.learner import FitContext
from bench.protect.prompts import ObjectPrompt, Region, mask_annotation
from bench.protector import ImportedState, Protector
from protectors.unseg.checkpoints import RANDOM, obtain
from protectors.unseg.options import UnSegOptions
from protectors.unseg.profiles import PRESETS, completed

__all__ = ["UnSeg", "UnSegOptions"]


class UnSeg(Protector):
    """Noise from a generator that was trained to make segmentation easy on noised images.

    An image without foreground gets no noise.
    """

    name = "unseg"
    learns = True
    shares_fit = True
    deployment_options = frozenset({"deployment_prompt"})
    seeded = False  # the noise follows from state and image; the seed enters by the fit
    summary = "noise generator on SAM, trained in turns with an interactive segmentation network"
    paper = "arXiv 2410.09909"
    Options = UnSegOptions
    presets = PRESETS
    options: UnSegOptions

    @classmethod
    def resolve_options(cls, profile: str, given: dict[str, Any]) -> UnSegOptions:
        """The profile's settings, with those in `given` in their place; a partial geometry is filled up."""
        return completed(cls.preset(profile), given)

    @classmethod
    def import_state(cls, file: Path, given: dict[str, Any]) -> ImportedState:
        """Converts a generator that the authors released; see `protectors.unseg.weights.convert`."""
        from protectors.unseg.weights import convert

        return convert(file, given)

    @classmethod
    def find_state(cls, reference: str) -> Path:
        """The folder of a trained generator; see `protectors.unseg.weights.resolve_generator`."""
        from protectors.unseg.weights import resolve_generator

        return resolve_generator(reference)

    @property
    def trains(self) -> bool:
        """Whether a generator is trained. It is not where `weights` name one."""
        return self.options.weights is None

    def noise_grid(self, height: int, width: int) -> int:
        """Cells of the generator's output along the longer side, at most one per pixel."""
        return min(self.options.generator.output_size, max(height, width))

    def prepare(self, report: Callable[[int, int, str], None]) -> None:
        """Downloads the pretrained weights that the options name and the user's cache does not hold."""
        for reference in (self.options.generator_init, self.options.surrogate_init):
            if reference != RANDOM:
                obtain(reference, report)

    def fit(self, datasets: Sequence[Dataset], context: FitContext) -> None:
        """Trains the generator, or puts the one that `weights` name into place.

        Pretrained weights that are not in the user's cache are downloaded first. See
        `protectors.unseg.training.fit`.
        """
        if self.options.weights is not None:
            from protectors.unseg.weights import place_state

            place_state(self.options.weights, context.state_dir)
            return
        self.prepare(context.report)
        from protectors.unseg.training import fit

        fit(datasets, self.options, context)

    def load(self, state_dir: Path, device: str) -> Any:
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

        return deployed_noise(state, image, annotation.foreground, self.options.deployment_prompt)

    def noise_batch(
        self,
        images: Sequence[np.ndarray],
        annotations: Sequence[Annotation],
        rngs: Sequence[np.random.Generator],
        state: Any,
        run_seed: int,
    ) -> Iterator[np.ndarray]:
        """The generator's noise for images that it sees together; see `protectors.unseg.deploy.batch_noise`."""
        from protectors.unseg.deploy import batch_noise

        foregrounds = [annotation.foreground for annotation in annotations]
        return batch_noise(state, images, foregrounds, self.options.deployment_prompt)

    def predicts_regions(self, state: Any) -> bool:
        """Whether the generator's SAM came with a trained mask decoder."""
        return state.segments

    def prompted_noise(
        self,
        image: np.ndarray,
        objects: Sequence[ObjectPrompt],
        region: Region,
        rng: np.random.Generator,
        state: Any,
        run_seed: int,
    ) -> tuple[np.ndarray, Annotation]:
        """Noise by boxes and points, the image encoded once; see `protectors.unseg.deploy`."""
        from protectors.unseg.deploy import prompted_noise

        noise, protected = prompted_noise(state, image, objects, region)
        return noise, mask_annotation(protected)
