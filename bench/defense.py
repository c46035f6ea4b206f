"""The contract of a defense (a countermeasure): what an attacker does to learn from protected images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from bench.datasets.base import Annotation
from bench.learner import Learner
from bench.plugin import PluginOptions

if TYPE_CHECKING:
    from bench.training.procedure import Procedure
    from bench.victim import Victim


LONGER = 1.5
"""From this multiple of the plain training's time on, time is a need worth a word."""


SCORING_OPTIONS = frozenset({"apply_to"})
"""Options that are read when a victim is scored and not when it is trained: no part of the training's key."""


class DefenseOptions(PluginOptions):
    """Base of a defense's options. Every field is part of the key."""


class PreprocessingOptions(DefenseOptions):
    """Base of the options of defenses that change every image in one way, which a network can begin with.

    Attributes:
        apply_to: `train`: the training images alone, as the papers do; `both`: the victim sees test images through
            it as well. The training is the same.
    """

    ADDED: ClassVar[frozenset[str]] = SCORING_OPTIONS

    apply_to: Literal["train", "both"] = "train"


Other = Callable[[], tuple[np.ndarray, Annotation]]
"""Draws another training image with its labels: `(H, W, 3)` uint8 RGB, as it lies on the disk."""


class Defense(Learner):
    """A transform of the training image, or a training procedure, or both.

    A defense is never told which protector was used. One that `learns` does so from images that are not the
    data owner's, before it sees any of his.

    Attributes, besides those of `Learner`:
        clean_drop: What it may cost on clean data with its default options: points (0 to 100) of the score of
            UNet++ or of DeepLabV3, whichever loses more, on `shapes` at profile `cpu`, rounded up. None: not measured.
        time_factor: What it may cost in time: seconds of a training iteration as a multiple of the plain one's.
        per_pixel: Whether it needs a victim that classifies each pixel; see `Victim.per_pixel`.
        needs_clean: Whether the attacker needs clean images with labels for it.
        held_out: Share of the training images that the attacker has clean and holds out, to choose the weights that
            do best on them; 0: the last weights are taken, and nothing is held out.
        checks: How many weights, evenly spread over the training, are compared on what is held out.
    """

    deployment_options: ClassVar[frozenset[str]] = SCORING_OPTIONS
    clean_drop: ClassVar[float | None] = None
    time_factor: ClassVar[float] = 1.0
    per_pixel: ClassVar[bool] = False
    needs_clean: ClassVar[bool] = False
    held_out: float = 0.0
    checks: int = 0
    Options: ClassVar[type[DefenseOptions]] = DefenseOptions

    @classmethod
    def needs(cls) -> str:
        """What an attacker needs besides the protected images, and how much longer the training may take.

        Empty for nothing worth a word.
        """
        wanted = [
            *(["clean images with labels"] if cls.needs_clean else []),
            *(["clean images of others"] if cls.learns else []),
            *([f"up to {cls.time_factor:g} times the time"] if cls.time_factor >= LONGER else []),
        ]
        return ", ".join(wanted)

    @property
    def tests_too(self) -> bool:
        """Whether test images are changed as well, by `purify` and `transform`; see `PreprocessingOptions`."""
        return getattr(self.options, "apply_to", "train") == "both"

    @property
    def purifies(self) -> bool:
        """Whether `purify` is overridden."""
        return type(self).purify is not Defense.purify

    @property
    def adapts(self) -> bool:
        """Whether `adapt` is overridden."""
        return type(self).adapt is not Defense.adapt

    def purify(self, image: np.ndarray, state: Any, rng: np.random.Generator) -> np.ndarray:
        """Cleans a training image, once and for all, before the training: for what is too slow for every draw.

        Args:
            image: `(H, W, 3)` uint8 RGB, as it lies on the disk. Must not be changed.
            state: What `load` returned; None for a defense that does not learn.
            rng: Seeded by (seed, image id).

        Returns:
            `(H, W, 3)` uint8.
        """
        return image

    def adapt(self, samples: Iterable[tuple[np.ndarray, Annotation]]) -> Defense:
        """Adapts to the training images that the attacker has, before the training; most have nothing to adapt.

        Args:
            samples: Images `(H, W, 3)` uint8 RGB with their labels, purified, in the dataset's order.

        Returns:
            The defense to use, which must be picklable. Deterministic: it is called again after an interruption.
        """
        return self

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changes a training image after it is loaded and before any augmentation.

        Args:
            image: `(H, W, 3)` uint8 RGB. Must not be changed.
            rng: Seeded by (seed, image id, draw).

        Returns:
            `(H, W, 3)` uint8.
        """
        return image

    def transform_sample(
        self, image: np.ndarray, annotation: Annotation, rng: np.random.Generator, other: Other
    ) -> tuple[np.ndarray, Annotation]:
        """Changes a training image together with its labels; `transform` for those that leave labels alone.

        Args:
            image: As for `transform`.
            annotation: Its labels. Must not be changed.
            rng: As for `transform`.
            other: Draws another training image, for methods that mix two.

        Returns:
            Image and labels, of the size of `image`.
        """
        return self.transform(image, rng), annotation

    def procedure(self) -> Procedure | None:
        """How a training step goes, for defenses that change more than the images; None: as the victim has it."""
        return None

    def refusal(self, victim: Victim, task: str) -> str | None:
        """Why this defense cannot be combined with a victim: the cell is then skipped with that reason.

        Args:
            victim: The victim with its options.
            task: What it is trained for.

        Returns:
            The reason; None if it can.
        """
        if self.per_pixel and not victim.per_pixel:
            return f"{self.name} needs a victim that classifies each pixel, and {victim.name} does not"
        return None
