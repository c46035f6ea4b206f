"""The contract of a protector: what a data owner does to the training images."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from bench.budget import Budget, add_noise
from bench.datasets.base import Annotation, Dataset


class ProtectorOptions(BaseModel):
    """Base of a protector's options. Every field is part of the key."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class FitContext:
    """What a learning protector is given besides data.

    Attributes:
        work_dir: Survives an interruption: checkpoints go here, and `fit` goes on from what it finds.
        state_dir: The finished state is written here; `load` reads it.
        seed: Seed of this stage.
        device: torch device string.
        report: Called as `report(done, total, note)`, for the progress line.
    """

    work_dir: Path
    state_dir: Path
    seed: int
    device: str
    report: Callable[[int, int, str], None] = field(default=lambda done, total, note: None)


class Protector(ABC):
    """Turns training images into protected ones.

    A protector that needs no training implements `noise` (or `protect`, if it is not additive). One that
    learns sets `learns = True` and implements `fit` and `load` too.

    Attributes:
        name: Registered name.
        version: Raised whenever outputs change for the same options; part of the key.
        learns: Whether `fit` has to run first.
        seeded: False if the seed changes nothing, so that all seeds share one protected dataset.
        bounded: False for methods without an L-infinity bound; their files are measured, not refused.
        summary: One line for `bench ls`.
        paper: Where the method comes from; empty for controls.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    learns: ClassVar[bool] = False
    seeded: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    Options: ClassVar[type[ProtectorOptions]] = ProtectorOptions

    def __init__(self, options: ProtectorOptions | None = None) -> None:
        self.options = options or self.Options()

    @classmethod
    def resolve_options(cls, profile: str, given: dict[str, Any]) -> ProtectorOptions:
        """Fills in what the user left open, by profile. The result is what enters the key."""
        return cls.Options(**given)

    def noise_grid(self, height: int, width: int) -> int:
        """Independent noise cells along the longer side of an `(height, width)` image.

        The random controls beside this protector are drawn on the same grid, so that a row is compared
        with noise of its own grain.
        """
        return max(height, width)

    def fit(self, datasets: Sequence[Dataset], context: FitContext) -> None:
        """Learns from the train splits of `datasets` and writes the state to `context.state_dir`.

        Only called when `learns`.
        """
        raise NotImplementedError

    def load(self, state_dir: Path, device: str) -> Any:
        """Reads what `fit` wrote. Only called when `learns`."""
        return None

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
        return add_noise(image, noise, budget.levels(annotation.foreground))
