"""Encoders of UNet++ and DeepLabV3+: the paper's, unknown ones, their normalisation, and DeepLabV3+ itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from training_support import MemoryShapes, recipe_of

from bench.errors import SpecError
from bench.training.model import build_initialised_model, build_model
from bench.victim import DataInfo
from victims.deeplabv3plus import DeepLabV3Plus, DeepLabV3PlusOptions
from victims.semantic_encoders import LITE0, PAPER, EncoderOptions, normalisation, unknown_encoder
from victims.unetplusplus import UNetPlusPlus

# UNet++ of five stages with one output, in millions of parameters.
PAPER_SIZES = {
    "resnet50": 48.99,
    "densenet169": 38.85,
    "efficientnet-b6": 44.67,
    "tu-res2net50_26w_4s": 49.13,
    "tu-regnetx_064": 40.76,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def binary(image_size: int = 352) -> DataInfo:
    return DataInfo(("background", "polyp"), (), image_size=image_size, train_images=80)


def paper_model(encoder: str) -> Any:
    options = UNetPlusPlus.resolve_options("paper", {"encoder": encoder})
    recipe = UNetPlusPlus(options).recipe(binary(), "binary", "scratch", "paper")
    return build_initialised_model(recipe, "cpu", seed=0)


def test_the_list_holds_the_papers_five_encoders() -> None:
    assert set(PAPER) == set(PAPER_SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", PAPER)
def test_the_papers_networks_have_their_size_and_train_at_a_reduced_one(encoder: str) -> None:
    model = paper_model(encoder)
    second_output = 16 * 9 + 1  # ours tells background and object apart by two outputs
    count = sum(parameter.numel() for parameter in model.parameters()) - second_output
    assert round(count / 1e6, 2) == PAPER_SIZES[encoder]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = model.train().net(images)
    assert logits.shape == (2, 2, 64, 64)
    logits.square().mean().backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # smp keeps the classifier's last convolution of EfficientNet, which no decoder sees.
    assert idle <= {f"net.encoder._{part}" for part in ("conv_head.weight", "bn1.weight", "bn1.bias")}
    assert all(
        parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None
    )


def test_an_unknown_encoder_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match="unknown encoder 'resnet5': did you mean resnet50"):
        EncoderOptions(encoder="resnet5", encoder_arguments={})
    assert "efficientnet-lite0" in unknown_encoder("efficientnet-lite")
    assert "tu-resnet18d" in unknown_encoder("tu-resnet18e")
    assert "did you mean tu-resnet18d.ra" in unknown_encoder("tu-resnet18d.ra9_in1k")
    for known in ("vgg16_bn", "tu-resnet18d.ra2_in1k", "timm-regnetx_064", "timm-efficientnet-b0", LITE0):
        assert unknown_encoder(known) == ""


def test_expected_encoders_are_checked_without_importing_torch() -> None:
    code = (
        "import sys; from victims.unetplusplus import UNetPlusPlus as U; from victims.semantic_encoders import PAPER; "
        "[U.resolve_options('cpu', {'encoder': e}) for e in (*PAPER, 'efficientnet-lite0')]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_an_encoder_that_the_network_cannot_use_is_refused() -> None:
    options = UNetPlusPlus.resolve_options("cpu", {"encoder": "mit_b0"})
    recipe = UNetPlusPlus(options).recipe(binary(64), "binary", "scratch", "cpu")
    with pytest.raises(SpecError, match="UnetPlusPlus cannot be built on encoder 'mit_b0' of depth 3"):
        build_model(recipe, "cpu")


def test_pretrained_encoders_see_images_as_in_their_training() -> None:
    imagenet = normalisation("resnet50", "imagenet")
    assert imagenet == normalisation(LITE0, "scratch") == normalisation("tu-resnet18d", "scratch")
    assert normalisation(LITE0, "imagenet") == ((127.5,) * 3, (127.5,) * 3)
    assert normalisation("tu-tf_efficientnet_lite0", "imagenet") == normalisation(LITE0, "imagenet")
    assert normalisation("xception", "imagenet") == normalisation(LITE0, "imagenet")
    mean, std = normalisation("tu-res2net50_26w_4s", "imagenet")
    assert mean == pytest.approx(imagenet[0]) and std == pytest.approx(imagenet[1])


@pytest.mark.parametrize("victim", [UNetPlusPlus, DeepLabV3Plus])
@pytest.mark.parametrize("profile", ["ci", "cpu", "gpu", "paper"])
def test_lite0_fits_every_profile(victim: Any, profile: str) -> None:
    options = victim.resolve_options(profile, {"encoder": LITE0})
    assert options.encoder_arguments == {}
    recipe = victim(options).recipe(binary(), "binary", "imagenet", profile)
    assert recipe.model["encoder"] == "tu-tf_efficientnet_lite0" and recipe.model["pretrained"] == LITE0
    deeper = {"encoder": LITE0, "encoder_depth": 5} | (
        {"decoder_channels": [8, 8, 8, 8, 8]} if victim is UNetPlusPlus else {}
    )
    assert victim.resolve_options(profile, deeper).encoder_depth == 5


# ---- DeepLabV3+ ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "stride"), [(3, 8), (4, 8), (4, 16), (5, 8), (5, 16)])
@pytest.mark.parametrize("encoder", ["resnet18", LITE0])
def test_deeplabv3plus_gives_logits_of_the_images_size(encoder: str, depth: int, stride: int) -> None:
    dataset = MemoryShapes(train=2)
    shape = {"encoder": encoder, "encoder_arguments": {}, "encoder_depth": depth, "output_stride": stride}
    model = build_model(recipe_of(DeepLabV3Plus, dataset, "semantic", **shape), "cpu")
    assert model.net(torch.zeros(2, 3, 48, 64)).shape == (2, 6, 48, 64)


def test_deeplabv3plus_options_reach_the_network() -> None:
    dataset = MemoryShapes(train=2)
    made = recipe_of(
        DeepLabV3Plus, dataset, "semantic", aspp_dilations=(2, 4, 6), aspp_dropout=0.3, decoder_channels=24
    )
    decoder = build_model(made, "cpu").net.decoder
    assert [branch[0][0].dilation for branch in list(decoder.aspp[0].convs)[1:4]] == [(2, 2), (4, 4), (6, 6)]
    assert decoder.aspp[0].project[-1].p == 0.3 and decoder.block2[0][1].out_channels == 24
    with pytest.raises(ValidationError, match="8 or 16"):
        DeepLabV3PlusOptions(output_stride=4)
