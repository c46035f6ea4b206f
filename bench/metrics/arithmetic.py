"""Fractions that may be undefined: NaN inside arrays, None in everything that leaves this package."""

from __future__ import annotations

import math

import numpy as np


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """`numerator / denominator`, NaN where the denominator is zero. Arguments broadcast."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    result = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=result, where=denominator != 0)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of the values that are not NaN; NaN where there is none."""
    values = np.asarray(values, np.float64)
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))


def optional(value: float | np.ndarray) -> float | None:
    """A Python float, or None for NaN."""
    number = float(value)
    return None if math.isnan(number) else number
