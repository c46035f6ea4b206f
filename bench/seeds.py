"""Seeds that depend on what is being done, never on order, workers or batches."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from `parts`, the same on every machine and Python version.

    Args:
        *parts: For example the user's seed, the stage, the image id. Strings and integers are told apart.

    Returns:
        A non-negative integer below 2**63.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: str | int) -> np.random.Generator:
    """A numpy generator seeded by `derive_seed(*parts)`."""
    return np.random.default_rng(derive_seed(*parts))
