"""Builds the model of a recipe."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

from bench.errors import EnvironmentFault
from bench.seeds import derive_seed
from bench.training.environment import prepare
from bench.victim import TrainingRecipe


def build_model(recipe: TrainingRecipe, device: str) -> Any:
    """The model of a recipe on `device`, its weights not yet initialised by `init_weights`.

    Args:
        recipe: Names the model in its registry scope.
        device: torch device string, checked before.

    Returns:
        An mmengine `BaseModel`. Synchronised batch norm, which needs several processes, is replaced by the
        plain one.
    """
    from mmengine.config import ConfigDict
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS

    prepare(recipe.scope, recipe.custom_imports)
    return revert_sync_batchnorm(MODELS.build(ConfigDict(copy.deepcopy(recipe.model)))).to(device)


def build_initialised_model(recipe: TrainingRecipe, device: str, seed: int) -> Any:
    """The model as a training starts from it.

    Args:
        recipe: As for `build_model`.
        device: As for `build_model`.
        seed: Seed of the training; starting weights depend on nothing else.

    Raises:
        EnvironmentFault: Pretrained weights are neither on disk nor reachable.
    """
    from bench.training.randomness import seed_everything

    seed_everything(derive_seed(seed, "init"))
    # Drawn on the CPU, so that CPU and CUDA start from the same weights.
    model = build_model(recipe, "cpu")
    try:
        model.init_weights()
    except (OSError, pickle.UnpicklingError, KeyError) as error:  # a URLError is an OSError
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        named = " or ".join(sorted(_checkpoints(recipe.model))) or "of the victim"
        raise EnvironmentFault(
            f"the pretrained weights {named} cannot be read ({reason}): put them into torch's cache "
            "(TORCH_HOME) on a machine with network access and copy it here, or use --init scratch"
        ) from error
    return model.to(device)


def _checkpoints(config: Any) -> set[str]:
    """What a model's configuration names as files to start from."""
    if isinstance(config, Mapping):
        own = {config["checkpoint"]} if isinstance(config.get("checkpoint"), str) else set()
        return own.union(*map(_checkpoints, config.values()))
    if isinstance(config, list | tuple):
        return set().union(*map(_checkpoints, config))
    return set()
