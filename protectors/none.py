"""`none`: the clean control."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from bench.datasets.base import Annotation
from bench.protector import Protector


class NoProtector(Protector):
    """Leaves every image as it is. What a victim learns from these is what protection is measured against."""

    name: ClassVar[str] = "none"
    seeded: ClassVar[bool] = False
    summary: ClassVar[str] = "the clean control: images as they are"

    def noise(
        self,
        image: np.ndarray,
        annotation: Annotation,
        rng: np.random.Generator,
        state: Any,
        run_seed: int,
    ) -> np.ndarray:
        """No noise."""
        return np.zeros(image.shape, np.float32)
