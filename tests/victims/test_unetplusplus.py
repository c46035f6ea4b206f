"""UNet++: every task at every kind of image size, its options, its losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from training_support import Identity, MemoryShapes, recipe_of

from bench.errors import SpecError
from bench.metrics.prediction import SemanticPrediction
from bench.training.inference import predict
from bench.training.trainer import train
from bench.victim import DataInfo
from victims.unetplusplus import PRESETS, UNetPlusPlus, UNetPlusPlusOptions

SIZES = ((64, 64), (37, 52), (64, 41), (33, 33))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("task", UNetPlusPlus.tasks)
def test_predictions_of_resized_images_have_the_original_size(tmp_path: Path, task: str) -> None:
    dataset = MemoryShapes(train=6, val=4, sizes=SIZES)
    options: dict[str, Any] = {"image_size": 40, "scale_range": (0.5, 2.0), "symmetries": "horizontal"}
    recipe = recipe_of(UNetPlusPlus, dataset, task, iterations=3, batch_size=2, **options)
    result = train(recipe, dataset, Identity(), tmp_path, seed=0, device="cpu")
    predictions = dict(predict(recipe, result.weights, dataset, "val", device="cpu"))
    assert tuple(predictions) == dataset.ids("val")
    for name, prediction in predictions.items():
        assert isinstance(prediction, SemanticPrediction)
        assert prediction.labels.dtype == np.uint8
        assert prediction.labels.shape == dataset.image("val", name).shape[:2]
        assert prediction.labels.max() < (6 if task == "semantic" else 2)


def data(classes: int = 6) -> DataInfo:
    return DataInfo(tuple(map(str, range(classes))), (), image_size=50, train_images=80)


def test_every_profile_has_a_recipe_and_options_override_it() -> None:
    for profile in PRESETS:
        options = UNetPlusPlus.resolve_options(profile, {"batch_size": 3})
        assert UNetPlusPlusOptions(**options.model_dump(mode="json")) == options
        recipe = UNetPlusPlus(options).recipe(data(), "semantic", "scratch", profile)
        assert recipe.batch_size == 3 and recipe.model["num_classes"] == 6
    paper = UNetPlusPlus(UNetPlusPlus.resolve_options("paper", {})).recipe(
        data(), "binary", "imagenet", "paper"
    )
    assert paper.iterations == 500 and paper.model["num_classes"] == 2


def test_another_encoder_keeps_its_own_shape() -> None:
    options = UNetPlusPlus.resolve_options("cpu", {"encoder": "resnet18"})
    assert isinstance(options, UNetPlusPlusOptions)
    assert options.encoder_arguments == {}


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="needs 4 entries"):
        UNetPlusPlusOptions(encoder_depth=4)
    with pytest.raises(ValidationError, match="are for tu- encoders"):
        UNetPlusPlusOptions(encoder="resnet18")
    with pytest.raises(ValidationError, match="extra"):
        UNetPlusPlusOptions(colour="red")


def test_tasks_and_starts_that_do_not_exist_are_refused() -> None:
    victim = UNetPlusPlus()
    with pytest.raises(SpecError, match="has no task 'panoptic': there is semantic, binary, interactive"):
        victim.recipe(data(), "panoptic", "scratch", "cpu")
    with pytest.raises(SpecError, match="has no init 'sam'"):
        victim.recipe(data(), "semantic", "sam", "cpu")
    with pytest.raises(SpecError, match="encoder=efficientnet-lite0, or encoder=resnet18"):
        victim.recipe(data(), "semantic", "imagenet", "cpu")


def test_losses_ignore_void_and_are_finite_where_all_is_void() -> None:
    from bench.training.environment import prepare

    prepare("mmseg", ("victims.semantic_losses",))
    from victims.semantic_losses import cross_entropy, dice_loss

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 4, 4, generator=generator)
    target = torch.randint(0, 2, (2, 4, 4), generator=generator)
    target[:, 0] = 255
    changed = logits.clone()
    changed[:, :, 0] += 5 * torch.randn(2, 2, 4, generator=generator)
    for loss in (cross_entropy, dice_loss):
        assert torch.equal(loss(logits, target), loss(changed, target))
        assert torch.isfinite(loss(logits, torch.full_like(target, 255)))
    kept = torch.nn.functional.cross_entropy(logits[:, :, 1:], target[:, 1:])
    assert torch.allclose(cross_entropy(logits, target), kept)
    perfect = torch.stack([1 - target, target], 1).clamp(0, 1) * 200.0 - 100
    assert dice_loss(perfect, target) < 1e-6
    assert dice_loss(-perfect, target) > 0.8
