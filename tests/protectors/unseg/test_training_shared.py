"""A fit that several processes share: the rows of each, and the same networks at the end."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from unseg_support import QUICK, Scenes

from bench import spread
from bench.errors import EnvironmentFault, SpecError
from bench.executor import Executor, resolve_jobs
from bench.plan import Plan, Stage, make_plan
from bench.progress import Progress
from bench.spec import Execution, Matrix
from bench.store import Store
from protectors.unseg import UnSeg, parallel, training
from protectors.unseg.loading import batches
from protectors.unseg.monitor import CURVE
from protectors.unseg.options import PROMPT_KINDS
from protectors.unseg.parallel import Share
from protectors.unseg.samples import SampleStream
from protectors.unseg.step import draw_batch

OPTIONS: dict[str, Any] = {
    "phases": 6,
    "phase_steps": 3,
    "batch_size": 5,
    "loss": "points",
    "loss_points": 200,
    "surrogate_prompts": list(PROMPT_KINDS),
    "generator_learning_rate": 1e-4,
    "surrogate_learning_rate": 1e-4,
}


@pytest.mark.parametrize(("batch_size", "processes"), [(32, 8), (5, 2), (7, 3), (1, 1)])
def test_the_shares_of_all_processes_are_the_batch(monkeypatch, batch_size, processes):
    monkeypatch.setattr(parallel.dist, "get_world_size", lambda: processes)
    rows: list[int] = []
    for rank in range(processes):
        monkeypatch.setattr(parallel.dist, "get_rank", lambda rank=rank: rank)
        share = parallel.own_share(batch_size)
        assert len(share) in (batch_size // processes, -(-batch_size // processes))
        rows += range(share.start, share.stop)
    assert rows == list(range(batch_size))


def test_more_processes_than_images_are_refused(monkeypatch):
    monkeypatch.setattr(parallel.dist, "get_world_size", lambda: 3)
    with pytest.raises(SpecError, match="a batch of 2 cannot be shared by 3 processes"):
        parallel.own_share(2)


@pytest.mark.parametrize("step", range(8))
def test_a_share_draws_what_the_whole_batch_draws_for_its_rows(step):
    options = UnSeg.resolve_options("ci", QUICK | OPTIONS | {"jitter": (0.5, 1.5)})
    stream = SampleStream([Scenes()], options, seed=0)
    share = Share(2, 5, 5)
    whole = draw_batch(*stream.batch(step), options, torch.Generator().manual_seed(step))
    ((image, mask),) = batches(stream, step, step + 1, share, 0)
    part = draw_batch(image, mask, options, torch.Generator().manual_seed(step), share)
    expected = whole.rows(2, 5)
    for name in ("image", "small_image", "small_mask"):
        assert torch.equal(getattr(part, name), getattr(expected, name))
    for network in ("generator_prompts", "surrogate_prompts"):
        for kind in ("boxes", "points", "masks"):
            ours = getattr(getattr(part, network), kind)
            theirs = getattr(getattr(expected, network), kind)
            assert (ours is None) == (theirs is None)
            assert ours is None or torch.equal(ours, theirs)
    assert torch.equal(part.candidates.offered, expected.candidates.offered)
    assert torch.equal(part.candidates.uniform, expected.candidates.uniform)


# ---- real processes ----------------------------------------------------------------------------


def prepared(root: Path, **changes: Any) -> tuple[Store, Stage]:
    """A store in which all but the fit is done."""
    store = Store(root)
    store.prepare()
    protector = {"name": "unseg", "options": OPTIONS | changes}
    matrix = Matrix(protectors=[protector], victims=["unetplusplus"], profile="ci", controls=False)
    stages = make_plan(matrix, store).stages
    fit = next(stage for stage in stages if stage.kind == "fit")
    for stage in stages:
        if stage.kind == "data" and stage.key in fit.inputs.values():
            assert start(store, stage, 1).wait() == 0
    return store, fit


def start(store: Store, stage: Stage, processes: int) -> subprocess.Popen:
    request = {
        "identity": stage.identity,
        "inputs": stage.inputs,
        "datasets": stage.datasets,
        "device": "cpu",
        "devices": ["cpu"] * processes,
        "threads": 1,
        "loader_workers": 0,
        "heavy": stage.kind == "fit",
    }
    store.open_partial(stage.kind, stage.key, request)
    arguments = [str(store.root), stage.kind, stage.key]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.worker", *arguments], stdout=subprocess.PIPE, text=True
    )


def log(store: Store, stage: Stage) -> str:
    folders = (store.partial_folder(*stage.id), store.stage_folder(*stage.id))
    return "\n".join((f / "log.txt").read_text() for f in folders if (f / "log.txt").exists())


def assert_same_training(one: Path, other: Path) -> None:
    ours, theirs = (load_file(state / training.WEIGHTS) for state in (one, other))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        # Adam divides by the root of a squared gradient: where that is nearly zero, rounding is not small.
        torch.testing.assert_close(
            weight, theirs[name], atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )
    curves = [list(csv.DictReader((state / CURVE).open())) for state in (one, other)]
    assert len(curves[0]) == len(curves[1]) == OPTIONS["phases"] * OPTIONS["phase_steps"]
    for row, twin in zip(*curves, strict=True):
        for name in ("generator_loss", "surrogate_loss"):
            assert (row[name] == "") == (twin[name] == "")
            assert not row[name] or float(row[name]) == pytest.approx(float(twin[name]), rel=2e-3)


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_either_goes_on_where_the_other_stopped(tmp_path):
    alone, fit = prepared(tmp_path / "alone")
    assert start(alone, fit, 1).wait() == 0, log(alone, fit)
    expected = alone.stage_folder(*fit.id) / "state"

    shared, fit = prepared(tmp_path / "shared", accumulation=2)
    process = start(shared, fit, 2)
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if len(events) == 1:
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 130, log(shared, fit)
    checkpoint = shared.partial_folder(*fit.id) / "work" / training.CHECKPOINT
    done = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < done < OPTIONS["phases"] * OPTIONS["phase_steps"]
    assert shared.failure(*fit.id) is None
    content = checkpoint.read_bytes()

    assert start(shared, fit, 2).wait() == 0, log(shared, fit)
    assert_same_training(expected, shared.stage_folder(*fit.id) / "state")

    # The same checkpoint, finished by one process.
    other, fit = prepared(tmp_path / "other", accumulation=2)
    checkpoint = other.partial_folder(*fit.id) / "work" / training.CHECKPOINT
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(content)
    assert start(other, fit, 1).wait() == 0, log(other, fit)
    assert_same_training(expected, other.stage_folder(*fit.id) / "state")


@pytest.mark.slow
def test_a_failure_in_one_of_the_processes_is_the_stage_s_for_the_runner_too(tmp_path):
    store, fit = prepared(tmp_path / "store", surrogate_learning_rate=1e30)
    fit = dataclasses.replace(fit, inputs={})  # they are done
    execution = Execution(store=store.root, device="cpu", fit_processes=2)
    outcome = Executor(Plan(None, (), (fit,)), store, execution, Progress(1)).run(lambda stage: None)
    (failure,) = outcome.failed.values()
    assert failure.kind == "nan", log(store, fit)
    assert "lower its learning rate" in failure.message
    request = json.loads((store.partial_folder(*fit.id) / "request.json").read_text())
    assert request["devices"] == ["cpu", "cpu"]


def test_a_shared_fit_takes_as_many_slots_and_is_not_overtaken_for_ever(tmp_path):
    def stage(kind: str, key: str) -> Stage:
        return Stage(kind, key, {}, {}, {}, f"{kind} {key}")

    fit, others = stage("fit", "f"), [stage("data", str(i)) for i in range(4)]
    execution = Execution(store=tmp_path, device="cpu", jobs=3, fit_processes=2)
    executor = Executor(Plan(None, (), (fit, *others)), Store(tmp_path), execution, Progress(5))
    started: list[str] = []

    def begin(stage: Stage) -> None:
        started.append(stage.key)
        executor.workers[stage.id] = SimpleNamespace(stage=stage, slots=executor._slots_for(stage))

    executor._start = begin
    executor.waiting = others
    executor.waiting = executor._start_ready(lambda stage: None)
    assert len(started) == 3
    executor.waiting.append(fit)
    executor.workers.pop(("data", started[0]))
    executor.waiting = executor._start_ready(lambda stage: None)
    assert len(started) == 3  # one slot is free, and kept for the fit
    executor.workers.pop(("data", started[1]))
    executor.waiting = executor._start_ready(lambda stage: None)
    assert started[3:] == ["f"]
    assert len(executor.workers["fit", "f"].slots) == 2
    used = [slot for worker in executor.workers.values() for slot in worker.slots]
    assert sorted(used) == [0, 1, 2]


def test_a_fit_is_shared_by_no_more_than_there_is_room_for():
    assert resolve_jobs(Execution(fit_processes=7), "cpu")[0] == 7
    with pytest.raises(EnvironmentFault, match="needs --jobs 3, not 2"):
        resolve_jobs(Execution(fit_processes=3, jobs=2), "cpu")
    with pytest.raises(EnvironmentFault, match="takes as many GPUs"):
        resolve_jobs(Execution(fit_processes=2), "cuda:1")


def test_the_chosen_gpus_are_the_ones_that_are_seen(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert spread._visible(["cpu", "cpu"]) == {}
    assert spread._visible(["cuda:2", "cuda:0"]) == {"CUDA_VISIBLE_DEVICES": "2,0"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    assert spread._visible(["cuda:2", "cuda:0"]) == {"CUDA_VISIBLE_DEVICES": "7,4"}


@pytest.mark.slow
def test_no_process_outlives_a_worker_that_is_killed(tmp_path):
    store, fit = prepared(tmp_path / "store", phase_steps=10_000)
    process = start(store, fit, 2)
    process.stdout.readline()  # its training is under way
    assert len(running(fit.key)) >= 4  # worker, torchrun and two more
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while running(fit.key) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert running(fit.key) == []
    # They were asked to end, and so could write a checkpoint.
    assert (store.partial_folder(*fit.id) / "work" / training.CHECKPOINT).exists()


def running(key: str) -> list[str]:
    """Command lines of the processes that name `key`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode())
    return [line for line in lines if key in line]
