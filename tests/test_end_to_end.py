"""The whole path as a user runs it: real commands, real workers, real models at `ci` size."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.defense import Defense
from bench.registry import OPEN, load, names

BENCH = [sys.executable, "-m", "bench.cli"]


def bench(*arguments: object, timeout: float = 1500) -> subprocess.CompletedProcess:
    return subprocess.run([*BENCH, *map(str, arguments)], capture_output=True, text=True, timeout=timeout)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_smoke_benchmark_of_every_protector_victim_and_defense(tmp_path: Path) -> None:
    """Every protector on every victim; every defense on one victim, and some training procedures on all of them."""
    protectors, defenses = names("protector"), names("defense")
    victims = [name for name in names("victim") if name != OPEN["victim"]]
    if OPEN["victim"] in names("victim"):  # a config file is a victim by its own name
        victims.append(str(Path(__file__).parent / "victims/configs/dino.py"))
    procedures = ["at", "ddc_at", "mixup"]
    assert all(load("defense", d).procedure is not Defense.procedure for d in procedures)
    blocks = [
        (protectors, victims, ["none"]),
        (["lsp"], ["unetplusplus"], defenses),
        (["none"], victims, procedures),
    ]
    spec, store = tmp_path / "smoke.toml", tmp_path / "store"
    lines = ['profile = "ci"', "controls = false"]
    for block in blocks:
        keys = zip(("protectors", "victims", "defenses"), block, strict=True)
        lines += ["[[matrices]]", *(f"{key} = {json.dumps(value)}" for key, value in keys)]
    spec.write_text("\n".join(lines))
    done = bench("matrix", spec, "--store", store)
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(p.read_text()) for p in store.glob("records/*/record.json")]
    cells = {
        (protector, Path(victim).name, defense)
        for block in blocks
        for protector, victim, defense in itertools.product(*block)
    }
    assert len(records) == len(cells)
    for record in records:
        if record["status"] != "done":
            assert record["status"].startswith("skipped: ")
            assert record["cell"]["defense"]["name"] in ("ddc_at", "segpgd_at")
            continue
        assert 0 <= record["scores"]["val"][record["scores"]["primary"]] <= 1
        budget = record["cell"]["protector"]["budget"]
        assert record["protection"]["linf_foreground"] <= budget["epsilon"]
        assert record["protection"]["linf_background"] <= budget["epsilon_background"]
    with open(store / "tables" / "smoke.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(records)
    assert {row["gate"] for row in rows} == {"invalid"}  # ci numbers are no results
    # The repeat computes nothing, and says the same.
    start = time.monotonic()
    again = bench("matrix", spec, "--store", store)
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert "started" not in again.stderr
    assert time.monotonic() - start < 60


ENCODERS = ("resnet50", "densenet169", "efficientnet-b6", "tu-res2net50_26w_4s", "tu-regnetx_064")
CONFIGS = Path(__file__).parent / "victims" / "configs"


def everything_that_trains() -> list[dict[str, object]]:
    """Victims of a spec: every task of every victim, every backbone and variant, a config file of each kind."""
    plain = [
        {"name": name, "task": task}
        for name in names("victim")
        if name != OPEN["victim"]
        for task in load("victim", name).tasks
    ]
    files = [
        {"name": str(CONFIGS / f"{name}.py"), "task": task}
        for name, task in (
            ("fcn", "semantic"),
            ("fcn", "binary"),
            ("mask_rcnn", "instance"),
            ("mask2former", "panoptic"),
            ("dino", "detection"),
        )
    ]
    short = {"iterations": 2, "batch_size": 2}
    full = {**short, "network": "published"}
    lite0 = {**short, "encoder": "efficientnet-lite0"}
    return [
        *plain,
        *files,
        *(
            {"name": "unetplusplus", "options": {**short, "encoder": encoder, "encoder_arguments": {}}}
            for encoder in ENCODERS
        ),
        {"name": "unetplusplus", "init": "imagenet", "options": lite0},
        {"name": "deeplabv3plus", "init": "imagenet", "options": lite0},
        {"name": "deeplabv3", "init": "imagenet", "options": lite0},
        {"name": "deeplabv3", "options": {**short, "depth": 50}},
        *({"name": "mask2former", "options": {**full, "backbone": name}} for name in ("r50", "swin-t")),
        {"name": "dino", "options": full},
        {"name": "rsprompter", "options": {**short, "variant": "query"}},
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_task_and_backbone_of_every_victim_trains(tmp_path: Path) -> None:
    victims = everything_that_trains()
    spec = {
        "profile": "ci",
        "controls": False,
        "protectors": ["none"],
        "victims": victims,
        "dataset": {"name": "shapes", "options": {"train_images": 4, "val_images": 2}},
    }
    file = tmp_path / "victims.toml"
    file.write_text("\n".join(f"{key} = {inline(value)}" for key, value in spec.items()))
    done = bench("matrix", file, "--store", tmp_path / "store")
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(p.read_text()) for p in tmp_path.glob("store/records/*/record.json")]
    assert len(records) == len(victims)
    for record in records:
        assert record["status"] == "done"
        assert 0 <= record["scores"]["val"][record["scores"]["primary"]] <= 1


def inline(value: object) -> str:
    """A value in TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)


