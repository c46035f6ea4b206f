"""What is left to do of a plan, given what its store holds.

A record tells all about its cell, so a cell with a record needs none of its stages: they can be removed to free the
disk, and records that were made elsewhere are gone on from.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from bench.plan import Plan
from bench.store import Store


def remaining(plan: Plan, recorded: Collection[str], store: Store) -> Plan:
    """The plan without the cells that have a record, and without the stages that nothing else waits for.

    A finished stage that is waited for stays in the plan; what it was made from is not made again.

    Args:
        plan: What was asked for. One without cells, the training of a protector alone, stays whole.
        recorded: Keys of the cells that have a record.
        store: Says which stages are finished.
    """
    if not plan.cells:
        return plan
    cells = tuple(cell for cell in plan.cells if cell.key not in recorded)
    stages = {stage.id: stage for stage in plan.stages}
    wanted: set[tuple[str, str]] = set()
    asked = [stage_id for cell in cells for stage_id in cell.stage_ids]
    while asked:
        stage_id = asked.pop()
        if stage_id in wanted:
            continue
        wanted.add(stage_id)
        if not store.is_done(*stage_id):
            asked += stages[stage_id].input_ids
    return replace(plan, cells=cells, stages=tuple(s for s in plan.stages if s.id in wanted))
