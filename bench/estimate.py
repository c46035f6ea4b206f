"""What a plan will cost, in time and disk, from stages that were measured before.

A stage is looked up among the finished stages of the store, then among reference measurements of 2-core machines
(`reference_costs.json`, profile `cpu`): by everything that its cost depends on, else by its victim, task and profile,
in proportion to the iterations. Under a defense that was never measured a training is taken for as long as the
plain one times what the defense declares at most. What is known from none of these is said to be unknown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

from bench import registry
from bench.datasets.layout import plural
from bench.errors import ArtifactCorrupt
from bench.executor import resolve_device, resolve_jobs
from bench.keys import key_of
from bench.plan import Plan, Stage
from bench.progress import duration
from bench.spec import Execution
from bench.store import STAGE_FILE, Store

REFERENCE = "reference_costs.json"


@dataclass(frozen=True)
class Cost:
    """What a stage took.

    Attributes:
        seconds: Seconds of one core on a CPU, of the GPU on a GPU.
        size: Bytes on disk.
        iterations: Length of a training; None elsewhere.
    """

    seconds: float
    size: int
    iterations: int | None = None


class Costs:
    """Measured costs by what they depend on."""

    def __init__(self) -> None:
        self.exact: dict[str, list[Cost]] = {}
        self.similar: dict[str, list[Cost]] = {}

    def add(self, exact: str, similar: str, cost: Cost) -> None:
        """Adds a measurement under both of its names."""
        self.exact.setdefault(exact, []).append(cost)
        if similar:
            self.similar.setdefault(similar, []).append(cost)

    def find(self, exact: str, similar: str, iterations: int | None) -> Cost | None:
        """The middle one of the measurements of this work; of similar work, in proportion to `iterations`."""
        if exact in self.exact:
            return _middle(self.exact[exact])
        costs = self.similar.get(similar, [])
        if not costs:
            return None
        if iterations is None or any(cost.iterations is None for cost in costs):
            return _middle(costs)
        per_iteration = median(cost.seconds / max(cost.iterations or 1, 1) for cost in costs)
        return Cost(per_iteration * iterations, _middle(costs).size, iterations)


Books = Sequence[tuple[str, Costs]]
"""Where costs are looked up, in this order, with what the answer calls each."""


def names(identity: dict[str, Any], upstream: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """What the cost of a stage depends on, and what that of a similar one does; the latter may be empty.

    Args:
        identity: Identity of the stage.
        upstream: Identities of the stages that it reads, by kind.
    """
    kind = identity["stage"]
    if kind in ("data", "fit", "protect"):
        left_out = ("seed", "fit") if kind == "protect" else ("seed",)
        return key_of({k: v for k, v in identity.items() if k not in left_out}), ""
    training = identity if kind == "train" else upstream["train"]
    exact = {k: v for k, v in training.items() if k not in ("seed", "protect", "stage")}
    exact["defense"] = {k: v for k, v in training["defense"].items() if k != "fit"}
    exact |= {"stage": kind, "data": upstream["protect"]["data"]}
    return key_of(exact), _similar(kind, training, training["defense"]["name"])


def _similar(kind: str, training: dict[str, Any], defense: str) -> str:
    victim = training["victim"]
    return f"{kind} {victim['name']} {victim['task']} {training['profile']} {defense}"


def measured(store: Store) -> Iterator[tuple[tuple[str, str], Cost, dict[str, Any]]]:
    """Names, cost and identity of every finished stage of a store; damaged ones are passed over."""
    infos: dict[str, dict[str, Any]] = {}
    for path in sorted((store.root / "stages").glob(f"*/*/{STAGE_FILE}")):
        try:
            infos[path.parent.name] = store.stage_info(path.parent.parent.name, path.parent.name)
        except ArtifactCorrupt:
            continue
    for key, info in infos.items():
        try:
            upstream = _upstream(info["inputs"], {k: i["identity"] for k, i in infos.items()}, infos)
            found = names(info["identity"], upstream)
        except KeyError:  # a stage that it read is gone
            continue
        cost, threads = info["cost"], max(info["threads"] or 1, 1)
        seconds = cost["gpu_seconds"] or min(cost["cpu_seconds"], cost["seconds"] * threads)
        size = _size(store.stage_folder(info["kind"], key))
        yield found, Cost(seconds, size, info["summary"].get("iterations")), info["identity"]


def of_store(store: Store) -> Costs:
    """The costs of a store's finished stages."""
    costs = Costs()
    for found, cost, _ in measured(store):
        costs.add(*found, cost)
    return costs


