"""Estimates of a plan's time and disk, from stages whose cost is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import estimate
from bench.estimate import Costs, estimate_lines
from bench.plan import Plan, Stage, make_plan
from bench.spec import Execution, Matrix, validated
from bench.store import Store

SECONDS = {"data": 2.0, "fit": 100.0, "protect": 3.0, "train": 50.0, "evaluate": 5.0}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(estimate, "reference", Costs)
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def plan_of(store: Store, **changes: Any) -> Plan:
    values = {"protectors": ["random"], "victims": ["unetplusplus"], "profile": "ci", "controls": False}
    return make_plan(validated(Matrix, {**values, **changes}, "test"), store)


def finish(store: Store, stage: Stage, seconds: float | None = None, size: int = 1000) -> None:
    """Puts a stage into the store that took a known time on one thread."""
    folder = store.open_partial(stage.kind, stage.key, {})
    (folder / "made").write_bytes(b"x" * size)
    taken = SECONDS[stage.kind] if seconds is None else seconds
    cost = {"seconds": 2 * taken, "cpu_seconds": taken, "gpu_seconds": 0.0}  # the core was shared with others
    iterations = stage.identity.get("victim", {}).get("options", {}).get("iterations")
    info = {"kind": stage.kind, "key": stage.key, "identity": stage.identity, "inputs": stage.inputs}
    summary = {"iterations": iterations} if iterations else {}
    store.finish(stage.kind, stage.key, {**info, "summary": summary, "cost": cost, "threads": 1})


def lines(store: Store, plan: Plan, jobs: int = 1) -> list[str]:
    return estimate_lines(plan, store, Execution(store=store.root, device="cpu", jobs=jobs, threads=1))


def test_nothing_is_known_at_first_and_all_of_it_once_it_was_run(store: Store) -> None:
    plan = plan_of(store)
    assert lines(store, plan) == [
        "estimate: unknown for 4 of 4 stages: draw shapes, protect with random 8/255 mask, 2/255 outside, "
        "train unetplusplus on random 8/255 mask, 2/255 outside and 1 more"
    ]
    for stage in plan.stages:
        finish(store, stage, size=2**20)
    assert lines(store, plan) == ["estimate: nothing is left to do"]
    # Another seed is the same work: only the drawn data are shared.
    (line,) = lines(store, plan_of(store, seeds=[1]))
    assert line.startswith(
        "estimate: 58 s of work, 58 s with 1 job at a time; 3 MiB of disk (3 from this store)"
    )


def test_jobs_share_the_work_but_not_a_chain(store: Store) -> None:
    for stage in plan_of(store).stages:
        finish(store, stage)
    (two,) = lines(store, plan_of(store, seeds=[1, 2]), jobs=2)
    assert "1 min 56 s of work, 58 s with 2 jobs" in two
    (many,) = lines(store, plan_of(store, seeds=[1, 2]), jobs=8)
    assert "58 s with 8 jobs" in many


def test_a_longer_training_is_estimated_by_its_iterations(store: Store) -> None:
    def plan(iterations: int) -> Plan:
        return plan_of(store, victims=[{"name": "unetplusplus", "options": {"iterations": iterations}}])

    for stage in plan(10).stages:
        finish(store, stage)
    (line,) = lines(store, plan(40))
    assert line.startswith("estimate: 3 min 25 s of work")  # 4 x 50 s of training, 5 s of evaluation
    other = lines(store, plan_of(store, victims=["deeplabv3"]))
    assert other[-1].startswith("estimate: unknown for 2 of 2 stages: train deeplabv3")


def test_a_defense_that_was_never_run_takes_what_it_declares_at_most(store: Store) -> None:
    for stage in plan_of(store).stages:
        finish(store, stage)
    (at,) = lines(store, plan_of(store, defenses=["at"]))
    # The data are there; 5 x 50 s of training, 5 s of evaluation.
    assert at.startswith("estimate: 4 min 15 s of work") and "2 from what the defense declares at most" in at
    (seen,) = lines(store, plan_of(store, defenses=["none", "gaussian"]))
    assert seen.startswith("estimate: 55 s of work")
    other = lines(store, plan_of(store, victims=["deeplabv3"], defenses=["at"]))
    assert other[-1].startswith("estimate: unknown for 2 of 2 stages")


def test_a_damaged_stage_is_passed_over(store: Store) -> None:
    plan = plan_of(store)
    for stage in plan.stages:
        finish(store, stage)
    damaged = store.stage_folder("protect", next(s.key for s in plan.stages if s.kind == "protect"))
    (damaged / "stage.json").write_text("{")
    assert any("unknown" in line for line in lines(store, plan_of(store, seeds=[1])))


def test_the_shipped_reference_is_of_this_version(tmp_path: Path) -> None:
    path = Path(estimate.__file__).parent / estimate.REFERENCE
    entries = json.loads(path.read_text(encoding="utf-8"))
    assert len({entry["exact"] for entry in entries}) == len(entries)
    assert all(entry["seconds"] > 0 and entry["bytes"] >= 0 for entry in entries)
    store = Store(tmp_path)
    store.prepare()
    plan = plan_of(store, protectors=["unseg"], profile="cpu", controls=True)
    known = estimate_lines(plan, store, Execution(store=tmp_path, device="cpu", jobs=2))
    assert "reference measurements" in known[0]
