"""`train`: a victim under a defense, on a protected dataset."""

from __future__ import annotations

from typing import Any

from bench import registry
from bench.datasets.base import Dataset
from bench.files import write_json
from bench.seeds import derive_seed
from bench.stages import StageContext
from bench.victim import DataInfo, TrainingRecipe

WEIGHTS = "weights.safetensors"


def run(context: StageContext) -> dict[str, Any]:
    """Trains; writes `weights.safetensors` and `curve.json`. Goes on from the last checkpoint in `work/`."""
    from bench.training.trainer import train

    identity = context.identity
    dataset = context.dataset("train")
    recipe = build_recipe(identity, dataset)
    plugin = registry.load("defense", identity["defense"]["name"])
    work = context.folder / "work"
    work.mkdir(exist_ok=True)
    result = train(
        recipe,
        dataset,
        plugin(plugin.Options(**identity["defense"]["options"])),
        work,
        seed=derive_seed(identity["seed"], "train"),
        device=context.device,
        report=context.report,
        workers=context.loader_workers,
    )
    result.weights.replace(context.folder / WEIGHTS)
    write_json(context.folder / "curve.json", result.curve)
    return {
        "iterations": recipe.iterations,
        "batch_size": recipe.batch_size,
        "images": len(dataset.ids("train")),
        "notes": list(result.notes),
    }


def build_recipe(identity: dict[str, Any], dataset: Dataset) -> TrainingRecipe:
    """The training recipe of a `train` stage, from its identity and the dataset that it trains on."""
    spec = identity["victim"]
    plugin = registry.load("victim", spec["name"])
    victim = plugin(plugin.Options(**spec["options"]))
    info = DataInfo(
        classes=dataset.classes,
        categories=dataset.categories,
        image_size=dataset.nominal_side(),
        train_images=len(dataset.ids("train")),
    )
    return victim.recipe(info, spec["task"], spec["init"], identity["profile"])
