"""Stores with records that were not trained: known predictions, scored by the real metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from bench.datasets.base import Annotation
from bench.keys import key_of
from bench.metrics.base import for_task
from bench.metrics.prediction import SemanticPrediction
from bench.plan import PlannedCell
from bench.records import _head, _write
from bench.spec import Cell, validated
from bench.store import Store

COST = {
    "seconds": 10.0,
    "cpu_seconds": 9.0,
    "gpu_seconds": 0.0,
    "peak_memory_gib": 1.0,
    "peak_gpu_memory_gib": None,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


@pytest.fixture
def add_record(store: Store) -> Callable[..., dict[str, Any]]:
    """Adds the record of a victim that gets a share `accuracy` of the pixels right."""

    def add(
        accuracy: float,
        protector: str = "none",
        seed: int = 0,
        defense: str = "none",
        profile: str = "cpu",
        status: str = "done",
        **changes: Any,
    ) -> dict[str, Any]:
        budget = {"kind": changes.pop("budget", "mask"), "epsilon": 8, "epsilon_background": 2}
        more = changes.pop("defense_with", {})
        options, noise = changes.pop("options", {}), changes.pop("noise", None)
        psnr = changes.pop("psnr", 37.0)
        victim = {"name": changes.pop("victim", "unetplusplus"), "init": changes.pop("init", "scratch")}
        cell = validated(
            Cell,
            {
                "dataset": {"name": "shapes", "options": {"image_size": 64}},
                "protector": {"name": protector, "budget": budget, "options": options},
                "victim": {**victim, "task": "semantic", "options": changes.pop("victim_options", {})},
                "defense": {"name": defense, **more},
                "profile": profile,
                "seed": seed,
                "clean_ratio": changes.pop("clean_ratio", 0.0),
            },
            "test",
        )
        key = f"{protector}-{budget['kind']}-{seed}-{defense}-{cell.victim.name}-{victim['init']}-{profile}"
        key += f"-{cell.clean_ratio}" if cell.clean_ratio else ""
        key += "".join(f"-{name}-{value}" for name, value in {**options, **cell.victim.options}.items())
        key += "".join(f"-{key_of(value)}" for value in more.values())
        made_by = f"data-{key_of(cell.protector.model_dump())}-{seed}"
        planned = PlannedCell(cell, protector, {"protect": made_by, "evaluate": key})
        if status != "done":
            return _write(store, {**_head(planned, status), "reason": "it broke"})
        metric = for_task("semantic", ("background", "disc", "square"))
        rng = np.random.default_rng([seed, 7])
        for i in range(12):
            truth = np.random.default_rng(i).integers(0, 3, (16, 16)).astype(np.uint8)
            wrong = rng.random(truth.shape) > accuracy
            labels = np.where(wrong, (truth + 1) % 3, truth).astype(np.uint8)
            metric.update(f"{i}", SemanticPrediction(labels), Annotation(truth, (), truth > 0))
        scores = metric.compute()
        folder = store.record_folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        pandas.DataFrame(scores.per_image).to_parquet(folder / "per_image.parquet")
        protection = {"psnr": psnr, "ssim": 0.98, "linf_foreground": 8, "linf_background": 2}
        if protector == "none":
            protection = {"psnr": None, "ssim": 1.0, "linf_foreground": 0, "linf_background": 0}
        return _write(
            store,
            {
                **_head(planned, "done"),
                "scores": {
                    "primary": scores.primary,
                    "val": scores.values,
                    "constant": scores.constant,
                    "own_train": scores.values,
                },
                "protection": {**protection, "noise": noise},
                "cost": {"train": COST, "evaluate": COST},
            },
        )

    return add
