"""Networks of the profile `paper`, on every backbone: built in full, one step forward and back on small images.

Victims whose own tests do that already are left out (DeepLabV1, DeepLabV3, UNet++, DINO).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from training_support import Identity, MemoryShapes, recipe_of

from bench.training.samples import TrainingSamples, collate
from bench.victim import TrainingRecipe
from victims.deeplabv3plus import DeepLabV3Plus
from victims.mask2former import Mask2Former
from victims.rsprompter import RSPrompter
from victims.sam_hq import SamHQ

pytestmark = pytest.mark.slow

SIDE = 128
"""Of the image. A published SAM takes 1024 pixels; its width, depth and heads are the published ones here."""


def step(recipe: TrainingRecipe, dataset: MemoryShapes) -> tuple[Any, int]:
    """Trains on two images once; returns the model and the number of trained parameters."""
    import torch

    from bench.training.model import build_initialised_model

    torch.set_num_threads(1)
    model = build_initialised_model(recipe, "cpu", 0).train()
    samples = TrainingSamples(dataset, Identity(), recipe, 0)
    data = collate([samples[index, index] for index in range(2)])
    loss, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode="loss"))
    loss.backward()
    assert torch.isfinite(loss)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    return model, sum(parameter.numel() for parameter in trained.values())


SIZES = ("image_size", "size", "pad_size_divisor", "scale", "crop_size")


def small(value: Any, named: bool = False) -> Any:
    """A part of a recipe with `SIDE` in place of 1024 where that is an image's size; it is also ViT-L's width."""
    if isinstance(value, dict):
        return {key: small(entry, key in SIZES) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(small(entry, named) for entry in value)
    return SIDE if named and value == 1024 else value


def reduced(recipe: TrainingRecipe) -> TrainingRecipe:
    return replace(recipe, model=small(recipe.model), train_pipeline=small(recipe.train_pipeline))


def millions(parameters: int) -> float:
    return round(parameters / 1e6, 2)


@pytest.mark.parametrize("backbone", ["r50", "swin-t"])
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_mask2former(task: str, backbone: str) -> None:
    dataset = MemoryShapes(train=2)
    # `gpu` is the same network without a published schedule's window.
    step(
        recipe_of(Mask2Former, dataset, task, "gpu", image_size=SIDE, batch_size=2, backbone=backbone),
        dataset,
    )


def test_deeplabv3plus() -> None:
    dataset = MemoryShapes(train=2)
    step(
        recipe_of(DeepLabV3Plus, dataset, "semantic", "paper", image_size=SIDE, crop_size=SIDE),
        dataset,
    )


@pytest.mark.parametrize(
    ("encoder", "trained", "sam"), [("vit_b", 1.07, 93.74), ("vit_l", 1.33, 312.34), ("vit_h", 1.60, 641.09)]
)
def test_sam_hq(encoder: str, trained: float, sam: float) -> None:
    dataset = MemoryShapes(train=2)
    recipe = recipe_of(SamHQ, dataset, "interactive", "paper", encoder=encoder)
    model, count = step(reduced(recipe), dataset)
    assert millions(count) == trained
    # SAM's published size, but for the tables of positions that belong to the pixels left out here.
    shape = recipe.model["geometry"]
    tokens, reduced_tokens = 1024 // 16, SIDE // 16
    positions = (tokens**2 - reduced_tokens**2) * shape["embed_dim"]
    head_width = shape["embed_dim"] // shape["num_heads"]
    relative = len(shape["global_blocks"]) * 2 * 2 * (tokens - reduced_tokens) * head_width
    assert millions(sum(p.numel() for p in model.parameters()) - count + positions + relative) == sam


@pytest.mark.parametrize("variant", ["anchor", "query"])
@pytest.mark.parametrize(("encoder", "frozen"), [("vit_b", False), ("vit_l", True), ("vit_h", True)])
def test_rsprompter(encoder: str, frozen: bool, variant: str) -> None:
    dataset = MemoryShapes(train=2)
    recipe = recipe_of(
        RSPrompter,
        dataset,
        "instance",
        "paper",
        encoder=encoder,
        frozen_encoder=frozen,
        variant=variant,
        jitter=(1.0, 1.0),
    )
    step(reduced(recipe), dataset)
