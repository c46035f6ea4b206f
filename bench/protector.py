"""The contract of a protector: what a data owner does to the training images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.budget import Budget, add_noise
from bench.datasets.base import Annotation
from bench.errors import ContractViolation, UsageError
from bench.learner import Learner
from bench.plugin import PluginOptions
from bench.protect.prompts import ObjectPrompt, Region, given_region, mask_annotation

BAND_PIXELS = 1 << 16
"""Pixels of a band of rows in which noise is added: a photograph's worth of temporaries is never held."""


class ProtectorOptions(PluginOptions):
    """Base of a protector's options. Every field is part of the key."""


@dataclass(frozen=True)
class ImportedState:
    """A state that was not trained here, in the user's cache.

    Attributes:
        state_dir: Where it lies, as `fit` would have left it.
        reference: What names it wherever a state can be named: `sha256:<hex>`.
        options: Options with which the protector uses it.
        notes: What it is, in lines for people.
    """

    state_dir: Path
    reference: str
    options: dict[str, Any]
    notes: tuple[str, ...] = ()


class Protector(Learner):
    """Turns training images into protected ones.

    A protector that needs no training implements `noise` (or `protect`, if it is not additive). One that
    learns sets `learns = True` and implements `fit` and `load` too.

    Attributes, besides those of `Learner`:
        seeded: False if the seed changes nothing, so that all seeds share one protected dataset.
        bounded: False for methods without an L-infinity bound; their files are measured, not refused.
    """

    seeded: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    Options: ClassVar[type[ProtectorOptions]] = ProtectorOptions

    @classmethod
    def import_state(cls, file: Path, given: dict[str, Any]) -> ImportedState:
        """Converts what the method's authors released to a state, and puts it into the user's cache.

        Args:
            file: What they released.
            given: Options that say what it is.
        """
        raise UsageError(f"protector {cls.name!r} cannot use released weights")

    @classmethod
    def find_state(cls, reference: str) -> Path:
        """The folder of a finished state that a user names: the folder itself, or a `fit` stage around it.

        Raises:
            UsageError: There is no such folder.
        """
        folder = Path(reference).expanduser()
        if not folder.is_dir():
            raise UsageError(
                f"no state of protector {cls.name!r} at {reference}: name a folder, as bench fit does"
            )
        return folder / "state" if (folder / "state").is_dir() else folder

    def noise_grid(self, height: int, width: int) -> int:
        """Independent noise cells along the longer side of an `(height, width)` image.

        The random controls beside this protector are drawn on the same grid, so that a row is compared
        with noise of its own grain.
        """
        return max(height, width)

    def noise(
        self,
        image: np.ndarray,
        annotation: Annotation,
        rng: np.random.Generator,
        state: Any,
        run_seed: int,
    ) -> np.ndarray:
        """The noise in units of the budget.

        Args:
            image: `(H, W, 3)` uint8 RGB. Must not be changed.
            annotation: The labels of the image.
            rng: Seeded by (seed, protector, image id), for what is drawn anew for each image.
            state: What `load` returned.
            run_seed: The same for all images of a run, for what they share, such as one pattern per class:
                `bench.seeds.generator(run_seed, ...)`. `rng` and this are the only sources of randomness.

        Returns:
            `(H, W, 3)` float in [-1, 1].
        """
        raise NotImplementedError

    def noise_batch(
        self,
        images: Sequence[np.ndarray],
        annotations: Sequence[Annotation],
        rngs: Sequence[np.random.Generator],
        state: Any,
        run_seed: int,
    ) -> Iterator[np.ndarray]:
        """The noise of several images, one after the other; arguments as for `noise`, one per image.

        A network overrides this to see the images together. The result is taken one by one, so that the
        noise of a single image at full size is held at a time.
        """
        for image, annotation, rng in zip(images, annotations, rngs, strict=True):
            yield self.noise(image, annotation, rng, state, run_seed)

    def predicts_regions(self, state: Any) -> bool:
        """Whether `prompted_noise` can do the region `predicted`."""
        return False

    def prompted_noise(
        self,
        image: np.ndarray,
        objects: Sequence[ObjectPrompt],
        region: Region,
        rng: np.random.Generator,
        state: Any,
        run_seed: int,
    ) -> tuple[np.ndarray, Annotation]:
        """The noise of an image whose objects are pointed at, for use without a mask.

        A protector that knows nothing of prompts, which is what this is for, takes the region as a mask.

        Args:
            image: As for `noise`.
            objects: At least one.
            region: What becomes the protected region; see `bench.protect.prompts`.
            rng: As for `noise`.
            state: As for `noise`.
            run_seed: As for `noise`.

        Returns:
            The noise as from `noise`, and the region as an annotation: its `foreground` is what the budget
            goes by.

        Raises:
            SpecError: `region` is `predicted`, and this protector predicts none.
            DatasetError: A prompt lies outside the image.
        """
        annotation = mask_annotation(given_region(*image.shape[:2], objects, region))
        return self.noise(image, annotation, rng, state, run_seed), annotation

    @property
    def is_additive(self) -> bool:
        """Whether the protected image is the image plus `noise` within the budget: `protect` is not overridden."""
        return type(self).protect is Protector.protect

    def protect(
        self,
        image: np.ndarray,
        annotation: Annotation,
        budget: Budget,
        rng: np.random.Generator,
        state: Any,
        run_seed: int,
    ) -> np.ndarray:
        """The protected image, `(H, W, 3)` uint8. Arguments as for `noise`."""
        noise = self.noise(image, annotation, rng, state, run_seed)
        return within_budget(image, noise, budget, annotation.foreground)


def within_budget(image: np.ndarray, noise: np.ndarray, budget: Budget, foreground: np.ndarray) -> np.ndarray:
    """`bench.budget.add_noise` under a budget, in bands of rows.

    Args:
        image: `(H, W, 3)` uint8.
        noise: `(H, W, 3)` float in units of the budget.
        budget: The budget.
        foreground: `(H, W)` bool, where `epsilon` applies.

    Returns:
        `(H, W, 3)` uint8.

    Raises:
        ContractViolation: The noise has another shape than the image, or is not finite.
    """
    if noise.shape != image.shape:
        raise ContractViolation(f"noise of shape {noise.shape} for an image of shape {image.shape}")
    protected = np.empty(image.shape, np.uint8)
    count = max(1, BAND_PIXELS // image.shape[1])
    for start in range(0, len(image), count):
        rows = slice(start, start + count)
        protected[rows] = add_noise(image[rows], noise[rows], budget.levels(foreground[rows]))
    return protected
