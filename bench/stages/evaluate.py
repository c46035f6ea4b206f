"""`evaluate`: a trained victim on clean validation images, and on the images it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets.base import Dataset, Split
from bench.datasets.view import TransformedDataset
from bench.files import write_json
from bench.metrics.base import Scores
from bench.seeds import derive_seed, generator
from bench.stages import StageContext
from bench.stages.train import WEIGHTS, adapted, build_recipe, defense_of, purified, training_dataset
from bench.training.scoring import score
from bench.training.trainer import SNAPSHOTS
from bench.victim import TrainingRecipe

TRAIN_SAMPLE = 200
"""Training images on which the fit to the own data is measured: the first ones by id order."""


def run(context: StageContext) -> dict[str, Any]:
    """Scores the victim; writes `scores.json`, `curve.json`, `per_image.parquet` and `per_class.parquet`.

    A victim that does well on its own protected training images and badly on clean ones has learned the
    noise. One that does badly on both has learned nothing, which is no protection but a broken training.
    """
    identity = context.store.stage_info("train", context.inputs["train"])["identity"]
    train, val = training_dataset(context, identity), context.dataset("val")
    recipe = build_recipe(identity, train)
    own_ids, val_ids = train.ids("train")[:TRAIN_SAMPLE], val.ids("val")
    if "defense" in context.identity:
        train, val = seen_through_the_defense(context, identity, train, val)
    folder = context.input_folder("train")
    weights = folder / WEIGHTS
    snapshots = {int(path.stem): path for path in sorted((folder / SNAPSHOTS).glob("*.safetensors"))}
    counter = _Counter(context, (1 + len(snapshots)) * len(val_ids) + len(own_ids))
    clean = _score(context, recipe, weights, val, "val", val_ids, counter)
    own = _score(context, recipe, weights, train, "train", own_ids, counter)
    curve = [
        {"iteration": iteration, **_score(context, recipe, path, val, "val", val_ids, counter).values}
        for iteration, path in snapshots.items()
    ]
    curve.append({"iteration": recipe.iterations, **clean.values})
    write_json(context.folder / "curve.json", curve)
    _write_parquet(clean, context)
    scores = {
        "primary": clean.primary,
        "val": clean.values,
        "constant": clean.constant,
        "own_train": own.values,
        "own_train_images": len(own_ids),
        "images": len(val.ids("val")),
    }
    write_json(context.folder / "scores.json", scores)
    return scores


def seen_through_the_defense(
    context: StageContext, identity: dict[str, Any], train: Dataset, val: Dataset
) -> tuple[Dataset, Dataset]:
    """Both datasets with their images as a victim sees them whose first step is its defense."""
    defense = defense_of(identity, **context.identity["defense"]["options"])
    (context.folder / "work").mkdir(exist_ok=True)
    seen = train.ids("train") if defense.adapts else train.ids("train")[:TRAIN_SAMPLE]
    train = purified(context, identity, defense, train, {"train": seen})
    val = purified(context, identity, defense, val, {"val": val.ids("val")})
    fitted, seed = adapted(defense, train), derive_seed(identity["seed"], "seen through the defense")

    def change(split: Split, image_id: str, image: np.ndarray) -> np.ndarray:
        return fitted.transform(image, generator(seed, split, image_id))

    return TransformedDataset(train, change), TransformedDataset(val, change)


class _Counter:
    """Images scored so far, for the progress line."""

    def __init__(self, context: StageContext, total: int) -> None:
        self._context, self._total, self._done = context, total, 0

    def advance(self) -> None:
        self._done += 1
        self._context.report(self._done, self._total, "images")


def _score(
    context: StageContext,
    recipe: TrainingRecipe,
    weights: Path,
    dataset: Dataset,
    split: Split,
    ids: tuple[str, ...],
    counter: _Counter,
) -> Scores:
    return score(
        recipe,
        weights,
        dataset,
        split,
        ids,
        device=context.device,
        workers=context.loader_workers,
        advance=counter.advance,
    )


def _write_parquet(scores: Scores, context: StageContext) -> None:
    import pandas

    pandas.DataFrame(scores.per_image).to_parquet(
        context.folder / "per_image.parquet", index=False, compression="zstd"
    )
    pandas.DataFrame(scores.per_class).to_parquet(
        context.folder / "per_class.parquet", index=False, compression="zstd"
    )
