"""Seeds the global generators that third-party transforms and models draw from."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch (all devices).

    Args:
        seed: Non-negative and below 2**63, from `bench.seeds.derive_seed`.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
