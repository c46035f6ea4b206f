"""`bench protect` on a folder, as a user calls it, and interrupted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from protect_support import (
    RANDOM,
    SLOW,
    SLOW_ENTRY,
    bench_protect,
    errors,
    lines,
    mask_of,
    outputs,
    photo,
    refused,
    save,
    start,
    write_photos,
)

from bench.datasets.imageio import read_binary_mask, read_rgb
from bench.protect.output import file_sha256


def test_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys, bench.cli.protect\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'cv2', 'scipy', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_is_protected_measured_and_shown(tmp_path: Path, photos, capsys) -> None:
    images, masks = photos
    before = {path: path.read_bytes() for path in (*images.rglob("*.*"), *masks.rglob("*.*"))}
    out = tmp_path / "out"
    assert bench_protect("--images", images, "--masks", masks, "--output", out, *RANDOM) == 0
    rows = lines(out)
    assert list(rows) == ["a.jpg", "b.png", "sub/c.jpg", "sub/d.bmp", "ä ö.jpg"]
    assert set(outputs(out)) == {"a.png", "b.png", "sub/c.png", "sub/d.png", "ä ö.png"}
    for name, row in rows.items():
        clean, protected = read_rgb(images / name), read_rgb(out / row["file"])
        mask = read_binary_mask((masks / name).with_suffix(".png"))
        distance = np.abs(protected.astype(int) - clean).max(-1)
        assert row["linf_foreground"] == distance[mask].max() == 8
        assert row["linf_background"] == distance[~mask].max() == 2
        assert row["sha256"] == file_sha256(out / row["file"])
        assert row["source_sha256"] == file_sha256(images / name)
        assert row["protected_share"] == pytest.approx(mask.mean())
        assert row["over_budget_levels"] == 0
        assert row["seconds"] > 0
        assert 20 < row["psnr"] < 60
        assert 0 < row["ssim"] < 1
    text = capsys.readouterr().out
    assert "5 of 5 images protected" in text
    assert "L-inf inside/outside 8/2" in text
    assert re.search(r"images/s\), 0 done before, 0 failed", text)
    assert re.search(r"peak memory: \d+\.\d\d GiB", text)
    assert Image.open(out / "contact_sheet.png").size == (588, 4 * 196)
    assert before == {path: path.read_bytes() for path in before}


def test_a_second_run_does_nothing_and_a_changed_source_is_done_again(tmp_path: Path, photos, capsys) -> None:
    images, masks = photos
    command = ("--images", images, "--masks", masks, "--output", tmp_path / "out", *RANDOM)
    assert bench_protect(*command) == 0
    first = outputs(tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert bench_protect(*command) == 0
    assert "0 of 5 images protected, 5 done before" in capsys.readouterr().out
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    save(images / "a.jpg", photo(99))
    save(masks / "b.png", 255 - mask_of(photo()))
    (tmp_path / "out/sub/c.png").write_bytes(b"damaged")
    assert bench_protect(*command) == 0
    assert "3 of 5 images protected" in capsys.readouterr().out
    second = outputs(tmp_path / "out")
    assert {name for name in first if first[name] != second[name]} == {"a.png", "b.png"}
    assert bench_protect(*command, "--force") == 0
    assert "5 of 5 images protected" in capsys.readouterr().out
    assert outputs(tmp_path / "out") == second


@pytest.mark.parametrize(
    "change",
    [
        ("--epsilon", "4/255"),
        ("--preset", "medical"),
        ("--budget", "uniform"),
        ("--codec", "jpeg95"),
        ("--seed", "1"),
        ("--protector-option", "distribution=uniform"),
        ("--precision", "bf16"),
        ("--protector", "lsp", "--protector-option", "patch=4"),
    ],
    ids=" ".join,
)
def test_other_options_are_refused_in_the_same_folder(tmp_path: Path, photos, capsys, change) -> None:
    images, masks = photos
    command = ["--images", images, "--masks", masks, "--output", tmp_path / "out"]
    assert bench_protect(*command, "--protector", "random") == 0
    kept = outputs(tmp_path / "out")
    changed = change if "--protector" in change else ("--protector", "random", *change)
    code, line = refused(capsys, *command, *changed)
    assert code == 2
    assert "other options" in line
    assert "--force" in line
    assert outputs(tmp_path / "out") == kept


def test_workers_threads_and_batches_change_no_byte_of_noise_without_a_network(
    tmp_path: Path, photos
) -> None:
    images, masks = photos
    results = []
    for number, how in enumerate((("--workers", 0), ("--workers", 3), ("--workers", 2, "--batch-size", 3))):
        out = tmp_path / f"out{number}"
        assert bench_protect("--images", images, "--masks", masks, "--output", out, *RANDOM, *how) == 0
        results.append(outputs(out))
    assert results[0] == results[1] == results[2]


def _until_some_are_done(process: subprocess.Popen, out: Path) -> None:
    deadline = time.monotonic() + 60
    manifest = out / "manifest.jsonl"
    while not manifest.exists() or manifest.read_bytes().count(b"\n") < 4:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_folder_goes_on_to_the_same_bytes(
    tmp_path: Path, install_plugins, capsys, how
) -> None:
    install_plugins(SLOW, SLOW_ENTRY)
    images, masks = write_photos(tmp_path, [f"{k:02}.jpg" for k in range(24)])
    command = ("--images", images, "--masks", masks, "--protector", "slow", "--workers", 2)
    assert bench_protect(*command, "--output", tmp_path / "whole") == 0
    out = tmp_path / "out"
    process = start(*command, "--output", out)
    _until_some_are_done(process, out)
    process.send_signal(how)
    _, text = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert errors(text) == ["bench: interrupted: the same command goes on from here"]
        assert not list(out.glob(".*"))
    done = len(lines(out))
    assert 4 <= done < 24
    capsys.readouterr()
    assert bench_protect(*command, "--output", out) == 0
    counts = re.search(r"(\d+) of 24 images protected.* (\d+) done before", capsys.readouterr().out)
    assert int(counts[2]) == done
    assert int(counts[1]) == 24 - done
    assert outputs(out) == outputs(tmp_path / "whole")
    assert len(lines(out)) == 24


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path, install_plugins, capsys) -> None:
    install_plugins(SLOW, SLOW_ENTRY)
    images, masks = write_photos(tmp_path, [f"{k:02}.jpg" for k in range(24)])
    command = ("--images", images, "--masks", masks, "--protector", "slow", "--output", tmp_path / "out")
    process = start(*command)
    try:
        _until_some_are_done(process, tmp_path / "out")
        code, line = refused(capsys, *command)
    finally:
        process.kill()
        process.communicate()
    assert code == 2
    assert "another bench protect" in line


def test_a_full_disk_is_one_line_and_what_is_done_stays_done(tmp_path: Path, capsys) -> None:
    images, masks = write_photos(tmp_path, ["a.jpg", "b.jpg"])
    save(images / "c.png", np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    save(masks / "c.png", mask_of(photo(0, 300, 400)))
    command = ("--images", images, "--masks", masks, "--output", tmp_path / "out", *RANDOM)
    limit = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    )
    process = start(*command, before=limit)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 3, text
    assert len(errors(text)) == 1
    assert "no space left" in errors(text)[0]
    assert bench_protect(*command) == 0
    assert "1 of 3 images protected" in capsys.readouterr().out
