"""`ddc_at`: adversarial training with dynamic divide-and-conquer (Xu et al., ICCV 2021, arXiv 2003.06555).

A second head and a mask head are trained beside the victim's. Pixels of clean images whose prediction changes under
attack are told to the mask head, which then sends them to the second head; adversarial pixels stay with the first, the
one that predicts in the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.defense import Defense, DefenseOptions
from defenses.at import AdversarialOptions

if TYPE_CHECKING:
    from bench.training.procedure import Procedure


class DivideAndConquerTraining(Defense):
    """DDC-AT, with the attack of its authors' code as default; for per-pixel victims."""

    name: ClassVar[str] = "ddc_at"
    summary: ClassVar[str] = (
        "DDC-AT: adversarial training with a second head for unstable pixels, per-pixel victims"
    )
    paper: ClassVar[str] = "Xu et al., ICCV 2021, arXiv 2003.06555"
    per_pixel: ClassVar[bool] = True
    clean_drop: ClassVar[float | None] = 47.0
    time_factor: ClassVar[float] = 6.0
    Options: ClassVar[type[DefenseOptions]] = AdversarialOptions
    options: AdversarialOptions

    def procedure(self) -> Procedure:
        """The training step; see `defenses.ddc_at_procedure`."""
        from defenses.ddc_at_procedure import DivideAndConquer

        return DivideAndConquer(**self.options.attack())
