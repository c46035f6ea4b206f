"""`fit`: trains a protector that learns."""

from __future__ import annotations

from typing import Any

from bench import registry
from bench.protector import FitContext
from bench.seeds import derive_seed
from bench.stages import StageContext


def run(context: StageContext) -> dict[str, Any]:
    """Fits the protector; its state is written to `state/`, its checkpoints to `work/`."""
    plugin = registry.load("protector", context.identity["protector"])
    protector = plugin(plugin.Options(**context.identity["options"]))
    datasets = [context.dataset(role) for role in sorted(context.datasets, key=_number)]
    work, state = context.folder / "work", context.folder / "state"
    work.mkdir(exist_ok=True)
    state.mkdir(exist_ok=True)
    protector.fit(
        datasets,
        FitContext(
            work_dir=work,
            state_dir=state,
            seed=derive_seed(context.identity["seed"] or 0, "fit", plugin.name),
            device=context.device,
            report=context.report,
            loader_workers=context.loader_workers,
        ),
    )
    return {"datasets": [d.name for d in datasets]}


def _number(role: str) -> int:
    return int(role.removeprefix("fit"))
