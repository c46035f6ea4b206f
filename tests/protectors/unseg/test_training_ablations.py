"""Everything that the paper ablates (tables 6, 7 and 11) is an option, trains at `ci` size, and matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from unseg_support import Scenes, context

from protectors.unseg import UnSeg, training
from protectors.unseg.options import PROMPT_KINDS

ABLATIONS: dict[str, dict[str, Any]] = {
    "label modification": {"label_modification": True},
    "epsilon generalization, 1/255": {"train_epsilon": 1.0, "train_epsilon_background": 0.25},
    "epsilon generalization, 4/255": {"train_epsilon": 4.0, "train_epsilon_background": 1.0},
    "one budget everywhere": {"train_epsilon_background": 8.0},
    "generator's box": {"generator_prompts": ["box"]},
    "generator's points": {"generator_prompts": ["points"]},
    "generator's mask": {"generator_prompts": ["mask"]},
    "generator's box and points": {"generator_prompts": ["box", "points"]},
    "generator's box and mask": {"generator_prompts": ["box", "mask"]},
    "surrogate without prompts": {"surrogate_prompts": []},
    "surrogate's points": {"surrogate_prompts": ["points"]},
    "surrogate's mask": {"surrogate_prompts": ["mask"]},
    "surrogate's box or points or mask": {"surrogate_prompts": list(PROMPT_KINDS)},
    "surrogate every 2 phases": {"surrogate_every": 2},
    "surrogate every 3 phases": {"surrogate_every": 3},
    "surrogate every 8 phases": {"surrogate_every": 8},
    "official readout": {"token_readout": "official"},
    "noise parts only": {"trainable": "noise"},
    "loss at points": {"loss": "points", "loss_points": 500},
    "single objects": {"objects": "instances"},
    "jitter": {"jitter": [0.1, 2.0]},
    "bf16": {"precision": "bf16"},
}


def weights_after(folder: Path, given: dict[str, Any]) -> dict[str, Tensor]:
    options = UnSeg.resolve_options("ci", {"phase_steps": 1, **given})
    UnSeg(options).fit([Scenes(size=64)], context(folder))
    return load_file(folder / "state" / training.WEIGHTS)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory) -> dict[str, Tensor]:
    return weights_after(tmp_path_factory.mktemp("unchanged"), {})


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains_and_matters(tmp_path, unchanged, name):
    weights = weights_after(tmp_path, ABLATIONS[name])
    assert weights.keys() == unchanged.keys()
    assert all(weight.isfinite().all() for weight in weights.values())
    noise = [part for part in weights if "noise_" in part]
    assert noise and any(not torch.equal(weights[part], unchanged[part]) for part in noise)
