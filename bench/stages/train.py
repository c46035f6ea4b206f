"""`train`: a victim under a defense, on a protected dataset."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import registry
from bench.datasets.base import Dataset, Split
from bench.datasets.mixed import MixedDataset, clean_subset
from bench.datasets.purified import PurifiedDataset
from bench.defense import Defense
from bench.files import write_json
from bench.seeds import derive_seed, generator
from bench.stages import StageContext
from bench.victim import DataInfo, TrainingRecipe

WEIGHTS = "weights.safetensors"


def run(context: StageContext) -> dict[str, Any]:
    """Trains; goes on from the last checkpoint in `work/`.

    Writes `weights.safetensors`, `curve.json` (loss and learning rate) and, where the cell asks for a curve of
    the score, `snapshots/`: the weights at evenly spread iterations before the end.
    """
    from bench.training.trainer import SNAPSHOTS, train

    identity = context.identity
    dataset, defense = training_dataset(context, identity), defense_of(identity)
    recipe = build_recipe(identity, dataset)
    work = context.folder / "work"
    work.mkdir(exist_ok=True)
    train_ids = dataset.ids("train")
    dataset = purified(context, identity, defense, dataset, {"train": train_ids})
    defense = adapted(defense, dataset)
    asked = snapshot_iterations(recipe.iterations, identity.get("curve", 0))
    compared = snapshot_iterations(recipe.iterations, defense.checks)
    result = train(
        recipe,
        dataset,
        defense,
        work,
        seed=derive_seed(identity["seed"], "train"),
        device=context.device,
        report=context.report,
        workers=context.loader_workers,
        snapshots=sorted({*asked, *compared}),
    )
    summary = {
        "iterations": recipe.iterations,
        "batch_size": recipe.batch_size,
        "images": len(train_ids),
        "notes": list(result.notes),
    }
    weights = result.weights
    if compared:
        candidates = {i: result.snapshots[i] for i in compared} | {recipe.iterations: result.weights}
        chosen, scores = best_on_held_out(context, identity, recipe, candidates)
        weights = candidates[chosen]
        summary["early_stop"] = {"iteration": chosen, "held_out_scores": scores}
    kept = [result.snapshots[iteration] for iteration in asked]
    if weights in kept:  # the curve needs them, too
        shutil.copyfile(weights, context.folder / WEIGHTS)
    else:
        weights.replace(context.folder / WEIGHTS)
    for path in kept:
        (context.folder / SNAPSHOTS).mkdir(exist_ok=True)
        path.replace(context.folder / SNAPSHOTS / path.name)
    write_json(context.folder / "curve.json", result.curve)
    return summary


def defense_of(identity: dict[str, Any], **scoring: Any) -> Defense:
    """The defense of a `train` stage, with options that are only read when the victim is scored."""
    plugin = registry.load("defense", identity["defense"]["name"])
    return plugin(plugin.Options(**{**identity["defense"]["options"], **scoring}))


def adapted(defense: Defense, dataset: Dataset) -> Defense:
    """The defense once it has seen the training images."""
    ids = dataset.ids("train")
    return defense.adapt((dataset.image("train", i), dataset.annotation("train", i)) for i in ids)


def purified(
    context: StageContext,
    identity: dict[str, Any],
    defense: Defense,
    dataset: Dataset,
    ids: dict[Split, Iterable[str]],
) -> Dataset:
    """The dataset with the images of `ids` as the defense cleans them; the files lie in `work/`.

    Args:
        context: The stage.
        identity: Identity of the victim's training.
        defense: Its defense.
        dataset: Has the images.
        ids: Which images, by split.
    """
    if not defense.purifies:
        return dataset
    state = None
    if defense.learns:
        state = defense.load(context.input_folder("fit") / "state", context.device)
    seed = derive_seed(identity["seed"], "purify")
    view = PurifiedDataset(dataset, context.folder / "work" / "purified")
    for split, wanted in ids.items():
        view.write(
            split, wanted, lambda i, image: defense.purify(image, state, generator(seed, i)), context.report
        )
    return view


def best_on_held_out(
    context: StageContext, identity: dict[str, Any], recipe: TrainingRecipe, candidates: dict[int, Path]
) -> tuple[int, dict[int, float]]:
    """The iteration whose weights do best on the clean images that were held out, and the score of each.

    Of equal ones the earliest.
    """
    from bench.training.scoring import score

    source = context.dataset("clean")
    held = held_out_ids(identity, source.ids("train"))
    ids = tuple(image_id for image_id in source.ids("train") if image_id in held)
    scores = {}
    for iteration, weights in sorted(candidates.items()):
        found = score(
            recipe,
            weights,
            source,
            "train",
            ids,
            device=context.device,
            workers=context.loader_workers,
        )
        scores[iteration] = float(found.values[found.primary] or 0.0)
        context.report(len(scores), len(candidates), "weights compared on held-out images")
    return max(scores, key=lambda iteration: scores[iteration]), scores


def held_out_ids(identity: dict[str, Any], ids: Iterable[str]) -> frozenset[str]:
    """The training images that the attacker has clean and does not train on."""
    share = defense_of(identity).held_out
    return clean_subset(ids, share, identity["seed"], "held-out images") if share else frozenset()


def training_dataset(context: StageContext, identity: dict[str, Any]) -> Dataset:
    """What a `train` stage of this identity trains on.

    The protected images, mixed with clean ones where that was asked for, without those that the defense holds out.
    """
    protected = context.dataset("train")
    ids, mixture = protected.ids("train"), identity.get("mixture")
    left_out, clean = held_out_ids(identity, ids), frozenset[str]()
    if mixture is not None:
        clean = clean_subset(ids, mixture["clean_ratio"], identity["seed"])
        left_out |= frozenset(ids) - clean if mixture["clean_only"] else frozenset()
    if not clean and not left_out:
        return protected
    return MixedDataset(protected, context.dataset("clean"), clean, left_out)


def snapshot_iterations(total: int, points: int) -> list[int]:
    """Where a curve of `points` scores lies in a training of `total` iterations, without its end."""
    return sorted({round(total * k / points) for k in range(1, points)} - {0, total}) if points else []


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
