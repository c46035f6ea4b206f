from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import ArtifactCorrupt, DiskFull, EnvironmentFault
from bench.files import atomic_write, write_json
from bench.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def test_a_stage_is_done_only_when_it_is_whole(store: Store) -> None:
    folder = store.open_partial("train", "abc", {"identity": {}})
    (folder / "weights").write_text("half")
    assert not store.is_done("train", "abc")
    final = store.finish("train", "abc", {"kind": "train"})
    assert store.is_done("train", "abc")
    assert (final / "weights").read_text() == "half"
    assert not folder.exists()
    assert store.stage_info("train", "abc") == {"kind": "train"}


def test_reopening_keeps_checkpoints_and_drops_the_old_failure(store: Store) -> None:
    folder = store.open_partial("fit", "k", {})
    (folder / "checkpoint").write_text("step 7")
    (folder / "failure.json").write_text(json.dumps({"kind": "nan", "message": "m"}))
    assert store.failure("fit", "k") == {"kind": "nan", "message": "m"}
    assert store.open_partial("fit", "k", {}) == folder
    assert (folder / "checkpoint").exists()
    assert store.failure("fit", "k") is None


def test_corrupt_stage_says_what_to_do(store: Store) -> None:
    store.open_partial("fit", "k", {})
    store.finish("fit", "k", {})
    (store.stage_folder("fit", "k") / "stage.json").write_text("{")
    with pytest.raises(ArtifactCorrupt, match=r"remove .* and run again"):
        store.stage_info("fit", "k")


def test_one_process_holds_a_stage_and_a_killed_one_lets_go(store: Store) -> None:
    code = (
        "import sys, time; from pathlib import Path; from bench.store import Store\n"
        f"with Store(Path({str(store.root)!r})).lock('train', 'k') as mine: print(mine, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "True"
        with store.lock("train", "k") as mine:
            assert not mine
        with store.lock("train", "another") as mine:
            assert mine
    finally:
        other.kill()
        other.wait()
    with store.lock("train", "k") as mine:
        assert mine


def test_a_file_as_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="is a file"):
        Store(tmp_path / "file").prepare()


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    atomic_write(path, "old")

    def stopped(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_full_disk_is_one_line_and_keeps_the_old_file(tmp_path: Path) -> None:
    # RLIMIT_FSIZE makes the kernel refuse the write, as a full disk or quota does.
    code = f"""
import resource, signal
from pathlib import Path
from bench.errors import DiskFull
from bench.files import atomic_write
path = Path({str(tmp_path / "big")!r})
atomic_write(path, b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    atomic_write(path, b"x" * 100_000)
except DiskFull as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "no space left" in out
    assert "--store" in out
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]
    assert DiskFull.exit_code == 3


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []
