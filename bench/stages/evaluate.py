"""`evaluate`: a trained victim on clean validation images, and on the images it was trained on."""

from __future__ import annotations

from typing import Any

from bench.datasets.base import Dataset, Split
from bench.errors import TrainingDiverged
from bench.files import write_json
from bench.metrics.base import Scores, for_task
from bench.stages import StageContext
from bench.stages.train import WEIGHTS, build_recipe
from bench.victim import TrainingRecipe

TRAIN_SAMPLE = 200
"""Training images on which the fit to the own data is measured: the first ones by id order."""


def run(context: StageContext) -> dict[str, Any]:
    """Scores the victim; writes `scores.json`, `per_image.parquet` and `per_class.parquet`.

    A victim that does well on its own protected training images and badly on clean ones has learned the
    noise. One that does badly on both has learned nothing, which is no protection but a broken training.
    """
    identity = context.store.stage_info("train", context.inputs["train"])["identity"]
    train, val = context.dataset("train"), context.dataset("val")
    recipe = build_recipe(identity, train)
    own_ids = train.ids("train")[:TRAIN_SAMPLE]
    total = len(val.ids("val")) + len(own_ids)
    clean = _score(context, recipe, val, "val", val.ids("val"), 0, total)
    own = _score(context, recipe, train, "train", own_ids, len(val.ids("val")), total)
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


def _score(
    context: StageContext,
    recipe: TrainingRecipe,
    dataset: Dataset,
    split: Split,
    ids: tuple[str, ...],
    done: int,
    total: int,
) -> Scores:
    from bench.training.inference import predict

    metric = for_task(recipe.task, dataset.classes, dataset.categories)
    weights = context.input_folder("train") / WEIGHTS
    predictions = predict(
        recipe, weights, dataset, split, device=context.device, ids=ids, workers=context.loader_workers
    )
    for image_id, prediction in predictions:
        metric.update(image_id, prediction, dataset.annotation(split, image_id))
        done += 1
        context.report(done, total, "images")
    scores = metric.compute()
    if scores.values.get(scores.primary) is None:
        raise TrainingDiverged(
            f"no {scores.primary} can be computed on split {split!r}: nothing is labelled there"
        )
    return scores


def _write_parquet(scores: Scores, context: StageContext) -> None:
    import pandas

    pandas.DataFrame(scores.per_image).to_parquet(context.folder / "per_image.parquet", index=False)
    pandas.DataFrame(scores.per_class).to_parquet(context.folder / "per_class.parquet", index=False)
