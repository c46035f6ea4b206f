"""`ueraser`: adversarial augmentation (Qin et al., "Learning the Unlearnable", arXiv 2303.15127).

Images are augmented by plasma brightness, plasma contrast, channel shuffle and one colour operation, several times, and
the victim is trained on the version on which its loss is greatest. TrivialAugment's geometry, which the original
has besides, is left to the victim's own augmentation, which moves masks along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.defense import Defense, DefenseOptions
from defenses.plasma import augment

if TYPE_CHECKING:
    from bench.training.procedure import Procedure


class UEraserOptions(DefenseOptions):
    """Options of `ueraser`.

    Attributes:
        variant: `lite`: one version of an image; `standard`: the worst of several for the first `switch` of the
            training, then one; `max`: the worst of several all along.
        draws: Versions among which the worst is chosen.
        switch: Share of the training after which `standard` takes one version; the original switches after 60 epochs.
    """

    variant: Literal["lite", "standard", "max"] = "standard"
    draws: int = Field(default=5, ge=2, le=50)
    switch: float = Field(default=0.3, gt=0, lt=1)


class UEraser(Defense):
    """Trains on the augmentation that is hardest for the victim at that moment."""

    name: ClassVar[str] = "ueraser"
    summary: ClassVar[str] = (
        "adversarial augmentation: plasma, channel shuffle and colour, the worst of several draws"
    )
    paper: ClassVar[str] = "Qin et al., arXiv 2303.15127"
    clean_drop: ClassVar[float | None] = 27.0
    time_factor: ClassVar[float] = 5.0
    Options: ClassVar[type[DefenseOptions]] = UEraserOptions
    options: UEraserOptions

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One augmented version for `lite`; the others are made where the victim's loss is known."""
        return augment(image, rng) if self.options.variant == "lite" else image

    def procedure(self) -> Procedure | None:
        """The training step; see `defenses.ueraser_procedure`. None for `lite`."""
        if self.options.variant == "lite":
            return None
        from defenses.ueraser_procedure import WorstOfDraws

        switch = self.options.switch if self.options.variant == "standard" else 1.0
        return WorstOfDraws(self.options.draws, switch)
