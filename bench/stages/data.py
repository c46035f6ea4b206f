"""`data`: writes a dataset that is drawn by code, or a resized copy of one that is not."""

from __future__ import annotations

import shutil
from typing import Any

from bench import registry
from bench.stages import StageContext


def run(context: StageContext) -> dict[str, Any]:
    """Writes the dataset to `dataset/` in its layout."""
    target = context.folder / "dataset"
    shutil.rmtree(target, ignore_errors=True)  # of an interrupted attempt
    adapter = registry.load("dataset", context.identity["dataset"])
    if adapter.generated:
        dataset = adapter(target, adapter.Options(**context.identity["options"]))
        dataset.generate(context.report)
    else:
        from bench.datasets.resize import resize_dataset

        resize_dataset(context.dataset("source"), target, context.identity["image_size"], context.report)
        dataset = adapter(target, adapter.Options(**context.identity["options"]))
    dataset.check()
    return {"images": {split: len(dataset.ids(split)) for split in ("train", "val")}}
