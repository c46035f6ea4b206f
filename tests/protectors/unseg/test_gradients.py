"""Gradients through generator, noised image and surrogate, against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from unseg_support import QUICK, TINY, Scenes, perturbed, rectangles, weights_of

from protectors.unseg import UnSeg
from protectors.unseg.options import UnSegOptions
from protectors.unseg.samples import SampleStream
from protectors.unseg.step import Learner
from protectors.unseg.training import Training

GEOMETRY = TINY | {"window_size": 3, "relative_positions": True}
NOISE_PARTS = (
    "mask_decoder.noise_token.weight",
    "mask_decoder.noise_mlp.0.layers.0.weight",
    "mask_decoder.noise_mlp.2.layers.2.bias",
    "mask_decoder.noise_compress_vit_feat.0.weight",
    "mask_decoder.noise_compress_vit_feat.4.weight",
    "mask_decoder.noise_embedding_encoder.3.weight",
    "mask_decoder.noise_embedding_maskfeature.0.weight",
)
SURROGATE_PARTS = (
    "image_encoder.patch_embed.proj.weight",
    "image_encoder.blocks.0.attn.rel_pos_h",
    "image_encoder.blocks.1.attn.qkv.weight",
    "mask_decoder.mask_tokens.weight",
    "mask_decoder.output_hypernetworks_mlps.0.layers.1.weight",
)


def options_for(**changes: object) -> UnSegOptions:
    fixed = {
        "generator": GEOMETRY,
        "surrogate": GEOMETRY | {"image_size": 8, "patch_size": 2},
        "trainable": "noise",
        "loss_points": 30,
        # A large budget, so that the noise matters to the loss.
        "train_epsilon": 60.0,
        "train_epsilon_background": 15.0,
    }
    return UnSeg.resolve_options("ci", QUICK | fixed | changes)


def double_precision(options: UnSegOptions) -> Training:
    training = Training(options, 0, "cpu")
    for seed, network in enumerate((training.generator, training.surrogate)):
        perturbed(network, seed).double()
        # SAM's positional encoding casts positions to float32; no gradient passes it.
        network.prompt_encoder.pe_layer.float()
    with torch.no_grad():
        # Logits of the size that they have after training.
        training.surrogate.mask_decoder.output_hypernetworks_mlps[0].layers[2].weight *= 50
    return training


def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(2)
    # Away from 0 and 1, where the noised image is clamped and the loss has kinks.
    image = 0.3 + 0.4 * torch.rand(2, 3, 16, 16, generator=rng, dtype=torch.float64)
    return image, rectangles((1, 2, 9, 11), (5, 0, 15, 8), size=16).double()


def check_derivatives(training: Training, learner: Learner, names: tuple[str, ...]) -> None:
    image, mask = batch()

    def loss() -> Tensor:
        return training.loss(image, mask, learner, torch.Generator().manual_seed(4))

    loss().backward()
    rng = torch.Generator().manual_seed(5)
    parameters = dict(getattr(training, learner).named_parameters())
    step = 1e-5
    for name in names:
        parameter = parameters[name]
        direction = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        analytic = (parameter.grad * direction).sum().item()
        before = parameter.detach().clone()
        ends = []
        for sign in (1, -1):
            parameter.data = before + sign * step * direction
            ends.append(loss().item())
        parameter.data = before
        assert abs(analytic) > 1e-6, name
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(analytic, rel=1e-4), name


@pytest.mark.parametrize("label_modification", [True, False])
@pytest.mark.parametrize("loss", ["points", "dense"])
@pytest.mark.parametrize("token_readout", ["official", "intended"])
def test_the_generator_s_gradient_is_the_slope_of_the_surrogate_s_loss(
    token_readout, loss, label_modification
):
    options = options_for(token_readout=token_readout, loss=loss, label_modification=label_modification)
    check_derivatives(double_precision(options), "generator", NOISE_PARTS)


def test_with_all_parts_trained_the_gradient_reaches_the_image_encoder():
    training = double_precision(options_for(trainable="all"))
    check_derivatives(training, "generator", ("image_encoder.patch_embed.proj.weight", *NOISE_PARTS))


@pytest.mark.parametrize("loss", ["points", "dense"])
def test_the_surrogate_s_gradient_is_the_slope_of_its_loss(loss):
    check_derivatives(double_precision(options_for(loss=loss)), "surrogate", SURROGATE_PARTS)


def gradients(training: Training, learner: Learner) -> set[str]:
    """Parameters that a step of `learner` gives a gradient, as `network.name`."""
    image, mask = batch()
    for network in (training.generator, training.surrogate):
        network.zero_grad()
    training.loss(image.float(), mask.float(), learner, torch.Generator().manual_seed(4)).backward()
    return {
        f"{name}.{parameter}"
        for name in ("generator", "surrogate")
        for parameter, value in getattr(training, name).named_parameters()
        if value.grad is not None
    }


def test_what_is_frozen_has_no_gradient():
    training = Training(options_for(), 0, "cpu")
    learnt = gradients(training, "generator")
    noise = {f"generator.{name}" for name, _ in training.generator.named_parameters() if "noise_" in name}
    # The official readout never reads the third noise token's output, but it reads all three MLPs.
    assert learnt == noise
    learnt = gradients(training, "surrogate")
    assert learnt and all(name.startswith("surrogate.") for name in learnt)


def test_a_frozen_encoder_is_run_without_a_graph_and_a_resting_generator_as_well():
    seen: dict[str, bool] = {}

    def watch(name: str):
        return lambda module, inputs, output: seen.update({name: torch.is_grad_enabled()})

    training = Training(options_for(), 0, "cpu")
    encoder, decoder = training.generator.image_encoder, training.generator.mask_decoder
    encoder.blocks[0].register_forward_hook(watch("encoder"))
    decoder.transformer.register_forward_hook(watch("decoder"))
    gradients(training, "generator")
    assert seen == {"encoder": False, "decoder": True}
    gradients(training, "surrogate")
    assert seen == {"encoder": False, "decoder": False}


def test_the_surrogate_stays_in_training_mode_in_both_phases():
    training = Training(options_for(), 0, "cpu")
    for learner in ("surrogate", "generator"):
        gradients(training, learner)
        assert all(module.training for module in training.surrogate.modules())


@pytest.mark.parametrize("trainable", ["noise", "all"])
def test_a_phase_leaves_the_other_network_bitwise_as_it_was(trainable):
    options = options_for(trainable=trainable, loss="dense")
    training = Training(options, 0, "cpu")
    stream = SampleStream([Scenes()], options, seed=0)
    while training.step < training.total:
        resting = training.surrogate if training.learner == "generator" else training.generator
        moving = training.generator if training.learner == "generator" else training.surrogate
        before, moved = weights_of(resting), weights_of(moving)
        training.advance(*stream.batch(training.step))
        assert all(torch.equal(value, before[name]) for name, value in weights_of(resting).items())
        assert any(not torch.equal(value, moved[name]) for name, value in weights_of(moving).items())
