"""`none`: the attacker trains on what was published."""

from __future__ import annotations

from typing import ClassVar

from bench.defense import Defense


class NoDefense(Defense):
    """No countermeasure."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "no countermeasure"
    clean_drop: ClassVar[float | None] = 0.0
