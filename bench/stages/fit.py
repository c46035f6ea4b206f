"""`fit`: trains a protector or a defense that learns."""

from __future__ import annotations

from typing import Any

from bench import registry
from bench.learner import FitContext, Learner
from bench.seeds import derive_seed
from bench.stages import StageContext


def run(context: StageContext) -> dict[str, Any]:
    """Fits the plugin; its state is written to `state/`, its checkpoints to `work/`."""
    learner = learner_of(context.identity)
    datasets = [context.dataset(role) for role in sorted(context.datasets, key=_number)]
    work, state = context.folder / "work", context.folder / "state"
    work.mkdir(exist_ok=True)
    state.mkdir(exist_ok=True)
    learner.fit(
        datasets,
        FitContext(
            work_dir=work,
            state_dir=state,
            seed=derive_seed(context.identity["seed"] or 0, "fit", learner.name),
            device=context.device,
            report=context.report,
            loader_workers=context.loader_workers,
        ),
    )
    return {"datasets": [d.name for d in datasets]}


def learner_of(identity: dict[str, Any]) -> Learner:
    """The protector or the defense that a `fit` stage trains."""
    kind = "protector" if "protector" in identity else "defense"
    plugin = registry.load(kind, identity[kind])
    return plugin(plugin.Options(**identity["options"]))


def _number(role: str) -> int:
    return int(role.removeprefix("fit"))
