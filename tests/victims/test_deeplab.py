"""DeepLabV3: every task at every kind of image size, its options, its pretrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import resnet18
from training_support import Identity, MemoryShapes, recipe_of

from bench.errors import EnvironmentFault, SpecError
from bench.metrics.prediction import SemanticPrediction
from bench.training.inference import predict
from bench.training.model import build_initialised_model
from bench.training.trainer import train
from bench.victim import DataInfo
from victims.deeplab import DeepLabV3

SIZES = ((64, 64), (37, 52), (64, 41), (33, 33))
SLIDING = {
    "image_size": 60,
    "crop_size": 40,
    "sliding_window": True,
    "rotation": 10.0,
    "blur": 0.5,
    "scale_range": (0.5, 2.0),
    "symmetries": "horizontal",
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "head_rate_factor": 10.0,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("task", DeepLabV3.tasks)
def test_predictions_of_a_sliding_window_have_the_original_size(tmp_path: Path, task: str) -> None:
    dataset = MemoryShapes(train=6, val=4, sizes=SIZES)
    recipe = recipe_of(DeepLabV3, dataset, task, iterations=3, batch_size=2, **SLIDING)
    result = train(recipe, dataset, Identity(), tmp_path, seed=0, device="cpu")
    predictions = dict(predict(recipe, result.weights, dataset, "val", device="cpu"))
    assert tuple(predictions) == dataset.ids("val")
    for name, prediction in predictions.items():
        assert isinstance(prediction, SemanticPrediction)
        assert prediction.labels.dtype == np.uint8
        assert prediction.labels.shape == dataset.image("val", name).shape[:2]
        assert prediction.labels.max() < (6 if task == "semantic" else 2)


def data() -> DataInfo:
    return DataInfo(tuple("abcdef"), (), image_size=50, train_images=80)


def test_the_paper_profile_is_the_published_schedule() -> None:
    voc = DataInfo(tuple(map(str, range(21))), (), image_size=500, train_images=10582)
    recipe = DeepLabV3(DeepLabV3.resolve_options("paper", {})).recipe(voc, "semantic", "scratch", "paper")
    assert recipe.iterations == 33069  # 50 epochs of batches of 16
    assert recipe.optim_wrapper["optimizer"] == {
        "type": "SGD",
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-4,
    }
    assert recipe.model["test_cfg"]["crop_size"] == (473, 473)
    assert recipe.model["backbone"]["depth"] == 50 and recipe.model["backbone"]["max_pool"]
    assert recipe.model["decode_head"]["dilations"] == (1, 6, 12, 18)


def test_tasks_and_starts_that_do_not_exist_are_refused() -> None:
    victim = DeepLabV3()
    with pytest.raises(SpecError, match="has no task 'interactive': there is semantic, binary"):
        victim.recipe(data(), "interactive", "scratch", "cpu")
    with pytest.raises(SpecError, match="has no init 'sam'"):
        victim.recipe(data(), "semantic", "sam", "cpu")
    with pytest.raises(SpecError, match="width=64 and stem_channels=64"):
        victim.recipe(data(), "semantic", "imagenet", "cpu")


def imagenet_recipe() -> Any:
    options = DeepLabV3.resolve_options("ci", {"width": 64, "stem_channels": 64})
    return DeepLabV3(options).recipe(data(), "semantic", "imagenet", "ci")


def test_torchvision_weights_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(0)
    source = resnet18(weights=None).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(source, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    model = build_initialised_model(imagenet_recipe(), "cpu", seed=0)
    loaded = model.backbone.state_dict()
    assert {name for name in source if not name.startswith("fc.")} == set(loaded)
    assert all(torch.equal(tensor, source[name]) for name, tensor in loaded.items())


def test_missing_imagenet_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(EnvironmentFault, match=r"put https://.*/resnet18-f37072fd\.pth at .*checkpoints"):
        build_initialised_model(imagenet_recipe(), "cpu", seed=0)
