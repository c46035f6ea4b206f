from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.nursery import Nursery
from bench.store import Store


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    ready = threading.Event()
    nursery = Nursery(dict(os.environ), ready.set)
    assert ready.wait(300)
    yield nursery
    nursery.close()


def test_forked_workers_run_fail_and_die_by_themselves(nursery: Nursery, tmp_path: Path) -> None:
    store = Store(tmp_path)
    options = {"train_images": 2, "val_images": 1}
    request = {
        "identity": {"stage": "data", "dataset": "shapes", "options": options},
        "inputs": {},
        "datasets": {},
        "device": "cpu",
        "threads": 1,
        "loader_workers": 0,
        "heavy": False,
    }
    store.open_partial("data", "good", request)
    store.open_partial("data", "bad", {**request, "identity": {"dataset": "nothing"}})
    good = nursery.start([str(tmp_path), "data", "good"])
    bad = nursery.start([str(tmp_path), "data", "bad"])
    assert good is not None
    assert bad is not None
    assert good.wait(60) == 0
    assert store.is_done("data", "good")
    assert bad.wait(60) == 1
    failure = store.failure("data", "bad")
    assert failure is not None
    assert failure["kind"] == "unknown_name"
    assert '"done": 3, "total": 3' in good.stdout.read()


def test_a_killed_worker_is_seen_and_a_dead_nursery_too(nursery: Nursery, tmp_path: Path) -> None:
    store = Store(tmp_path)
    options = {"train_images": 100_000, "val_images": 1}
    identity = {"stage": "data", "dataset": "shapes", "options": options}
    request = {"identity": identity, "inputs": {}, "datasets": {}, "device": "cpu", "threads": 1}
    for key in ("a", "b"):
        store.open_partial("data", key, {**request, "loader_workers": 0, "heavy": False})
    one, other = (nursery.start([str(tmp_path), "data", key]) for key in ("a", "b"))
    assert one is not None
    assert other is not None
    assert one.stdout.readline()  # it is at work
    os.kill(one.pid, signal.SIGKILL)
    assert one.wait(30) == -signal.SIGKILL
    assert other.returncode is None
    nursery.process.kill()
    assert other.wait(30) == -signal.SIGKILL
    assert nursery.start([str(tmp_path), "data", "a"]) is None
