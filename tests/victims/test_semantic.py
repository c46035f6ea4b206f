"""What victims of label maps share: sizes that cannot be trained, learning rates of heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_support import Identity, MemoryShapes, recipe_of

from bench import registry
from bench.errors import SpecError
from bench.training.trainer import train
from bench.victim import DataInfo
from victims.semantic import SemanticVictim

VICTIMS = ("unetplusplus", "deeplabv1", "deeplabv3", "deeplabv3plus")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def recipe(name: str, profile: str, data: DataInfo, task: str = "semantic", **options: Any) -> Any:
    victim: type[SemanticVictim] = registry.load("victim", name)
    return victim(victim.resolve_options(profile, options)).recipe(data, task, "scratch", profile)  # type: ignore[arg-type]


def data(classes: int = 6, image_size: int = 64) -> DataInfo:
    return DataInfo(tuple(map(str, range(classes))), (), image_size=image_size, train_images=80)


@pytest.mark.parametrize("name", VICTIMS)
def test_images_smaller_than_a_cell_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"training images of 3 px .*with the option image_size=\d+"):
        recipe(name, "cpu", data(image_size=3))
    recipe(name, "cpu", data(image_size=3), image_size=64)
    with pytest.raises(SpecError, match="training images of 5 px"):
        recipe(name, "paper", data(image_size=500), crop_size=5)


@pytest.mark.parametrize("name", VICTIMS)
def test_class_counts_that_do_not_fit_a_label_map_are_refused(name: str) -> None:
    for classes in (1, 256):
        with pytest.raises(SpecError, match=f"tells 2 to 255 classes apart, and the dataset has {classes}"):
            recipe(name, "cpu", data(classes))
        recipe(name, "cpu", data(classes), "binary")
    recipe(name, "cpu", data(255))


def test_batches_of_one_are_refused_where_batch_norm_would_see_one_value() -> None:
    for name in ("deeplabv3", "deeplabv3plus"):
        with pytest.raises(SpecError, match="batch_size=1"):
            recipe(name, "cpu", data(), batch_size=1)
    with pytest.raises(SpecError, match="batch_size=1"):
        recipe("unetplusplus", "cpu", data(image_size=8), batch_size=1)
    recipe("unetplusplus", "cpu", data(image_size=9), batch_size=1)
    recipe("deeplabv1", "cpu", data(), batch_size=1)


@pytest.mark.parametrize("name", VICTIMS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_heads_keep_their_factor_of_the_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, optimizer: str
) -> None:
    from bench.training import hooks

    seen: list[dict[str, float]] = []
    plain = hooks.SeedHook.before_train_iter

    def looking(self: Any, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        plain(self, runner, batch_idx, data_batch)
        names = {id(parameter): name for name, parameter in runner.model.named_parameters()}
        groups = runner.optim_wrapper.optimizer.param_groups
        seen.append({names[id(group["params"][0])]: group["lr"] for group in groups})

    monkeypatch.setattr(hooks.SeedHook, "before_train_iter", looking)
    made = recipe_of(
        registry.load("victim", name),
        dataset := MemoryShapes(train=4),
        "semantic",
        iterations=10,
        batch_size=2,
        optimizer=optimizer,
        learning_rate=1e-3,
        head_rate_factor=5.0,
    )
    train(made, dataset, Identity(), tmp_path, seed=0, device="cpu")
    body = ("backbone", "net.encoder")
    rates = []
    for groups in seen:
        (slow,) = {rate for name, rate in groups.items() if name.startswith(body)}
        (fast,) = {rate for name, rate in groups.items() if not name.startswith(body)}
        assert fast == pytest.approx(5 * slow)
        rates.append(slow)
    assert len(rates) == 10 and max(rates) == pytest.approx(1e-3)
    if optimizer == "adamw":
        assert rates.index(max(rates)) in (2, 3) and rates[0] == pytest.approx(4e-5) and rates[-1] < 1e-4
    else:
        assert rates == sorted(rates, reverse=True)
