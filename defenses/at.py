"""`at`: adversarial training, half of each batch clean and half adversarial (Madry et al., ICLR 2018).

The defaults are those of the code that table 4 of the UnSeg paper points to (standard adversarial training beside
DDC-AT, Xu et al., ICCV 2021): radius 0.03 of the range, three steps of a third of it, no random start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bench.defense import Defense, DefenseOptions

if TYPE_CHECKING:
    from bench.training.procedure import Procedure


class AdversarialOptions(DefenseOptions):
    """Strength of the attack; every field is in the record.

    Attributes:
        epsilon: Radius of the L-infinity ball, in levels of 255.
        steps: Steps of gradient ascent.
        step_size: Levels of a step; None: `epsilon / steps`.
        random_start: Whether the attack starts at a random point of the ball.
    """

    epsilon: float = Field(default=7.65, gt=0, le=255)
    steps: int = Field(default=3, ge=1, le=100)
    step_size: float | None = Field(default=None, gt=0, le=255)
    random_start: bool = False

    def attack(self) -> dict[str, Any]:
        """The fields of a `bench.training.attack.Attack`."""
        return {
            "epsilon": self.epsilon,
            "steps": self.steps,
            "step_size": self.epsilon / self.steps if self.step_size is None else self.step_size,
            "random_start": self.random_start,
        }


class AdversarialTraining(Defense):
    """Trains on clean images and on adversarial ones of the victim's own loss, half and half.

    For every victim whose loss reaches the image: semantic, panoptic, instance, detection, interactive.
    """

    name: ClassVar[str] = "at"
    summary: ClassVar[str] = (
        "adversarial training: half of each batch adversarial, PGD on the victim's own loss"
    )
    paper: ClassVar[str] = "Madry et al., ICLR 2018, arXiv 1706.06083"
    clean_drop: ClassVar[float | None] = 49.0
    time_factor: ClassVar[float] = 5.0
    Options: ClassVar[type[DefenseOptions]] = AdversarialOptions
    options: AdversarialOptions

    def procedure(self) -> Procedure:
        """The training step; see `defenses.at_procedure`."""
        from defenses.at_procedure import HalfAdversarial

        return HalfAdversarial(**self.options.attack())