def test_matrix_file_tables_and_status(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(
        'profile = "ci"\nprotectors = ["lsp"]\nvictims = [{name = "unetplusplus", task = "binary"}]\nseeds = [0, 1]\n'
        "[dataset]\nname = 'shapes'\noptions = {train_images = 6, val_images = 3}\n"
    )
    store = tmp_path / "store"
    planned = bench("matrix", tmp_path / "small.toml", "--store", store, "--dry-run")
    assert "8 cells" in planned.stdout
    assert not (store / "records").exists()
    done = bench("matrix", tmp_path / "small.toml", "--store", store)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "IoU on clean" in done.stdout
    written = {p.name: p.read_bytes() for p in (store / "tables").iterdir()}
    assert set(written) == {"small.md", "small.tex", "small.csv"}
    made = bench("tables", "--store", store, "--output", tmp_path / "tables")
    assert made.returncode == 0
    assert (tmp_path / "tables" / "all.md").read_bytes() == written["small.md"]
    # The same from the spec and the records alone, beside a table of which nothing was run.
    (tmp_path / "other.toml").write_text((tmp_path / "small.toml").read_text().replace("lsp", "unseg"))
    planned = bench(
        "tables",
        tmp_path / "small.toml",
        tmp_path / "other.toml",
        "--store",
        store,
        "--output",
        tmp_path / "planned",
    )
    assert planned.returncode == 0, planned.stderr
    assert (tmp_path / "planned" / "small.md").read_bytes() == written["small.md"]
    assert "small.md" in planned.stdout and "note: other: 6 of 8 cells have no record" in planned.stderr
    twice = bench(
        "matrix", tmp_path / "small.toml", tmp_path / "planned" / ".." / "small.toml", "--store", store
    )
    assert twice.returncode == 2 and "another file's table is called 'small' too" in twice.stderr
    status = bench("status", "--store", store).stdout
    assert "records   8, 8 done" in status
    assert "interrupted" not in status
    # Records are enough: without the stages nothing is computed again.
    shutil.rmtree(store / "stages")
    kept = {path: path.stat().st_mtime_ns for path in (store / "records").rglob("*.*")}
    again = bench("matrix", tmp_path / "small.toml", "--store", store)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert "started" not in again.stderr
    assert kept == {path: path.stat().st_mtime_ns for path in (store / "records").rglob("*.*")}
    assert list((store / "stages").iterdir()) == []
    assert (
        "nothing is left to do"
        in bench("matrix", tmp_path / "small.toml", "--store", store, "--dry-run").stdout
    )


def _weights(store: Path) -> bytes:
    (path,) = store.glob("stages/train/*/weights.safetensors")
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_training_goes_on_and_ends_the_same(tmp_path: Path, number: int) -> None:
    arguments = [
        "run", "--profile", "ci", "--protector", "none", "--victim", "unetplusplus", "--no-controls",
        "--victim-option", "iterations=300", "--jobs", "1", "--threads", "1",
    ]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert bench(*arguments, "--store", whole).returncode == 0
    process = subprocess.Popen([*BENCH, *arguments, "--store", str(cut)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(cut.glob("stages/train/*.partial/log.txt")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(2.5)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert list(cut.glob("stages/train/*.partial/work/*")), "no checkpoint was written"
    (record,) = (json.loads(p.read_text()) for p in cut.glob("records/*/record.json"))
    assert record["status"] == "interrupted"
    assert "1 interrupted" in bench("status", "--store", cut).stdout
    assert bench(*arguments, "--store", cut).returncode == 0
    assert _weights(cut) == _weights(whole)
    (record,) = (json.loads(p.read_text()) for p in cut.glob("records/*/record.json"))
    assert record["status"] == "done"


def test_curves_are_recorded_and_drawn_without_changing_the_result(tmp_path: Path) -> None:
    request = ["run", "--profile", "ci", "--protector", "none", "--victim", "unetplusplus", "--no-controls"]
    for extra in ([], ["--curve", 4]):
        done = bench(*request, *extra, "--store", tmp_path, "--threads", 1)
        assert done.returncode == 0, done.stderr[-3000:]
    plain, curved = sorted(
        (json.loads(p.read_text()) for p in tmp_path.glob("records/*/record.json")),
        key=lambda record: record["cell"]["curve"],
    )
    assert [point["iteration"] for point in curved["curve"]] == [3, 6, 9, 12]
    assert [point["iteration"] for point in plain["curve"]] == [12]
    assert curved["scores"] == plain["scores"]
    assert curved["curve"][-1]["mIoU"] == curved["scores"]["val"]["mIoU"]
    losses = json.loads((tmp_path / "records" / curved["key"] / "loss_curve.json").read_text())
    assert losses[-1]["iteration"] == 12 and losses[0]["loss"] > 0
    drawn = bench("curves", "--store", tmp_path)
    assert drawn.returncode == 0 and len(drawn.stdout.split()) == 3, drawn.stderr


def test_protected_images_are_mixed_with_clean_ones(tmp_path: Path) -> None:
    store = tmp_path / "store"
    options = ["--dataset-option", "train_images=6", "--dataset-option", "val_images=3"]
    victim = ["--victim", "unetplusplus", "--task", "binary", "--profile", "ci"]
    command = ["run", "--protector", "lsp", *victim, *options, "--clean-ratios", "0,0.5", "--store", store]
    done = bench(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Clean images mixed in" in done.stdout
    records = {
        r["label"]: r for r in (json.loads(p.read_text()) for p in store.glob("records/*/record.json"))
    }
    assert len(records) == 8
    trained = {label: record["training"]["images"] for label, record in records.items()}
    assert trained.pop("clean only, 50 % of the images") == 3
    assert set(trained.values()) == {6}
    refused = bench(*command[:-3], "1.5")
    assert refused.returncode == 2
    assert "--clean-ratios 1.5: shares are at least 0 and below 1" in refused.stderr
