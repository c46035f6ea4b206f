"""Works a plan off: one worker process per stage, a few at a time, each in its own process group."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import bench
from bench.errors import DiskFull, EnvironmentFault, Interrupted, StageBusy
from bench.machine import gpu_names, usable_cores
from bench.nursery import Nursery, NurseryProcess
from bench.plan import Plan, Stage
from bench.progress import Progress
from bench.spec import Execution
from bench.stages import HEAVY
from bench.store import Store

GRACE_SECONDS = 60
"""How long an interrupted worker may take to write its checkpoint."""
POLL_SECONDS = 2.0
"""How often a stage that another runner works on is looked at."""


@dataclass
class Failure:
    """Why a stage did not finish. `kind` and `message` go into the record."""

    kind: str
    message: str


@dataclass
class Outcome:
    """What became of the stages of a plan."""

    done: set[tuple[str, str]] = field(default_factory=set)
    failed: dict[tuple[str, str], Failure] = field(default_factory=dict)
    interrupted: bool = False


@dataclass
class _Worker:
    stage: Stage
    process: subprocess.Popen | NurseryProcess
    slots: tuple[int, ...]


def resolve_device(execution: Execution) -> str:
    """`cpu` or `cuda[:i]` for `auto`; asks the driver, so that torch stays unloaded.

    Raises:
        EnvironmentFault: CUDA was asked for and there is no such GPU.
    """
    gpus = gpu_names()
    if execution.device == "auto":
        return "cuda" if gpus else "cpu"
    if execution.device.startswith("cuda"):
        index = int(execution.device.partition(":")[2] or 0)
        if not gpus:
            raise EnvironmentFault(
                "CUDA was asked for (--device) and the machine shows no GPU: use --device cpu"
            )
        if index >= len(gpus):
            raise EnvironmentFault(f"--device {execution.device}: the machine shows {len(gpus)} GPU(s)")
    return execution.device


def resolve_jobs(execution: Execution, device: str) -> tuple[int, int]:
    """(jobs, threads per job). Small trainings use one core well and two badly, so cores become jobs first.

    Raises:
        EnvironmentFault: A fit is to be shared by more processes than there are GPUs or jobs.
    """
    cores = usable_cores()
    shared = execution.fit_processes
    if shared > 1 and device.startswith("cuda") and (":" in device or shared > len(gpu_names())):
        raise EnvironmentFault(
            f"--fit-processes {shared} takes as many GPUs, and there are "
            f"{1 if ':' in device else len(gpu_names())} (--device {device})"
        )
    if execution.jobs and execution.jobs < shared:
        raise EnvironmentFault(f"--fit-processes {shared} needs --jobs {shared}, not {execution.jobs}")
    if execution.jobs:
        jobs = execution.jobs
    elif device.startswith("cuda"):
        jobs = 1 if ":" in device else max(1, len(gpu_names()))
    else:
        jobs = max(shared, min(cores, 4))
    return jobs, execution.threads or max(1, cores // jobs)


class Executor:
    """Runs the stages of a plan that are not done yet, and calls back as cells become complete."""

    def __init__(self, plan: Plan, store: Store, execution: Execution, progress: Progress) -> None:
        self.plan = plan
        self.store = store
        self.execution = execution
        self.progress = progress
        self.device = resolve_device(execution)
        self.jobs, self.threads = resolve_jobs(execution, self.device)
        self.outcome = Outcome()
        self.workers: dict[tuple[str, str], _Worker] = {}
        self.nursery: Nursery | None = None
        self.waiting: list[Stage] = []
        self.elsewhere: dict[tuple[str, str], float] = {}
        self.events: queue.Queue[tuple[str, tuple[str, str], Any]] = queue.Queue()
        self.stage_by_id = {stage.id: stage for stage in plan.stages}
        self.rank = _ranks(plan)

    def run(self, on_stage: Callable[[Stage], None]) -> Outcome:
        """Works the plan off.

        Args:
            on_stage: Called in this thread for each stage that is done (also at once for those that
                were done before) or has failed.

        Raises:
            Interrupted: On SIGINT or SIGTERM, after the workers have written their checkpoints.
        """
        previous = signal.signal(signal.SIGTERM, _raise_interrupt)
        self.waiting = [stage for stage in self.plan.stages if not self._settled(stage, on_stage)]
        try:
            if self.device == "cpu" and any(_is_heavy(stage) for stage in self.waiting):
                self.nursery = Nursery(
                    self._environment(), lambda: self.events.put(("ready", ("", ""), None))
                )
            while self.waiting or self.workers:
                self.waiting = self._start_ready(on_stage)
                self._wait(on_stage)
        except KeyboardInterrupt as error:
            self.outcome.interrupted = True
            self._stop_workers()
            raise Interrupted(
                "interrupted: what is finished stays finished, the next run goes on from here"
            ) from error
        except BaseException:
            self._stop_workers()
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
            if self.nursery is not None:
                self.nursery.close()
        return self.outcome

    # ---- scheduling ------------------------------------------------------------------------------

    def _settled(self, stage: Stage, on_stage: Callable[[Stage], None]) -> bool:
        if not self.store.is_done(stage.kind, stage.key):
            return False
        self.outcome.done.add(stage.id)
        on_stage(stage)
        return True

    def _start_ready(self, on_stage: Callable[[Stage], None]) -> list[Stage]:
        left = []
        reserved = False
        for stage in sorted(self.waiting, key=lambda s: self.rank[s.id]):
            broken = next((i for i in stage.input_ids if i in self.outcome.failed), None)
            if broken is not None:
                cause = self.outcome.failed[broken]
                self._fail(stage, Failure(cause.kind, cause.message), on_stage)
            elif reserved or not self._may_start(stage):
                # What needs several slots would never find them free if others went on taking each.
                reserved = reserved or self._waits_for_slots(stage)
                left.append(stage)
            elif self.store.is_done(stage.kind, stage.key):  # another runner finished it
                self._settled(stage, on_stage)
            elif self._locked_elsewhere(stage):
                self.elsewhere[stage.id] = time.monotonic() + POLL_SECONDS
                left.append(stage)
            else:
                self._start(stage)
        return left

    def _may_start(self, stage: Stage) -> bool:
        if not self._has_inputs(stage) or self._slots_for(stage) is None:
            return False
        if self.nursery is not None and not self.nursery.ready and _is_heavy(stage):
            return False
        return self.elsewhere.get(stage.id, 0) <= time.monotonic()

    def _has_inputs(self, stage: Stage) -> bool:
        return all(i in self.outcome.done for i in stage.input_ids)

    def _waits_for_slots(self, stage: Stage) -> bool:
        return self._has_inputs(stage) and self._width(stage) > 1 and self._slots_for(stage) is None

    def _width(self, stage: Stage) -> int:
        """Slots that a stage takes."""
        return self.execution.fit_processes if stage.kind == "fit" else 1

    def _slots_for(self, stage: Stage) -> tuple[int, ...] | None:
        """Free slots for a stage, of several each on another GPU; None if there are too few."""
        used = {slot for worker in self.workers.values() for slot in worker.slots}
        free = [slot for slot in range(self.jobs) if slot not in used]
        width = self._width(stage)
        if width > 1 and self.device.startswith("cuda"):
            free = list({self._device_of(slot): slot for slot in reversed(free)}.values())[::-1]
        return tuple(free[:width]) if len(free) >= width else None

    def _locked_elsewhere(self, stage: Stage) -> bool:
        with self.store.lock(stage.kind, stage.key) as mine:
            return not mine

    def _start(self, stage: Stage) -> None:
        slots = self._slots_for(stage)
        assert slots is not None
        request = {
            "identity": stage.identity,
            "inputs": stage.inputs,
            "datasets": stage.datasets,
            "device": self._device_of(slots[0]),
            "devices": [self._device_of(slot) for slot in slots],
            "threads": self.threads,
            "loader_workers": self.execution.loader_workers,
            "heavy": _is_heavy(stage),
        }
        self.store.open_partial(stage.kind, stage.key, request)
        worker = _Worker(stage, self._start_process(stage, request["heavy"]), slots)
        self.workers[stage.id] = worker
        self.progress.start(stage)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    def _start_process(self, stage: Stage, heavy: bool) -> subprocess.Popen | NurseryProcess:
        arguments = [str(self.store.root.absolute()), stage.kind, stage.key]
        if heavy and self.nursery is not None:
            process = self.nursery.start(arguments)
            if process is not None:
                return process
        return subprocess.Popen(
            [sys.executable, "-m", "bench.worker", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=self._environment(),
            start_new_session=True,
        )

    def _device_of(self, slot: int) -> str:
        if self.device == "cuda" and len(gpu_names()) > 1:
            return f"cuda:{slot % len(gpu_names())}"
        return self.device

    def _environment(self) -> dict[str, str]:
        threads = str(self.threads)
        package_root = str(Path(bench.__file__).resolve().parent.parent)
        paths = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            # Threads that wait sleep. Spinning, two trainings on shared cores slow one another down many times.
            "OMP_WAIT_POLICY": "PASSIVE",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "MPLBACKEND": "Agg",
            "PYTHONPATH": os.pathsep.join(paths),
        }

    # ---- workers ---------------------------------------------------------------------------------

    def _listen(self, worker: _Worker) -> None:
        """Reads a worker's events; runs in a thread of its own."""
        stream: IO[str] = worker.process.stdout  # type: ignore[assignment]
        other: list[str] = []
        for line in stream:
            try:
                self.events.put(("progress", worker.stage.id, json.loads(line)))
            except json.JSONDecodeError:
                other = [*other[-20:], line.rstrip()]
        self.events.put(("exit", worker.stage.id, (worker.process.wait(), "\n".join(other))))

    def _wait(self, on_stage: Callable[[Stage], None]) -> None:
        """Handles events until something may be started: a worker ended, or it is time to look again."""
        preparing = self.nursery is not None and not self.nursery.ready
        if not self.workers and not preparing:
            if self.elsewhere:
                time.sleep(POLL_SECONDS / 4)
            return
        while True:
            try:
                what, stage_id, value = self.events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                self.progress.tick()
                if self.elsewhere:
                    return
                continue
            if what == "ready":
                return
            stage = self.stage_by_id[stage_id]
            if what == "progress":
                self.progress.update(stage, value["done"], value["total"], value["note"])
                continue
            self.workers.pop(stage_id)
            code, output = value
            if self.store.is_done(stage.kind, stage.key):
                self.progress.finish(stage, "done")
                self.outcome.done.add(stage.id)
                on_stage(stage)
            else:
                failure = self._explain(stage, code, output)
                if failure.kind == StageBusy.kind:  # another runner was faster: wait for it
                    self.elsewhere[stage.id] = time.monotonic() + POLL_SECONDS
                    self.waiting.append(stage)
                    return
                self.progress.finish(stage, f"failed: {failure.kind}")
                self._fail(stage, failure, on_stage)
            return

    def _explain(self, stage: Stage, code: int, output: str) -> Failure:
        said = self.store.failure(stage.kind, stage.key)
        if said:
            if said["kind"] == DiskFull.kind:
                raise DiskFull(said["message"])
            return Failure(said["kind"], said["message"])
        log = self.store.partial_folder(stage.kind, stage.key) / "log.txt"
        if code == -signal.SIGKILL:
            return Failure(
                "killed", f"{stage.label}: the worker was killed, most likely for memory (see {log})"
            )
        if code == -signal.SIGSEGV:
            return Failure(
                "segfault", f"{stage.label}: the worker crashed with a segmentation fault (see {log})"
            )
        last = output.strip().splitlines()[-1:] or [f"see {log}"]
        return Failure("crash", f"{stage.label}: the worker ended with code {code}: {last[0]}")

    def _fail(self, stage: Stage, failure: Failure, on_stage: Callable[[Stage], None]) -> None:
        self.outcome.failed[stage.id] = failure
        on_stage(stage)

    def _stop_workers(self) -> None:
        """Lets the workers write their checkpoints; a second interruption, or a minute, ends them."""
        for worker in self.workers.values():
            _signal_group(worker.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            for worker in self.workers.values():
                worker.process.wait(max(0.1, deadline - time.monotonic()))
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            pass
        finally:
            for worker in self.workers.values():
                _signal_group(worker.process, signal.SIGKILL)
                worker.process.wait()
            self.workers.clear()


def _is_heavy(stage: Stage) -> bool:
    """Whether a stage loads torch: all that train or predict, and protecting with what was trained."""
    return stage.kind in HEAVY or (stage.kind == "protect" and "fit" in stage.inputs)


def _ranks(plan: Plan) -> dict[tuple[str, str], int]:
    """Order of preference: what a learning protector needs first (it is the longest path), then cell by cell."""
    rank: dict[tuple[str, str], int] = {}
    fits = [s for s in plan.stages if s.kind == "fit"]
    for fit in fits:
        for stage_id in (*fit.input_ids, fit.id):
            rank.setdefault(stage_id, len(rank))
    by_id = {s.id: s for s in plan.stages}
    for cell in plan.cells:
        if cell.skipped:
            continue
        for stage_id in _chain(by_id, ("evaluate", cell.key)):
            rank.setdefault(stage_id, len(rank))
    for stage in plan.stages:
        rank.setdefault(stage.id, len(rank))
    return rank


def _chain(by_id: dict[tuple[str, str], Stage], last: tuple[str, str]) -> list[tuple[str, str]]:
    order: list[tuple[str, str]] = []
    for stage_id in by_id[last].input_ids:
        if stage_id not in by_id:  # what a finished stage was made from
            continue
        order += [i for i in _chain(by_id, stage_id) if i not in order]
    return [*order, last]


def _signal_group(process: subprocess.Popen | NurseryProcess, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _raise_interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
