"""What is left of a plan: a record is enough for its cell, a finished stage for those that read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import ArtifactCorrupt
from bench.executor import _ranks
from bench.plan import Plan, PlannedCell, make_plan
from bench.records import finished_records, read_record, write_done, write_unfinished
from bench.remaining import remaining
from bench.spec import Matrix, validated
from bench.store import Store

FILES = {
    "evaluate": {"per_image.parquet": "images", "per_class.parquet": "classes", "curve.json": "[]"},
    "train": {"curve.json": "[]"},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def plan_of(store: Store, **changes: Any) -> Plan:
    values = {"protectors": ["unseg"], "victims": ["unetplusplus"], "profile": "ci", "controls": False}
    values |= {"defenses": ["none", "purifier"], **changes}
    return make_plan(validated(Matrix, values, "test"), store)


def finish(store: Store, *stage_ids: tuple[str, str]) -> None:
    """Marks stages as done, with the files that a record is made of."""
    for kind, key in stage_ids:
        folder = store.open_partial(kind, key, {})
        for name, text in FILES.get(kind, {}).items():
            (folder / name).write_text(text)
        made = dict.fromkeys(("cost", "device", "threads", "machine", "versions"))
        store.finish(kind, key, {"summary": {}, **made})


def left(plan: Plan, store: Store) -> Plan:
    return remaining(plan, finished_records(store, [cell.key for cell in plan.cells]), store)


def kinds(plan: Plan) -> list[str]:
    return sorted(kind for kind, _ in (stage.id for stage in plan.stages))


def by_defense(plan: Plan) -> dict[str, PlannedCell]:
    return {cell.cell.defense.name: cell for cell in plan.cells}


def test_of_an_empty_store_all_is_left(store: Store) -> None:
    plan = plan_of(store)
    assert left(plan, store) == plan


def test_records_alone_are_enough(store: Store) -> None:
    plan = plan_of(store)
    for cell in plan.cells:
        finish(store, *cell.stage_ids)
        write_done(store, cell)
        for stage_id in cell.stage_ids:
            store.discard(*stage_id)
    assert left(plan, store).cells == () and left(plan, store).stages == ()


def test_one_record_less_is_one_cell_more_with_all_its_stages(store: Store) -> None:
    plan = plan_of(store)
    plain, purified = (by_defense(plan)[name] for name in ("none", "purifier"))
    finish(store, *plain.stage_ids)
    write_done(store, plain)
    for stage_id in plain.stage_ids:
        store.discard(*stage_id)
    rest = left(plan, store)
    assert rest.cells == (purified,)
    # Two sets to learn from, the protected one; the generator and the purifier.
    assert kinds(rest) == ["data"] * 3 + ["evaluate", "fit", "fit", "protect", "train"]
    assert {stage.id for stage in rest.stages} == {stage.id for stage in plan.stages} - {
        ("train", plain.stages["train"]),
        ("evaluate", plain.key),
    }


def test_what_a_finished_stage_was_made_from_is_not_made_again(store: Store) -> None:
    plan = plan_of(store, defenses=["none"])
    (cell,) = plan.cells
    stages = {stage.id: stage for stage in plan.stages}
    finish(store, ("fit", cell.stages["fit"]), ("protect", cell.stages["protect"]))
    rest = left(plan, store)
    read_by_the_generator = set(stages["fit", cell.stages["fit"]].input_ids)
    assert read_by_the_generator and not read_by_the_generator & {stage.id for stage in rest.stages}
    assert [s.kind for s in rest.stages if not store.is_done(*s.id)] == ["data", "train", "evaluate"]
    assert {stage.id for stage in rest.stages} <= set(_ranks(rest))


def test_a_record_is_made_of_all_stages_of_its_cell(store: Store) -> None:
    plan = plan_of(store, defenses=["none"])
    (cell,) = plan.cells
    finish(store, *cell.stage_ids)
    store.discard("protect", cell.stages["protect"])  # the record tells of it, too
    rest = left(plan, store)
    assert [s.kind for s in rest.stages if not store.is_done(*s.id)] == ["data", "protect"]


def test_a_record_without_its_files_is_none(store: Store) -> None:
    plan = plan_of(store, defenses=["none"])
    (cell,) = plan.cells
    finish(store, *cell.stage_ids)
    write_done(store, cell)
    (store.record_folder(cell.key) / "per_image.parquet").unlink()
    assert left(plan, store).cells == (cell,)
    write_done(store, cell)
    assert (store.record_folder(cell.key) / "per_image.parquet").read_text() == "images"


def test_a_changed_record_is_refused_before_anything_is_run(store: Store) -> None:
    plan = plan_of(store, defenses=["none"])
    (cell,) = plan.cells
    finish(store, *cell.stage_ids)
    write_done(store, cell)
    path = store.record_folder(cell.key) / "record.json"
    path.write_text(path.read_text().replace('"ci"', '"paper"'))
    with pytest.raises(ArtifactCorrupt, match="was changed after it was written"):
        left(plan, store)


@pytest.mark.parametrize("status", ["interrupted", "failed: nan"])
def test_a_result_outlives_the_end_of_another_runner(store: Store, status: str) -> None:
    plan = plan_of(store, defenses=["none"])
    (cell,) = plan.cells
    write_unfinished(store, cell, status, "why")
    assert read_record(store, cell.key)["status"] == status
    finish(store, *cell.stage_ids)
    done = write_done(store, cell)
    assert done["status"] == "done"
    assert write_unfinished(store, cell, status, "why") == done
    assert read_record(store, cell.key) == done


def test_a_plan_of_a_generator_alone_stays_whole(store: Store) -> None:
    plan = plan_of(store, defenses=["none"])
    alone = Plan({}, (), tuple(s for s in plan.stages if s.kind in ("data", "fit")))
    assert left(alone, store) == alone
