"""`early_stop`: the weights that do best on a few clean images that the attacker labelled by hand."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bench.defense import Defense, DefenseOptions


class EarlyStopOptions(DefenseOptions):
    """Options of `early_stop`.

    Attributes:
        share: Share of the training images that the attacker has clean; they are not trained on.
        checks: Weights that are compared, evenly spread over the training.
    """

    share: float = Field(default=0.05, gt=0, lt=1)
    checks: int = Field(default=10, ge=2, le=1000)


class EarlyStop(Defense):
    """Trains as ever, without the images that are held out, and takes the weights that do best on those.

    A victim may see the objects before it sees the noise. Test images choose nothing.
    """

    name: ClassVar[str] = "early_stop"
    summary: ClassVar[str] = "the weights that do best on a few clean training images, which are held out"
    clean_drop: ClassVar[float | None] = 1.0
    time_factor: ClassVar[float] = 1.1
    needs_clean: ClassVar[bool] = True
    Options: ClassVar[type[DefenseOptions]] = EarlyStopOptions
    options: EarlyStopOptions

    @property
    def held_out(self) -> float:  # type: ignore[override]
        """Share of the training images that are clean and held out."""
        return self.options.share

    @property
    def checks(self) -> int:  # type: ignore[override]
        """Weights that are compared."""
        return self.options.checks
