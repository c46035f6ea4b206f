"""What every victim does for every one of its tasks."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_support import Identity, MemoryShapes, recipe_of

from bench import registry
from bench.errors import SpecError
from bench.metrics.base import for_task
from bench.profiles import PROFILES
from bench.training.inference import predict
from bench.training.trainer import train
from bench.victim import DataInfo, Victim

SIZES = ((64, 64), (37, 52), (64, 41), (33, 33))
VICTIMS = (
    "unetplusplus",
    "deeplabv1",
    "deeplabv3",
    "deeplabv3plus",
    "mask2former",
    "sam_hq",
    "rsprompter",
    "dino",
    "config_file",
)
CASES = [(name, task) for name in VICTIMS for task in registry.load("victim", name).tasks]
CONFIGS = {
    "semantic": "fcn",
    "binary": "fcn",
    "instance": "mask_rcnn",
    "panoptic": "mask2former",
    "detection": "dino",
}
"""A config file for each task, in the folder `configs` beside this file."""
LABEL_MAPS = [(name, task) for name, task in CASES if task in ("semantic", "binary", "interactive")]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def victim(name: str) -> type[Victim]:
    return registry.load("victim", name)


@cache
def given(name: str, task: str) -> dict[str, Any]:
    """Options without which there is no such victim: the content of a config file."""
    if name != "config_file":
        return {}
    return victim(name).options_of(str(Path(__file__).parent / f"configs/{CONFIGS[task]}.py"))


def information(dataset: MemoryShapes) -> DataInfo:
    return DataInfo(dataset.classes, dataset.categories, image_size=50, train_images=80)


def test_every_registered_victim_is_tested_here() -> None:
    assert {listing.name for listing in registry.listings("victim")} == set(VICTIMS)


@pytest.mark.parametrize("name", VICTIMS)
def test_importing_it_imports_nothing_heavy(name: str) -> None:
    module = victim(name).__module__
    check = (
        f"import sys, {module}; sys.exit(bool({{'torch', 'mmengine', 'mmdet', 'timm'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.parametrize(("name", "task"), CASES)
def test_it_trains_and_predicts_at_the_original_size(tmp_path: Path, name: str, task: str) -> None:
    dataset = MemoryShapes(train=6, val=4, sizes=SIZES)
    recipe = recipe_of(victim(name), dataset, task, **given(name, task), iterations=3, batch_size=2)
    result = train(recipe, dataset, Identity(), tmp_path, seed=0, device="cpu")
    metric = for_task(task, dataset.classes, dataset.categories)
    predictions = dict(predict(recipe, result.weights, dataset, "val", device="cpu"))
    assert tuple(predictions) == dataset.ids("val")
    for image_id, prediction in predictions.items():
        metric.update(image_id, prediction, dataset.annotation("val", image_id))  # refuses another size
    assert 0 <= metric.compute().values[metric.compute().primary] <= 1


@pytest.mark.parametrize(("name", "task"), LABEL_MAPS)
def test_a_part_of_a_split_is_predicted_as_the_whole(tmp_path: Path, name: str, task: str) -> None:
    dataset = MemoryShapes(val=4, sizes=SIZES)
    recipe = recipe_of(victim(name), dataset, task, **given(name, task), iterations=3, batch_size=2)
    weights = train(recipe, dataset, Identity(), tmp_path, seed=0, device="cpu").weights
    whole = dict(predict(recipe, weights, dataset, "val", device="cpu"))
    part = list(predict(recipe, weights, dataset, "val", device="cpu", ids=("val3", "val1")))
    assert [image_id for image_id, _ in part] == ["val3", "val1"]
    for image_id, prediction in part:
        assert prediction.labels.dtype == np.uint8
        assert (prediction.labels == whole[image_id].labels).all()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", VICTIMS)
def test_every_profile_has_a_recipe_and_options_override_it(name: str, profile: str) -> None:
    kind, dataset = victim(name), MemoryShapes()
    for task in kind.tasks:
        options = kind.resolve_options(profile, given(name, task))
        assert kind.Options(**options.model_dump(mode="json")) == options
        made = kind(options).recipe(information(dataset), task, "scratch", profile)
        assert made.task == task and made.iterations > 0
    longer = kind.resolve_options("cpu", {**given(name, kind.tasks[0]), "iterations": 7})
    assert kind(longer).recipe(information(dataset), kind.tasks[0], "scratch", "cpu").iterations == 7


@pytest.mark.parametrize("name", VICTIMS)
def test_a_task_or_a_start_that_does_not_exist_is_answered_with_those_that_do(name: str) -> None:
    kind, dataset = victim(name), MemoryShapes()
    made = kind(kind.resolve_options("cpu", given(name, kind.tasks[0])))
    unknown = next(task for task in ("panoptic", "binary") if task not in made.tasks)
    with pytest.raises(SpecError, match=f"has no task '{unknown}': there is .*{made.tasks[0]}"):
        made.recipe(information(dataset), unknown, "scratch", "cpu")
    with pytest.raises(SpecError, match="has no init 'moon': there is scratch"):
        made.recipe(information(dataset), made.tasks[0], "moon", "cpu")  # type: ignore[arg-type]
