"""A fit that is killed, anywhere and as often as one likes, ends with the bytes of one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from unseg_support import QUICK, Scenes, context

from bench.plan import Plan, Stage, make_plan
from bench.spec import Matrix
from bench.store import Store
from protectors.unseg import UnSeg, training
from protectors.unseg.monitor import CURVE

OPTIONS = UnSeg.resolve_options(
    "ci",
    QUICK
    | {
        "phases": 4,
        "phase_steps": 2,
        "surrogate_every": 2,
        "loss": "points",
        "loss_points": 40,
        "jitter": (0.5, 1.5),
    },
)
RESULTS = (training.WEIGHTS, training.OPTIONS, CURVE)
MORE_THAN_ENOUGH = 60


def fit_in_child(folder: Path, before: Callable[[], None] = lambda: None) -> int:
    """Forks a process that fits with a checkpoint after every step; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        before()
        torch.set_num_threads(1)
        training.CHECKPOINT_SECONDS, training.CHECKPOINT_SHARE = 0.0, 1.0
        UnSeg(OPTIONS).fit([Scenes()], context(folder))
        code = 0
    finally:
        os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def results(state: Path) -> dict[str, bytes]:
    return {name: (state / name).read_bytes() for name in RESULTS}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    UnSeg(OPTIONS).fit([Scenes()], context(folder))
    return results(folder / "state")


def die_while_writing(number: int, moment: str) -> None:
    """Has this process kill itself at one of its writes of the checkpoint."""
    fsync, replace = os.fsync, os.replace
    written = 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_fsync(descriptor: int) -> None:
        nonlocal written
        if training.CHECKPOINT in os.readlink(f"/proc/self/fd/{descriptor}"):
            written += 1
            if written == number and moment == "half written":
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                die()
        fsync(descriptor)

    def dying_replace(source: str, target: Path) -> None:
        at = Path(target).name == training.CHECKPOINT and written == number
        if at and moment == "written":
            die()
        replace(source, target)
        if at and moment == "renamed":
            die()

    os.fsync, os.replace = dying_fsync, dying_replace


@pytest.mark.parametrize("moment", ["half written", "written", "renamed"])
@pytest.mark.parametrize("number", [1, 6])
def test_killed_while_it_writes_a_checkpoint(tmp_path, uninterrupted, number, moment):
    assert ended(fit_in_child(tmp_path, lambda: die_while_writing(number, moment))) == -signal.SIGKILL
    left = {path.name for path in (tmp_path / "work").iterdir()}
    parts = {name for name in left if name.endswith(".tmp")}
    assert len(parts) == (moment != "renamed")
    assert (training.CHECKPOINT in left) == (moment == "renamed" or number > 1)
    assert ended(fit_in_child(tmp_path)) == 0
    assert results(tmp_path / "state") == uninterrupted
    assert [path.name for path in (tmp_path / "work").iterdir()] == [training.CHECKPOINT]


@pytest.mark.slow
def test_killed_at_random_moments_again_and_again(tmp_path, uninterrupted):
    rng = random.Random(0)
    checkpoint = tmp_path / "work" / training.CHECKPOINT
    kills = 0
    for _ in range(MORE_THAN_ENOUGH):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        child = fit_in_child(tmp_path)
        code = None
        while code is None:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
            elif checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                time.sleep(rng.uniform(0, 0.1))
                os.kill(child, signal.SIGKILL)
                code = ended(child)
            else:
                time.sleep(0.001)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    else:
        pytest.fail("it never came to an end")
    assert kills >= 3
    assert results(tmp_path / "state") == uninterrupted


def test_a_checkpoint_is_written_when_it_is_due_and_not_all_the_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    done = training.Training(OPTIONS, 0, "cpu")

    def slow_save(path: Path) -> None:
        saved.append(now[0])
        now[0] += 30

    saved: list[float] = []
    monkeypatch.setattr(done, "save", slow_save)
    checkpoints = training.Checkpoints(done, tmp_path / training.CHECKPOINT)
    for now[0] in (0.0, 59.0, 60.0):
        checkpoints.save_if_due()
    assert saved == [60.0]
    # Thirty seconds of writing are at most a twentieth of the time.
    for now[0] in (90.0, 659.0, 661.0):
        checkpoints.save_if_due()
    assert saved == [60.0, 661.0]


WORKER = """
import sys, torch
import protectors.unseg.training as training
training.CHECKPOINT_SECONDS, training.CHECKPOINT_SHARE = 0.0, 1.0
from bench.worker import main
sys.exit(main(sys.argv[1:]))
"""


def fit_plan(store: Store) -> Plan:
    store.prepare()
    options = {"phase_steps": 5, "phases": 6}
    protector = {"name": "unseg", "options": options}
    return make_plan(
        Matrix(protectors=[protector], victims=["unetplusplus"], profile="ci", controls=False), store
    )


def start(store: Store, stage: Stage) -> subprocess.Popen:
    request = {
        "identity": stage.identity,
        "inputs": stage.inputs,
        "datasets": stage.datasets,
        "device": "cpu",
        "threads": 1,
        "loader_workers": 0,
        "heavy": stage.kind == "fit",
    }
    store.open_partial(stage.kind, stage.key, request)
    code = (
        WORKER
        if stage.kind == "fit"
        else "import sys; from bench.worker import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(store.root), stage.kind, stage.key],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_the_stage_of_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path):
    rng = random.Random(1)
    found = []
    for name, kills in (("killed", 3), ("left alone", 0)):
        store = Store(tmp_path / name)
        plan = fit_plan(store)
        fit = next(stage for stage in plan.stages if stage.kind == "fit")
        for stage in plan.stages:
            if ("data", stage.key) in {("data", key) for key in fit.inputs.values()}:
                assert start(store, stage).wait() == 0
        checkpoint = store.partial_folder(*fit.id) / "work" / training.CHECKPOINT
        for _ in range(kills):
            before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
            process = start(store, fit)
            while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
                assert process.poll() is None, "it ended before it was killed"
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
            assert process.wait() == -signal.SIGKILL
            assert not store.is_done(*fit.id)
        assert start(store, fit).wait() == 0
        assert store.is_done(*fit.id)
        found.append(results(store.stage_folder(*fit.id) / "state"))
        assert not (store.stage_folder(*fit.id) / "work").exists()
    assert found[0] == found[1]
