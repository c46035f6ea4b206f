"""Faults of workers: each is a real process that really fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import EnvironmentFault, Interrupted
from bench.executor import Executor, resolve_device, resolve_jobs
from bench.machine import gpu_names
from bench.plan import Plan, make_plan
from bench.progress import Progress
from bench.spec import Execution, Matrix
from bench.store import Store

ZOO = """
import ctypes, os, signal, time
import numpy as np
from bench.protector import Protector

class Zoo(Protector):
    name = "zoo"
    behaviour = "fine"
    def noise(self, image, annotation, rng, state, run_seed):
        return np.zeros(image.shape, np.float32)

class Crash(Zoo):
    name = "crash"
    def noise(self, *arguments):
        raise ValueError("a defect\\nin two lines")

class Kill(Zoo):
    name = "kill"
    def noise(self, *arguments):
        os.kill(os.getpid(), signal.SIGKILL)

class Segfault(Zoo):
    name = "segfault"
    def noise(self, *arguments):
        ctypes.string_at(0)

class Slow(Zoo):
    name = "slow"
    def noise(self, image, *arguments):
        time.sleep(0.2)
        return np.zeros(image.shape, np.float32)

class TooLoud(Zoo):
    name = "too_loud"
    def protect(self, image, annotation, budget, rng, state, run_seed):
        return image ^ 64

class Resizes(Zoo):
    name = "resizes"
    def protect(self, image, annotation, budget, rng, state, run_seed):
        return image[:-1].copy()

class Mutates(Zoo):
    name = "mutates"
    def protect(self, image, annotation, budget, rng, state, run_seed):
        image[:] = 0
        return image
"""
NAMES = ("crash", "kill", "segfault", "slow", "too_loud", "resizes", "mutates")
Install = Callable[[str, dict[str, str]], None]


@pytest.fixture
def zoo(install_plugins: Install) -> None:
    classes = [n.title().replace("_", "") for n in NAMES]
    points = "".join(f"{n} = third_party:{c}\n" for n, c in zip(NAMES, classes, strict=True))
    install_plugins(ZOO, {"bench.protectors": points})


def protecting(store: Store, *protectors: str, images: int = 3) -> Plan:
    """A plan that draws a few scenes and protects them, and trains nothing."""
    matrix = Matrix(
        protectors=list(protectors),
        victims=["unetplusplus"],
        profile="ci",
        controls=False,
        dataset={"name": "shapes", "options": {"train_images": images, "val_images": 1}},
    )
    store.prepare()
    plan = make_plan(matrix, store)
    return Plan(matrix, (), tuple(s for s in plan.stages if s.kind in ("data", "protect")))


def execute(plan: Plan, store: Store, jobs: int = 2) -> Executor:
    executor = Executor(
        plan, store, Execution(store=store.root, device="cpu", jobs=jobs), Progress(len(plan.stages))
    )
    executor.run(lambda stage: None)
    return executor


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("crash", "crash", "ValueError: a defect in two lines"),
        ("kill", "killed", "killed, most likely for memory"),
        ("segfault", "segfault", "segmentation fault"),
        ("too_loud", "budget_violation", "exceeds its budget by (5|6)[0-9] levels"),
        ("resizes", "contract_violation", "returned shape"),
        ("mutates", "contract_violation", "changed its input"),
    ],
)
def test_a_failing_worker_costs_its_stage_only(
    zoo: None, tmp_path: Path, name: str, kind: str, message: str
) -> None:
    store = Store(tmp_path / "store")
    plan = protecting(store, name, "lsp")
    outcome = execute(plan, store).outcome
    (failed,) = outcome.failed.values()
    assert failed.kind == kind
    assert re.search(message, failed.message)
    assert "\n" not in failed.message
    assert len(outcome.done) == 2  # the data, and lsp beside it
    bad = next(s for s in plan.stages if s.identity.get("protector") == name)
    assert not store.is_done(*bad.id)


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    plan = protecting(store, "lsp")
    execute(plan, store)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store" / "stages").rglob("*")}
    execute(plan, store)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "store" / "stages").rglob("*")}


def test_a_second_process_writes_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        plan = protecting(store, "random", "lsp", "none")
        execute(plan, store, jobs=1 if name == "one" else 3)
        files = sorted(
            p for s in plan.stages for p in (store.stage_folder(*s.id) / "dataset").rglob("*") if p.is_file()
        )
        contents.append({p.relative_to(store.root): p.read_bytes() for p in files})
    assert len(contents[0]) > 40
    assert contents[0] == contents[1]


def test_protected_copy_keeps_labels_and_validation_images_byte_for_byte(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    plan = protecting(store, "random")
    execute(plan, store)
    data, protected = (store.stage_folder(*s.id) / "dataset" for s in plan.stages)
    changed = set()
    for path in data.rglob("*"):
        twin = protected / path.relative_to(data)
        if path.is_file() and path.read_bytes() != twin.read_bytes():
            changed.add(path.relative_to(data))
    assert changed
    assert all(
        "train" in p.name and "asks" not in str(p.parent) and "nnotations" not in str(p) for p in changed
    )


def test_two_runners_share_a_store(zoo: None, tmp_path: Path) -> None:
    runners = [_start_runner(tmp_path / "store", "slow", "lsp", images=10) for _ in range(2)]
    for process in runners:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert out.splitlines()[-1] == "3 done, 0 failed"
    assert len(list((tmp_path / "store").glob("stages/*/*/stage.json"))) == 3


RUNNER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_executor import execute, protecting
from bench.errors import Interrupted
from bench.store import Store
store = Store(Path({store!r}))
plan = protecting(store, *{protectors!r}, images={images})
print("planned", flush=True)
try:
    outcome = execute(plan, store).outcome
    print(len(outcome.done), "done,", len(outcome.failed), "failed", flush=True)
except Interrupted as error:
    print("interrupted:", error, flush=True)
    sys.exit(error.exit_code)
"""


