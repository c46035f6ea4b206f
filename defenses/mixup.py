"""`mixup`: training images are blended with one another (Zhang et al., ICLR 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bench.defense import Defense, DefenseOptions

if TYPE_CHECKING:
    from bench.training.procedure import Procedure


class MixupOptions(DefenseOptions):
    """Options of `mixup`.

    Attributes:
        alpha: The share of the first image is drawn from Beta(alpha, alpha), once a batch.
    """

    alpha: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class Mixup(Defense):
    """Blends each image of a batch with another one of it.

    Masks are not blended, which no loss over instances could use: the victim's losses for both labels are, with the
    shares of the images. So it goes with every victim.
    """

    name: ClassVar[str] = "mixup"
    summary: ClassVar[str] = "training images blended in pairs, and the losses for both labels with them"
    paper: ClassVar[str] = "Zhang et al., ICLR 2018, arXiv 1710.09412"
    clean_drop: ClassVar[float | None] = 10.0
    time_factor: ClassVar[float] = 2.2
    Options: ClassVar[type[DefenseOptions]] = MixupOptions
    options: MixupOptions

    def procedure(self) -> Procedure:
        """The training step; see `defenses.mixup_procedure`."""
        from defenses.mixup_procedure import MixupStep

        return MixupStep(self.options.alpha)
