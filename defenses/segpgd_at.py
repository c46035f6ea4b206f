"""`segpgd_at`: adversarial training against SegPGD (Gu et al., ECCV 2022), for per-pixel victims.

SegPGD weighs the loss of pixels that are classified rightly by 1 - l and of the others by l, where
l = t / (2 T) at step t = 0 ... T - 1: first it turns pixels over, then it moves all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.defense import Defense, DefenseOptions
from defenses.at import AdversarialOptions

if TYPE_CHECKING:
    from bench.training.procedure import Procedure


class SegPGDTraining(Defense):
    """Adversarial training whose attack is SegPGD."""

    name: ClassVar[str] = "segpgd_at"
    summary: ClassVar[str] = "adversarial training with SegPGD, per-pixel victims"
    paper: ClassVar[str] = "Gu et al., ECCV 2022, arXiv 2207.12391"
    per_pixel: ClassVar[bool] = True
    clean_drop: ClassVar[float | None] = 47.0
    time_factor: ClassVar[float] = 5.0
    Options: ClassVar[type[DefenseOptions]] = AdversarialOptions
    options: AdversarialOptions

    def procedure(self) -> Procedure:
        """The training step; see `defenses.segpgd_at_procedure`."""
        from defenses.segpgd_at_procedure import HalfSegPGD

        return HalfSegPGD(**self.options.attack())
