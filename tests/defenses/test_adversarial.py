"""Adversarial training: the attack against its definition, and the losses of DDC-AT against a hand-made case."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_support import MemoryShapes, recipe_of

from bench import registry
from bench.datasets.base import VOID
from bench.errors import SpecError
from bench.training.attack import Attack, evaluating, image_area, perturb, statistics, victims_loss
from bench.training.checkpoint import load_weights, save_weights
from bench.training.model import build_initialised_model
from bench.training.pixels import at_size, label_maps, main_logits
from bench.training.samples import TrainingSamples, collate
from defenses.at import AdversarialOptions, AdversarialTraining
from defenses.ddc_at import DivideAndConquerTraining
from defenses.ddc_at_procedure import DivideAndConquer, division_labels, route
from defenses.segpgd_at_procedure import HalfSegPGD, segpgd_loss

SIZES = ((64, 64), (48, 64))


def batch_of(victim: str, task: str, count: int = 4) -> tuple[Any, torch.Tensor, list[Any], Any]:
    """A model at `ci` size with a preprocessed batch: model, inputs, samples, recipe."""
    dataset = MemoryShapes(train=count, sizes=SIZES)
    recipe = recipe_of(registry.load("victim", victim), dataset, task)
    model = build_initialised_model(recipe, "cpu", seed=0).train()
    none = registry.load("defense", "none")
    loaded = TrainingSamples(dataset, none(), recipe, seed=0)
    data = model.data_preprocessor(collate([loaded.load((i, i)) for i in range(count)]), True)
    return model, data["inputs"], list(data["data_samples"]), recipe


@pytest.fixture(scope="module")
def unet() -> tuple[Any, torch.Tensor, list[Any], Any]:
    return batch_of("unetplusplus", "semantic")


def levels(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    mean, std = statistics(model, inputs)
    return inputs * std + mean


def losses_at(model: Any, samples: list[Any], inputs: torch.Tensor) -> float:
    with torch.no_grad(), evaluating(model):
        return victims_loss(model, samples)(inputs, 0).item()


# ---- the attack ----------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1.0, 7.65, 40.0])
@pytest.mark.parametrize("random_start", [False, True])
def test_the_change_stays_in_its_ball_rounded_or_not(unet, epsilon: float, random_start: bool) -> None:
    model, inputs, samples, _ = unet
    attack = Attack(epsilon, 3, epsilon / 2, random_start)
    attacked = perturb(model, inputs, samples, attack, victims_loss(model, samples))
    clean, changed = levels(model, inputs), levels(model, attacked)
    change = changed - clean
    assert change.abs().max() <= epsilon + 1e-3
    assert changed.min() >= -1e-3 and changed.max() <= 255 + 1e-3
    assert change.abs().max() > 0.9 * epsilon
    whole = clean.round() + torch.trunc(change)  # as an image of 8 bits
    assert (whole - clean.round()).abs().max() <= epsilon and whole.min() >= 0 and whole.max() <= 255
    assert not attacked.requires_grad


def test_the_loss_rises_with_every_step(unet) -> None:
    model, inputs, samples, _ = unet
    loss = victims_loss(model, samples)
    # Small steps of one long attack: step k of it is an attack of k steps.
    values = [
        losses_at(
            model,
            samples,
            perturb(model, inputs, samples, Attack(6.0, steps, 0.5), loss) if steps else inputs,
        )
        for steps in range(9)
    ]
    assert all(after > before for before, after in itertools.pairwise(values)), values


def test_steps_follow_the_gradient_of_finite_differences(unet) -> None:
    """One step of one level, against the signs of difference quotients of the same loss in float64."""
    model, inputs, samples, _ = unet
    target = label_maps(samples)

    def entropy(images: torch.Tensor, step: int) -> torch.Tensor:
        return F.cross_entropy(model.encode_decode(images), target, ignore_index=VOID, reduction="sum")

    model.double()
    try:
        wide = inputs.double()
        mean, std = statistics(model, wide)
        change = ((perturb(model, wide, samples, Attack(1.0, 1, 1.0), entropy) - wide) * std).round()
        rng = np.random.default_rng(0)
        checked = 0
        for _ in range(60):
            n, c, y, x = (int(rng.integers(size)) for size in wide.shape)
            probe = torch.zeros_like(wide)
            probe[n, c, y, x] = 1e-3 / std[c, 0, 0]
            with torch.no_grad(), evaluating(model):
                quotient = (entropy(wide + probe, 0) - entropy(wide - probe, 0)).item()
            level = (wide * std + mean)[n, c, y, x].item()
            if abs(quotient) > 1e-9 and 1 <= level <= 254:
                assert np.sign(quotient) == change[n, c, y, x].item()
                checked += 1
        assert checked > 20
    finally:
        model.float()


def test_padding_is_not_attacked_and_the_model_is_left_as_it_was() -> None:
    model, inputs, samples, _ = batch_of("deeplabv3", "semantic", 2)
    height = samples[0].metainfo["img_shape"][0]
    for sample in samples:
        sample.set_metainfo({"img_shape": (height - 7, 40)})
    model.backbone.eval()  # as a frozen part would be
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    attacked = perturb(model, inputs, samples, Attack(8, 2, 4), victims_loss(model, samples))
    area = image_area(inputs, samples).bool().expand_as(inputs)
    assert torch.allclose(attacked[~area], inputs[~area], atol=1e-6)
    assert (attacked[area] != inputs[area]).float().mean() > 0.3  # its strides pass over the others
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all((parameter.grad == 1).all() for parameter in model.parameters())


def test_a_victim_that_cuts_the_gradient_off_is_told() -> None:
    model, inputs, samples, _ = batch_of("unetplusplus", "binary", 2)

    def cut(changed: torch.Tensor, step: int) -> torch.Tensor:
        return victims_loss(model, samples)(changed.detach(), step)

    with pytest.raises(SpecError, match="frozen_encoder=false"):
        perturb(model, inputs, samples, Attack(8, 1, 8), cut)


def test_the_attack_leaves_auxiliary_heads_out() -> None:
    model, inputs, samples, _ = batch_of("deeplabv3", "semantic", 2)
    with torch.no_grad(), evaluating(model):
        losses = model.loss(inputs, samples)
        assert any(name.startswith("aux") for name in losses)
        alone = sum(v for k, v in losses.items() if "loss" in k and not k.startswith("aux"))
        assert victims_loss(model, samples)(inputs, 0).item() == pytest.approx(alone.item(), rel=1e-5)


def test_segpgd_against_a_loop() -> None:
    rng = np.random.default_rng(1)
    logits = torch.tensor(rng.normal(size=(2, 3, 4, 5)))
    target = torch.tensor(rng.integers(0, 3, (2, 4, 5)))
    target[0, 0, :3] = VOID
    for step in range(4):
        share, total, count = step / 8, 0.0, 0
        for n, y, x in np.ndindex(2, 4, 5):
            label = int(target[n, y, x])
            if label == VOID:
                continue
            scores = logits[n, :, y, x].numpy()
            entropy = np.log(np.exp(scores).sum()) - scores[label]
            total += entropy * (1 - share if scores.argmax() == label else share)
            count += 1
        assert segpgd_loss(logits, target, step, 4).item() == pytest.approx(total / count)


def test_segpgd_turns_more_pixels_over_than_pgd(unet) -> None:
    model, inputs, samples, _ = unet
    target = label_maps(samples)
    train = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(30):  # an untrained network has nothing to lose
        train.zero_grad()
        model.parse_losses(model.loss(inputs, samples))[0].backward()
        train.step()
    segpgd = HalfSegPGD(epsilon=4, steps=4, step_size=1)
    wrong = {}
    for name, loss in (("pgd", victims_loss(model, samples)), ("segpgd", segpgd.attack_loss(model, samples))):
        attacked = perturb(model, inputs, samples, Attack(4, 4, 1), loss)
        with torch.no_grad(), evaluating(model):
            logits = at_size(main_logits(model, attacked), target.shape[-2:], model)
        wrong[name] = ((logits.argmax(1) != target) & (target != VOID)).float().mean().item()
    with torch.no_grad(), evaluating(model):
        clean = ((main_logits(model, inputs).argmax(1) != target) & (target != VOID)).float().mean().item()
    assert wrong["segpgd"] > clean and wrong["segpgd"] > 0.9 * wrong["pgd"]


# ---- the procedures ------------------------------------------------------------------------------


def test_half_of_the_batch_is_clean_and_half_is_attacked(unet) -> None:
    model, inputs, samples, _ = unet
    seen: list[torch.Tensor] = []
    plain = model._run_forward

    def watched(data: dict[str, Any], mode: str) -> Any:
        seen.append(data["inputs"].detach())
        return plain(data, mode)

    procedure = AdversarialTraining().procedure()
    model._run_forward = watched
    try:
        procedure.losses(model, inputs, samples)
    finally:
        del model._run_forward
    assert [len(x) for x in seen] == [2, 2, 2, 4]  # three steps on the second half, then the training
    assert torch.equal(seen[-1][:2], inputs[:2])
    change = levels(model, seen[-1][2:]) - levels(model, inputs[2:])
    assert 7 < change.abs().max() <= 7.65 + 1e-3


def test_without_strength_it_is_the_plain_training() -> None:
    """What adversarial training costs on clean images is the attack's doing and nothing else's."""

    def trained(strength: float | None) -> list[float]:
        model, inputs, samples, _ = batch_of("unetplusplus", "semantic")
        procedure = (
            AdversarialTraining(AdversarialOptions(epsilon=strength)).procedure() if strength else None
        )
        steps, found = torch.optim.Adam(model.parameters(), 1e-3), []
        for _ in range(10):
            losses = procedure.losses(model, inputs, samples) if procedure else model.loss(inputs, samples)
            total, _ = model.parse_losses(losses)
            steps.zero_grad()
            total.backward()
            steps.step()
            found.append(total.item())
        return found

    plain = trained(None)
    assert plain[-1] < 0.9 * plain[0], plain
    assert trained(1e-4) == pytest.approx(plain, rel=2e-3)
    assert trained(30.0)[-1] > plain[-1] + 0.05


def test_the_defaults_are_those_of_the_authors_code() -> None:
    settings = AdversarialOptions().attack()
    assert settings == {
        "epsilon": pytest.approx(0.03 * 255),
        "steps": 3,
        "step_size": pytest.approx(0.01 * 255),
        "random_start": False,
    }


def routed_by_hand(heads: Sequence[torch.Tensor]) -> torch.Tensor:
    main, side, mask = heads
    out = main.clone()
    for n, y, x in np.ndindex(main.shape[0], *main.shape[-2:]):
        if mask[n, 1, y, x] > mask[n, 0, y, x]:
            out[n, :, y, x] = side[n, :, y, x]
    return out


@pytest.mark.parametrize("victim", ["unetplusplus", "deeplabv3", "deeplabv1"])
def test_ddc_at_against_a_case_made_by_hand(victim: str) -> None:
    model, inputs, samples, _ = batch_of(victim, "semantic")
    procedure = DivideAndConquer(epsilon=8, steps=2, step_size=4)
    procedure.attach(model)
    # The mask head chooses both: with its start alone it may choose one head everywhere.
    for name, module in model.named_modules():
        if name.endswith("_mask") and hasattr(module, "conv_seg"):
            torch.nn.init.normal_(module.conv_seg.weight, std=0.3)
    model.eval()  # dropout and norms are the same in every pass
    target = label_maps(samples)
    size = target.shape[-2:]

    def heads(images: torch.Tensor) -> list[torch.Tensor]:
        return [at_size(logits, size, model) for logits in procedure.net.heads(images)]

    def main_entropy(images: torch.Tensor, step: int) -> torch.Tensor:
        return F.cross_entropy(heads(images)[0], target, ignore_index=VOID, reduction="sum")

    attacked = perturb(model, inputs, samples, procedure.attack, main_entropy)
    with torch.no_grad():
        before, after = (routed_by_hand(heads(images[:2])).argmax(1) for images in (inputs, attacked))
        labels = torch.zeros_like(target)
        for n, y, x in np.ndindex(2, *size):
            labels[n, y, x] = int(before[n, y, x] != after[n, y, x])
        mixed = torch.cat([inputs[:2], attacked[2:]])
        routed = routed_by_hand(heads(mixed))
        expected = {"division": F.cross_entropy(heads(mixed)[2], labels)}
        valid = target != VOID
        expected["ce"] = F.cross_entropy(routed, target, ignore_index=VOID, reduction="sum") / valid.sum()
    found = procedure.losses(model, inputs, samples)
    assert 0 < labels[:2].float().mean() < 1 and not labels[2:].any()
    assert found["loss_division"].item() == pytest.approx(expected["division"].item(), rel=1e-4)
    (entropy,) = (v for k, v in found.items() if k.endswith("loss_ce") and not k.startswith("aux"))
    assert entropy.item() == pytest.approx(expected["ce"].item(), rel=1e-4)
    assert any(k.startswith("aux") for k in found) == (victim == "deeplabv3")


def test_the_choice_between_the_heads_has_no_gradient_and_the_chosen_logits_have() -> None:
    main, side, mask = (torch.randn(1, channels, 2, 2, requires_grad=True) for channels in (3, 3, 2))
    route(main, side, mask).sum().backward()
    chosen = mask.argmax(1, keepdim=True) == 1
    assert mask.grad is None
    assert torch.equal(side.grad, chosen.expand_as(side).float())
    assert torch.equal(main.grad, (~chosen).expand_as(main).float())
    before, after = torch.tensor([[[1, 2]]]), torch.tensor([[[1, 3]]])
    assert division_labels(before, after).tolist() == [[[0, 1]]]


@pytest.mark.parametrize("victim", ["unetplusplus", "deeplabv3", "deeplabv1", "deeplabv3plus"])
def test_the_second_heads_are_trained_and_no_part_of_the_victim(victim: str, tmp_path) -> None:
    model, inputs, samples, recipe = batch_of(victim, "binary")
    plain = {name for name, _ in model.named_parameters()}
    procedure = DivideAndConquerTraining().procedure()
    procedure.attach(model)
    added = {name for name, _ in model.named_parameters()} - plain
    assert added and all(name.startswith(procedure.added) for name in added)
    shapes = {name: value.shape for name, value in model.named_parameters()}
    assert {
        shapes[name][0]
        for name in added
        if "mask" in name and name.endswith(("conv_seg.bias", "mask.0.bias"))
    } <= {2}
    total, _ = model.parse_losses(procedure.losses(model, inputs, samples))
    total.backward()
    unreached = [name for name, p in model.named_parameters() if name in added and p.grad is None]
    assert not [name for name in unreached if "mask" in name]
    save_weights(tmp_path / "weights.safetensors", model, procedure.added)
    load_weights(tmp_path / "weights.safetensors", build_initialised_model(recipe, "cpu", seed=1))


def test_defenses_for_pixels_refuse_other_victims() -> None:
    for name in ("ddc_at", "segpgd_at"):
        defense = registry.load("defense", name)()
        for victim, refused in (
            ("unetplusplus", False),
            ("deeplabv1", False),
            ("mask2former", True),
            ("dino", True),
        ):
            reason = defense.refusal(registry.load("victim", victim)(), "semantic")
            assert (reason is not None) == refused
    assert AdversarialTraining().refusal(registry.load("victim", "dino")(), "detection") is None


@pytest.mark.parametrize("name", ["at", "segpgd_at", "ddc_at"])
def test_a_batch_of_one_image_is_adversarial(name: str) -> None:
    model, inputs, samples, _ = batch_of("unetplusplus", "semantic", 1)
    procedure = registry.load("defense", name)().procedure()
    procedure.attach(model)
    total, _ = model.parse_losses(procedure.losses(model, inputs, samples))
    assert torch.isfinite(total)
