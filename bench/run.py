"""Runs a matrix: plan, execute, record, and show each row as soon as it is there."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.datasets.layout import plural
from bench.errors import DiskFull, Interrupted
from bench.estimate import estimate_lines
from bench.executor import Executor, Failure
from bench.plan import Plan, Stage, make_plan
from bench.progress import Progress, make_progress
from bench.records import finished_records, write_done, write_unfinished
from bench.remaining import remaining
from bench.spec import Execution, Matrix
from bench.stages.fit import learner_of
from bench.store import Store

SKIPPED = "skipped"
"""What the status of a cell begins with whose defense and victim do not go together."""
MINIMUM_FREE_BYTES = 256 * 2**20
FETCH_INTERVAL = 10.0
"""Seconds between two lines about a download."""


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes:
        plan: What was planned.
        records: Records of all cells, in the plan's order.
    """

    plan: Plan
    records: list[dict[str, Any]]

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Records of cells that should have a result and have none."""
        return [r for r in self.records if r["status"] != "done" and not r["status"].startswith(SKIPPED)]


def run_matrix(
    matrices: Sequence[Matrix],
    execution: Execution,
    on_record: Callable[[dict[str, Any], Progress], None] = lambda record, progress: None,
) -> RunResult:
    """Runs every cell of a table's matrices that is not done yet.

    Args:
        matrices: What to run.
        execution: How.
        on_record: Called with each cell's record as soon as it is there.

    Raises:
        BenchError: Before anything is computed, for what is wrong with the request; `Interrupted` when the
            user stopped it. A cell that fails raises nothing: its record says so.
    """
    store = Store(execution.store)
    store.prepare()
    plan = make_plan(matrices, store)
    finished = finished_records(store, [cell.key for cell in plan.cells])
    left = remaining(plan, finished, store)
    _check_disk(store)
    with make_progress(len(left.stages)) as progress:
        progress.skip(sum(store.is_done(*stage.id) for stage in left.stages))
        prepare_fits(left, store, progress)
        executor = Executor(left, store, execution, progress)
        book = _Book(left, store, executor, on_record, progress)
        book.begin(finished)
        try:
            executor.run(book.on_stage)
        except (Interrupted, DiskFull) as stop:
            book.close("interrupted" if isinstance(stop, Interrupted) else f"failed: {stop.kind}", str(stop))
            raise
    return RunResult(plan, [book.records[c.key] for c in plan.cells])


def prepare_fits(plan: Plan, store: Store, progress: Progress) -> None:
    """Lets the plugins that are to be fitted fetch what they need, before anything is computed.

    Raises:
        EnvironmentFault: Something cannot be fetched; the message says how to get it.
    """
    said = [float("-inf")]

    def report(done: int, total: int, note: str) -> None:
        if time.monotonic() - said[0] >= FETCH_INTERVAL:
            said[0] = time.monotonic()
            progress.message(f"{note}: {done >> 20} of {total >> 20} MiB")

    for stage in plan.stages:
        if stage.kind == "fit" and not store.is_done(stage.kind, stage.key):
            learner_of(stage.identity).prepare(report)


class _Book:
    """Writes the record of a cell when its last stage is settled."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        executor: Executor,
        on_record: Callable[[dict[str, Any], Progress], None],
        progress: Progress,
    ) -> None:
        self.cells = {("evaluate", c.key): c for c in plan.cells if not c.skipped}
        self.skipped = [cell for cell in plan.cells if cell.skipped]
        self.store = store
        self.executor = executor
        self.on_record = on_record
        self.progress = progress
        self.records: dict[str, dict[str, Any]] = {}

    def begin(self, finished: dict[str, dict[str, Any]]) -> None:
        """Says the records that there are, and records the cells that are not run."""
        for key, record in finished.items():
            self._keep(key, record)
        for cell in self.skipped:
            record = write_unfinished(self.store, cell, f"{SKIPPED}: {cell.skipped}", cell.skipped)
            self._keep(cell.key, record)

    def on_stage(self, stage: Stage) -> None:
        cell = self.cells.get(stage.id)
        if cell is None:
            return
        failure: Failure | None = self.executor.outcome.failed.get(stage.id)
        if failure:
            record = write_unfinished(self.store, cell, f"failed: {failure.kind}", failure.message)
        else:
            record = write_done(self.store, cell)
        self._keep(cell.key, record)

    def close(self, status: str, reason: str) -> None:
        """Records the cells that never came to an end."""
        for cell in self.cells.values():
            if cell.key not in self.records:
                try:
                    self._keep(cell.key, write_unfinished(self.store, cell, status, reason))
                except DiskFull:  # what cannot be written is not there, and is run again
                    return

    def _keep(self, key: str, record: dict[str, Any]) -> None:
        self.records[key] = record
        self.on_record(record, self.progress)


def _check_disk(store: Store) -> None:
    free = shutil.disk_usage(store.root).free
    if free < MINIMUM_FREE_BYTES:
        raise DiskFull(
            f"only {free // 2**20} MiB are free where the store {store.root} lies, and a run needs at least "
            f"{MINIMUM_FREE_BYTES // 2**20}: free some, or name another place with --store"
        )


def discard_results(matrices: Sequence[Matrix], execution: Execution) -> None:
    """Removes the trainings, evaluations and records of a table, so that they are done again."""
    store = Store(execution.store)
    store.prepare()
    for cell in make_plan(matrices, store).cells:
        for kind in ("train", "evaluate"):
            if kind in cell.stages:
                store.discard(kind, cell.stages[kind])
        shutil.rmtree(store.record_folder(cell.key), ignore_errors=True)


def dry_run_lines(matrices: Sequence[Matrix], execution: Execution) -> list[str]:
    """The cells and stages of a plan, what of it is done already, and what the rest will cost."""
    store = Store(execution.store)
    store.prepare()
    plan = make_plan(matrices, store)
    finished = finished_records(store, [cell.key for cell in plan.cells])
    left = remaining(plan, finished, store)
    profiles = ", ".join(dict.fromkeys(matrix.profile for matrix in matrices))
    lines = [
        f"{plural(len(plan.cells), 'cell')}, {len(finished)} of them done; "
        f"{plural(len(left.stages), 'stage')} for the others; profile {profiles}"
    ]
    users = Counter(stage_id for cell in left.cells for stage_id in cell.stage_ids)
    for stage in left.stages:
        state = "done" if store.is_done(*stage.id) else "to do"
        shared = f" (for {users[stage.id]} cells)" if users[stage.id] > 1 else ""
        lines.append(f"  {stage.kind:<8} {stage.key}  {state:<5}  {stage.label}{shared}")
    for cell in plan.cells:
        spec = cell.cell
        state = "done" if cell.key in finished else ""
        lines.append(
            f"  cell     {cell.key}  {state:<5}  {spec.victim.name} ({spec.victim.task}), {cell.label}, "
            f"defense {spec.defense.name}, seed {spec.seed}"
            + (f": skipped: {cell.skipped}" if cell.skipped else "")
        )
    return [*lines, *estimate_lines(left, store, execution)]
