"""Seeds the global generators that third-party transforms and models draw from."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch: the CPU's generator, and those of CUDA once it is in use.

    `torch.manual_seed` would note down the whole stack on machines without CUDA, for every sample.

    Args:
        seed: Non-negative and below 2**63, from `bench.seeds.derive_seed`.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
