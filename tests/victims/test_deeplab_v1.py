"""DeepLabV1: the published schedule and head, its augmentation, and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from training_support import Identity, MemoryShapes, recipe_of

from bench.errors import EnvironmentFault, SpecError
from bench.training.inference import predict
from bench.training.model import build_initialised_model, build_model
from bench.training.samples import TrainingSamples
from bench.training.trainer import train
from bench.victim import DataInfo, TrainingRecipe
from victims.deeplab_v1 import DeepLabV1, DeepLabV1Options

SIZES = ((64, 64), (37, 52), (64, 41), (33, 33))
PAPER_AUGMENTATION: dict[str, Any] = {
    "crop_size": 40,
    "pad_window": True,
    "scale_range": (0.7, 1.3),
    "zoom_per_batch": True,
    "symmetries": "horizontal",
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def voc_recipe(init: str = "imagenet") -> TrainingRecipe:
    voc = DataInfo(tuple(map(str, range(21))), (), image_size=500, train_images=10582)
    return DeepLabV1(DeepLabV1.resolve_options("paper", {})).recipe(voc, "semantic", init, "paper")  # type: ignore[arg-type]


def test_the_paper_profile_is_the_published_schedule() -> None:
    recipe = voc_recipe()
    assert recipe.iterations == 19842  # 30 epochs of batches of 16
    assert recipe.batch_size == 16 and recipe.test_batch_size == 1
    # What the paper's code runs, not what its argument names say: see the preset.
    assert recipe.optim_wrapper["optimizer"] == {
        "type": "SGD",
        "lr": 7e-4,
        "momentum": 1e-5,
        "weight_decay": 0.0,
    }
    assert recipe.optim_wrapper["paramwise_cfg"]["custom_keys"]["decode_head"] == {"lr_mult": 10.0}
    (schedule,) = recipe.param_scheduler
    assert schedule["type"] == "PolyLR" and schedule["power"] == 0.9 and schedule["end"] == 19842
    assert [step["type"] for step in recipe.train_pipeline] == [
        "BatchRandomResize",
        "RandomCrop",
        "RandomFlip",
        "PackSegInputs",
    ]
    assert recipe.train_pipeline[0]["ratio_range"] == (0.7, 1.3)
    assert [step["type"] for step in recipe.test_pipeline] == ["PackSegInputs"]  # single scale
    preprocessor = recipe.model["data_preprocessor"]
    assert preprocessor["size"] == (321, 321) and preprocessor["seg_pad_val"] == 0
    assert recipe.model["backbone"]["frozen"] and recipe.model["backbone"]["strides"] == (2, 2, 2, 1, 1, 1)
    assert recipe.model["backbone"]["dilations"] == (1, 1, 1, 2, 4, 4)
    assert not voc_recipe("scratch").model["backbone"]["frozen"]


def test_the_paper_model_has_the_published_size() -> None:
    with torch.device("meta"):
        model = build_model_on_meta(voc_recipe("scratch"))
    backbone = 105_070_912  # from the table of ResNet38's paper: tests/victims/test_resnet38.py
    head = 4096 * 512 * 9 + 512 + 512 * 21 * 9 + 21
    assert sum(parameter.numel() for parameter in model.parameters()) == backbone + head == 124_042_581
    assert model.decode_head.conv.dilation == model.decode_head.conv_seg.dilation == (12, 12)


def build_model_on_meta(recipe: TrainingRecipe) -> Any:
    from mmengine.config import ConfigDict
    from mmengine.registry import MODELS

    from bench.training.environment import prepare

    prepare(recipe.scope, recipe.custom_imports)
    return MODELS.build(ConfigDict(recipe.model))


@pytest.mark.slow
def test_the_paper_model_trains_at_a_reduced_size() -> None:
    from mmseg.structures import SegDataSample

    model = build_initialised_model(voc_recipe("scratch"), "cpu", seed=0)
    bound = (6 / (9 * (4096 + 512))) ** 0.5  # Glorot and Bengio's, uniform
    assert 0.99 * bound < model.decode_head.conv.weight.abs().max() <= bound
    images = torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    samples = [SegDataSample() for _ in images]
    for sample in samples:
        sample.set_data({"gt_sem_seg": pixels(torch.randint(0, 21, (1, 65, 65)))})
    loss, _ = model.parse_losses(model(images, samples, mode="loss"))
    loss.backward()
    assert 2 < loss < 50
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def pixels(labels: torch.Tensor) -> Any:
    from mmengine.structures import PixelData

    return PixelData(data=labels)


def test_images_of_a_batch_share_their_zoom_and_other_batches_have_others() -> None:
    dataset = MemoryShapes(train=8)
    recipe = recipe_of(DeepLabV1, dataset, "semantic", batch_size=4, **PAPER_AUGMENTATION)
    recipe.train_pipeline[:] = [recipe.train_pipeline[0], recipe.train_pipeline[-1]]  # zoom and packing alone
    samples = TrainingSamples(dataset, Identity(), recipe, seed=0)
    sides = [samples[draw % 8, draw]["inputs"].shape[1] for draw in range(24)]
    batches = [set(sides[start : start + 4]) for start in range(0, 24, 4)]
    assert all(len(batch) == 1 for batch in batches)
    assert len(set(sides)) > 3 and min(sides) >= int(0.7 * 64) and max(sides) <= 1.3 * 64


def test_what_the_window_lacks_is_the_mean_colour_and_background() -> None:
    dataset = MemoryShapes(train=2, sizes=((33, 33),))
    recipe = recipe_of(DeepLabV1, dataset, "semantic", **PAPER_AUGMENTATION | {"scale_range": (1.0, 1.0)})
    model = build_model(recipe, "cpu")
    samples = TrainingSamples(dataset, Identity(), recipe, seed=0)
    packed = samples[0, 0]
    batch = model.data_preprocessor(
        {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}, True
    )
    assert batch["inputs"].shape == (1, 3, 40, 40)
    assert (batch["inputs"][..., 33:, :] == 0).all() and (batch["inputs"][..., 33:] == 0).all()
    labels = batch["data_samples"][0].gt_sem_seg.data[0]
    assert labels.shape == (40, 40) and not labels[33:].any() and not labels[:, 33:].any()
    assert labels.any()


@pytest.mark.parametrize("task", DeepLabV1.tasks)
def test_it_trains_and_predicts_with_the_papers_augmentation(tmp_path: Path, task: str) -> None:
    dataset = MemoryShapes(train=6, val=4, sizes=SIZES)
    options = PAPER_AUGMENTATION | {"optimizer": "sgd", "head_rate_factor": 10.0, "dropouts": (0.3, 0.5)}
    recipe = recipe_of(DeepLabV1, dataset, task, iterations=3, batch_size=2, **options)
    weights = train(recipe, dataset, Identity(), tmp_path, seed=0, device="cpu").weights
    for name, prediction in predict(recipe, weights, dataset, "val", device="cpu"):
        assert prediction.labels.dtype == np.uint8
        assert prediction.labels.shape == dataset.image("val", name).shape[:2]


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="needs a scale_range"):
        DeepLabV1Options(zoom_per_batch=True)
    with pytest.raises(ValidationError, match="4 channels or more"):
        DeepLabV1Options(widths=(2, 8, 8, 8, 8, 8, 8))
    with pytest.raises(ValidationError, match="1 or more"):
        DeepLabV1Options(strides=(2, 0, 1, 1, 1, 1))
    with pytest.raises(ValidationError, match=r"in \[0, 1\)"):
        DeepLabV1Options(dropouts=(0.0, 1.0))


def test_imagenet_weights_are_for_the_full_width_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = DataInfo(("a", "b"), (), image_size=64, train_images=8)
    with pytest.raises(SpecError, match=r"widths=\[64, 128, 256, 512, 1024, 2048, 4096\]"):
        DeepLabV1().recipe(info, "semantic", "imagenet", "cpu")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="no ImageNet weights: get ilsvrc"):
        build_initialised_model(voc_recipe(), "cpu", seed=0)