def reference() -> Costs:
    """The costs that `benchmarks/reference_costs.py` measured."""
    text = files("bench").joinpath(REFERENCE).read_text(encoding="utf-8")
    costs = Costs()
    for entry in json.loads(text):
        cost = Cost(entry["seconds"], entry["bytes"], entry["iterations"])
        costs.add(entry["exact"], entry["similar"], cost)
    return costs


def estimate_lines(plan: Plan, store: Store, execution: Execution) -> list[str]:
    """How long the stages of a plan that are not done yet will take, and what they will write."""
    device = resolve_device(execution)
    jobs, _ = resolve_jobs(execution, device)
    identities = {stage.key: stage.identity for stage in plan.stages}
    inputs = {stage.key: {"inputs": stage.inputs} for stage in plan.stages}
    known = (("this store", of_store(store)), ("reference measurements on 2 CPU cores", reference()))
    sources: Counter[str] = Counter()
    costs: dict[tuple[str, str], Cost] = {}
    unknown: list[Stage] = []
    for stage in plan.stages:
        if store.is_done(stage.kind, stage.key):
            continue
        upstream = _upstream(stage.inputs, identities, inputs)
        iterations = stage.identity.get("victim", {}).get("options", {}).get("iterations")
        found = _found(names(stage.identity, upstream), iterations, known)
        found = found or _bound(stage, upstream, iterations, known)
        if found:
            costs[stage.id], source = found
            sources[source] += 1
        else:
            unknown.append(stage)
    left = len(costs) + len(unknown)
    if not left:
        return ["estimate: nothing is left to do"]
    seconds = sum(cost.seconds for cost in costs.values())
    wall = max(seconds / jobs, _longest_path(plan, costs))
    size = sum(cost.size for cost in costs.values())
    where = ", ".join(f"{count} from {source}" for source, count in sources.items())
    lines = []
    if costs:
        lines.append(
            f"estimate: {duration(seconds)} of work, {duration(wall)} with {plural(jobs, 'job')} at a time; "
            f"{size / 2**20:.0f} MiB of disk ({where})"
        )
    if unknown:
        labels = list(dict.fromkeys(stage.label for stage in unknown))
        more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
        lines.append(f"estimate: unknown for {len(unknown)} of {left} stages: {', '.join(labels[:3])}{more}")
    return lines


def _found(name: tuple[str, str], iterations: int | None, books: Books) -> tuple[Cost, str] | None:
    """The cost of what has these names, and where it was measured: in the first book that has it."""
    for source, book in books:
        cost = book.find(*name, iterations)
        if cost is not None:
            return cost, source
    return None


def _bound(
    stage: Stage, upstream: dict[str, dict[str, Any]], iterations: int | None, books: Books
) -> tuple[Cost, str] | None:
    """What a stage costs at most if the defense takes what it declares; None if the plain one is unknown."""
    if stage.kind not in ("train", "evaluate"):
        return None
    training = stage.identity if stage.kind == "train" else upstream["train"]
    plain = _found(("", _similar(stage.kind, training, "none")), iterations, books)
    if plain is None:
        return None
    factor = (
        registry.load("defense", training["defense"]["name"]).time_factor if stage.kind == "train" else 1.0
    )
    return replace(plain[0], seconds=factor * plain[0].seconds), "what the defense declares at most"


def _middle(costs: Iterable[Cost]) -> Cost:
    ordered = sorted(costs, key=lambda cost: cost.seconds)
    return ordered[len(ordered) // 2]


def _upstream(
    inputs: dict[str, str], identities: dict[str, dict[str, Any]], infos: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Identities of the `protect` and `train` stages that a stage reads, directly or not."""
    found: dict[str, dict[str, Any]] = {}
    for role, key in inputs.items():
        kind = role.rstrip("0123456789")
        if kind in ("protect", "train"):
            found[kind] = identities[key]
            found = _upstream(infos[key]["inputs"], identities, infos) | found
    return found


def _longest_path(plan: Plan, costs: dict[tuple[str, str], Cost]) -> float:
    """Seconds of the longest chain of stages that wait for one another; the plan is in that order."""
    ends: dict[str, float] = {}
    for stage in plan.stages:
        begin = max((ends.get(key, 0.0) for key in stage.inputs.values()), default=0.0)
        cost = costs.get(stage.id)
        ends[stage.key] = begin + (cost.seconds if cost else 0.0)
    return max(ends.values(), default=0.0)


def _size(folder: Path) -> int:
    """Bytes of a folder's own files; what is linked from elsewhere too costs nothing."""
    status = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(one.st_size for one in status if one.st_nlink == 1)
