"""DeepLabV3: every task at every kind of image size, its options, its pretrained weights."""

from __future__ import annotations

import functools
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.models import ResNet18_Weights, ResNet50_Weights, ResNet101_Weights, resnet18
from training_support import Identity, MemoryShapes, recipe_of

from bench.errors import ArtifactCorrupt, EnvironmentFault, SpecError
from bench.metrics.prediction import SemanticPrediction
from bench.spec import plain_options
from bench.training.inference import predict
from bench.training.model import build_initialised_model
from bench.training.trainer import train
from bench.victim import DataInfo
from victims.deeplab import LITE0_CHANNELS, DeepLabV3
from victims.dilated_depthwise import DilatedDepthwise
from victims.semantic_encoders import LITE0

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


@pytest.mark.parametrize("profile", ["ci", "cpu", "gpu", "paper"])
def test_lite0_fits_every_profile_and_takes_no_shape_of_the_resnet(profile: str) -> None:
    options = DeepLabV3.resolve_options(profile, {"encoder": LITE0})
    model = DeepLabV3(options).recipe(data(), "binary", "imagenet", profile).model
    assert model["backbone"] == {"type": "Lite0Backbone", "depth": 4, "output_stride": 8, "pretrained": True}
    assert model["data_preprocessor"]["size_divisor"] == 8
    assert (model["auxiliary_head"]["in_channels"], model["decode_head"]["in_channels"]) == LITE0_CHANNELS
    with pytest.raises(ValidationError, match=f"depth, dilations: of the ResNet, and encoder={LITE0} has"):
        DeepLabV3.resolve_options(profile, {"encoder": LITE0, "depth": 50, "dilations": [1, 1, 1, 1]})


def test_the_encoder_is_part_of_the_key_where_it_is_not_the_resnet() -> None:
    assert "encoder" not in plain_options(DeepLabV3.resolve_options("cpu", {"encoder": "resnet"}))
    assert plain_options(DeepLabV3.resolve_options("cpu", {"encoder": LITE0}))["encoder"] == LITE0


def test_lite0_gives_the_features_of_smps_dilated_encoder() -> None:
    recipe = recipe_of(DeepLabV3, MemoryShapes(train=2), "semantic", encoder=LITE0)
    backbone = build_initialised_model(recipe, "cpu", seed=0).backbone.eval()
    replaced = [layer for layer in backbone.modules() if type(layer) is DilatedDepthwise]
    images = torch.randn(2, 3, 40, 72)
    with torch.no_grad():
        found = backbone(images)
        for layer in replaced:
            layer.__class__ = torch.nn.Conv2d
        expected = backbone.encoder(images)[1:]
    assert replaced and len(found) == len(expected) == 4
    assert found[-1].shape == (2, LITE0_CHANNELS[1], 5, 9) and found[-2].shape[1] == LITE0_CHANNELS[0]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))


def imagenet_recipe() -> Any:
    options = DeepLabV3.resolve_options("ci", {"width": 64, "stem_channels": 64})
    return DeepLabV3(options).recipe(data(), "semantic", "imagenet", "ci")


@pytest.fixture
def torchvision_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for weights of ResNet-18 in a cache of torch's, under the name of `torchvision_weights`."""
    from victims import pretrained

    digest = hashlib.sha256(torchvision_weights()).hexdigest()
    name = f"resnet18-{digest[:8]}.pth"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(pretrained.TORCHVISION_FILES, 18, name)
    return tmp_path / "checkpoints" / name


@functools.cache
def torchvision_weights() -> bytes:
    torch.manual_seed(0)
    stream = io.BytesIO()
    torch.save(resnet18(weights=None).state_dict(), stream)
    return stream.getvalue()


def test_torchvision_weights_are_loaded(torchvision_file: Path) -> None:
    torchvision_file.parent.mkdir()
    torchvision_file.write_bytes(torchvision_weights())
    source = torch.load(torchvision_file, weights_only=True)
    model = build_initialised_model(imagenet_recipe(), "cpu", seed=0)
    loaded = model.backbone.state_dict()
    assert {name for name in source if not name.startswith("fc.")} == set(loaded)
    assert all(torch.equal(tensor, source[name]) for name, tensor in loaded.items())


def test_missing_imagenet_weights_are_named(torchvision_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    expected = rf"put https://download\.pytorch\.org/models/{torchvision_file.name} at {torchvision_file}"
    with pytest.raises(EnvironmentFault, match=expected):
        build_initialised_model(imagenet_recipe(), "cpu", seed=0)


def test_damaged_imagenet_weights_are_refused(torchvision_file: Path) -> None:
    torchvision_file.parent.mkdir()
    torchvision_file.write_bytes(torchvision_weights()[:-1])
    with pytest.raises(ArtifactCorrupt, match="is damaged or another file"):
        build_initialised_model(imagenet_recipe(), "cpu", seed=0)


def test_the_names_of_torchvisions_files_are_still_its_own() -> None:
    from victims.pretrained import TORCHVISION_FILES, TORCHVISION_URL

    assert ResNet18_Weights.IMAGENET1K_V1.url == TORCHVISION_URL + TORCHVISION_FILES[18]
    assert ResNet50_Weights.IMAGENET1K_V1.url == TORCHVISION_URL + TORCHVISION_FILES[50]
    assert ResNet101_Weights.IMAGENET1K_V1.url == TORCHVISION_URL + TORCHVISION_FILES[101]


def paper_model(classes: int, **given: Any) -> Any:
    info = DataInfo(tuple(map(str, range(classes))), (), image_size=512, train_images=100)
    options = DeepLabV3.resolve_options("paper", {"sliding_window": False, **given})
    recipe = DeepLabV3(options).recipe(info, "semantic", "scratch", "paper")
    return build_initialised_model(recipe, "cpu", seed=0)


def parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
def test_the_paper_model_is_mmsegs_with_pyramids_of_256_channels_and_trains_at_a_reduced_size() -> None:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    # With mmseg's own 512 channels: its deeplabv3_r50-d8 for ADE20K, 68.21 M with the auxiliary head.
    assert parameters(paper_model(150, aspp_channels=512)) == 68_213_900
    # The code that the paper's table 4 points to has 256.
    model = paper_model(21)
    assert 42.8e6 < parameters(model) < 42.9e6
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 21, (1, 65, 65)))) for _ in range(2)]
    losses = model(torch.randn(2, 3, 65, 65), samples, mode="loss")
    assert {"decode.loss_ce", "aux.loss_ce"} <= set(losses)
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
