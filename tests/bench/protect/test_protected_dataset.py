"""Datasets in their layout, large photographs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from protect_support import (
    RANDOM,
    bench_protect,
    lines,
    mask_of,
    outputs,
    photo,
    save,
    start,
)

from bench.datasets.image_mask import ImageMask
from bench.datasets.imageio import read_rgb
from bench.protect.output import file_sha256


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for index in range(8):
        split = "train" if index < 6 else "val"
        save(root / f"images/{split}/photo {index}.jpg", photo(index))
        save(root / f"masks/{split}/photo {index}.png", mask_of(photo(index)))
    return root


def test_a_dataset_is_written_in_its_layout(tmp_path: Path, dataset: Path, capsys) -> None:
    out = tmp_path / "out"
    command = ("--dataset", "image_mask", "--data-root", dataset, "--output", out, *RANDOM)
    assert bench_protect(*command) == 0
    assert f"dataset: {out / 'dataset'}" in capsys.readouterr().out
    copy, original = ImageMask(out / "dataset"), ImageMask(dataset)
    copy.check()
    assert copy.ids("train") == original.ids("train")
    rows = lines(out)
    for image_id in copy.ids("train"):
        row, path = rows[image_id], copy.image_path("train", image_id)
        assert out / row["file"] == path
        assert row["sha256"] == file_sha256(path)
        assert np.abs(read_rgb(path).astype(int) - original.image("train", image_id)).max() == 8
        assert (
            copy.mask_path("train", image_id).read_bytes()
            == original.mask_path("train", image_id).read_bytes()
        )
    for image_id in copy.ids("val"):
        assert (
            copy.image_path("val", image_id).read_bytes() == original.image_path("val", image_id).read_bytes()
        )
    assert not (out / "work").exists()
    first = outputs(out)
    assert bench_protect(*command) == 0
    assert "0 of 6 images protected, 6 done before" in capsys.readouterr().out
    assert outputs(out) == first
    copy.image_path("train", "photo 2").unlink()
    assert bench_protect(*command) == 0
    assert "1 of 6 images protected" in capsys.readouterr().out
    assert outputs(out) == first


def test_a_dataset_with_a_bad_image_is_not_written_until_it_is_mended(
    tmp_path: Path, dataset: Path, capsys
) -> None:
    out, bad = tmp_path / "out", dataset / "images/train/photo 3.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:700])
    command = ("--dataset", "image_mask", "--data-root", dataset, "--output", out, *RANDOM)
    assert bench_protect(*command) == 1
    shown = capsys.readouterr()
    assert "5 of 6 images protected" in shown.out
    assert "bench: photo 3: cannot read image" in shown.err
    assert "no dataset was written" in shown.err
    assert not (out / "dataset").exists()
    bad.write_bytes(whole)
    assert bench_protect(*command) == 0
    assert "1 of 6 images protected" in capsys.readouterr().out
    assert len(ImageMask(out / "dataset").ids("train")) == 6


def test_the_matrix_stage_and_the_command_make_the_same_pixels(tmp_path: Path, dataset: Path) -> None:
    from bench.stages import StageContext, run_stage
    from bench.store import Store

    folder = tmp_path / "stage"
    folder.mkdir()
    identity = {
        "protector": "random",
        "options": {"grid": 9},
        "budget": {"kind": "mask", "epsilon": 8.0, "epsilon_background": 2.0},
        "codec": "png",
        "seed": 0,
    }
    opening = {"name": "image_mask", "options": {}, "root": str(dataset)}
    context = StageContext(
        "protect", identity, {}, {"data": opening}, Store(tmp_path), folder, "cpu", 0, lambda *report: None
    )
    run_stage(context)
    out = tmp_path / "out"
    assert bench_protect("--dataset", "image_mask", "--data-root", dataset, "--output", out, *RANDOM) == 0
    staged = ImageMask(folder / "dataset")
    for image_id, row in lines(out).items():
        assert np.array_equal(read_rgb(out / row["file"]), staged.image("train", image_id))
    assert not (folder / "writing").exists()
    shared = {"image", "psnr", "ssim", "linf_foreground", "linf_background", "over_budget_levels"}
    for row in map(json.loads, (folder / "manifest.jsonl").read_text().splitlines()):
        assert {key: row[key] for key in shared} == {key: lines(out)[row["image"]][key] for key in shared}


@pytest.mark.slow
def test_photographs_of_24_megapixels_need_less_than_four_gibibytes(tmp_path: Path, generator) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for number in range(2):
        save(images / f"{number}.jpg", photo(number, 4000, 6000))
        save(masks / f"{number}.png", mask_of(photo(number, 4000, 6000)))
    process = start(
        "--images", images, "--masks", masks, "--output", tmp_path / "out", "--generator", generator
    )
    out, text = process.communicate()
    assert process.returncode == 0, text
    assert float(re.search(r"peak memory: (\S+) GiB", out)[1]) < 4