def _start_runner(store: Path, *protectors: str, images: int) -> subprocess.Popen:
    tests = str(Path(__file__).parent)
    code = RUNNER.format(tests=tests, store=str(store), protectors=protectors, images=images)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def _start_slow_runner(tmp_path: Path) -> tuple[subprocess.Popen, Path]:
    store = tmp_path / "store"
    process = _start_runner(store, "slow", images=200)
    assert process.stdout is not None
    assert process.stdout.readline() == "planned\n"
    deadline = time.monotonic() + 60
    while not list(store.glob("stages/protect/*.partial/dataset/images/train/*.png")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process, store


def _workers_of(store: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"bench.worker" in words and str(store).encode() in words:
            found.append(int(path.parent.name))
    return found


def _gone(store: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _workers_of(store):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_ctrl_c_ends_cleanly(zoo: None, tmp_path: Path) -> None:
    process, store = _start_slow_runner(tmp_path)
    assert _workers_of(store)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == Interrupted.exit_code == 130
    assert "the next run goes on from here" in out
    assert _gone(store, 5)
    assert len(list(store.glob("stages/data/*/stage.json"))) == 1
    assert not list(store.glob("stages/protect/*/stage.json"))


def test_killing_the_runner_leaves_no_worker_behind(zoo: None, tmp_path: Path) -> None:
    process, store = _start_slow_runner(tmp_path)
    process.kill()
    process.wait()
    assert _gone(store, 10)
    # The lock went with the worker, so the next runner can go on.
    key = next(store.glob("stages/protect/*.partial")).name.removesuffix(".partial")
    with Store(store).lock("protect", key) as mine:
        assert mine


def test_no_cuda_where_it_was_asked_for() -> None:
    if gpu_names():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EnvironmentFault, match="use --device cpu"):
        resolve_device(Execution(device="cuda:0"))
    assert resolve_device(Execution()) == "cpu"


def test_jobs_and_threads_share_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    jobs, threads = resolve_jobs(Execution(), "cpu")
    assert 1 <= jobs * threads <= cores
    assert resolve_jobs(Execution(jobs=3, threads=5), "cpu") == (3, 5)
