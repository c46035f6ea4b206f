"""Images by boxes and points, presets and codecs."""

from __future__ import annotations

import json
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
    refused,
    tiny_generator,
)

from bench.datasets.imageio import read_rgb


def test_one_image_by_its_mask_or_by_boxes(tmp_path: Path, photos, generator) -> None:
    images, masks = photos
    clean = read_rgb(images / "a.jpg")
    one = ("--image", images / "a.jpg", "--generator", generator)
    folder = ("--images", images, "--masks", masks, "--generator", generator)
    assert bench_protect(*one, "--mask", masks / "a.png", "--output", tmp_path / "mask") == 0
    assert bench_protect(*folder, "--output", tmp_path / "folder") == 0
    assert (tmp_path / "mask/a.png").read_bytes() == (tmp_path / "folder/a.png").read_bytes()
    assert bench_protect(*one, "--box", "4,5,20,30", "--box", "30,2,50,12", "--output", tmp_path / "box") == 0
    region = np.zeros(clean.shape[:2], bool)
    region[5:31, 4:21] = region[2:13, 30:51] = True
    distance = np.abs(read_rgb(tmp_path / "box/a.png").astype(int) - clean).max(-1)
    row = lines(tmp_path / "box")["a.jpg"]
    assert row["protected_share"] == pytest.approx(region.mean())
    assert row["linf_foreground"] == distance[region].max() <= 8
    assert row["linf_background"] == distance[~region].max() <= 2
    assert row["linf_foreground"] > row["linf_background"] > 0


def test_single_images_may_go_to_one_folder(tmp_path: Path, photos) -> None:
    images, masks = photos
    for name in ("b.png", "a.jpg"):
        mask = (masks / name).with_suffix(".png")
        assert (
            bench_protect("--image", images / name, "--mask", mask, "--output", tmp_path / "out", *RANDOM)
            == 0
        )
    assert set(lines(tmp_path / "out")) == {"a.jpg", "b.png"}
    assert set(outputs(tmp_path / "out")) == {"a.png", "b.png"}


def test_points_protect_the_whole_image_if_that_is_asked_for(
    tmp_path: Path, photos, generator, capsys
) -> None:
    images, _ = photos
    one = ("--image", images / "a.jpg", "--generator", generator, "--point", "9,9", "--point", "12,20")
    code, line = refused(capsys, *one, "--output", tmp_path / "out")
    assert (code, "give boxes, or --region image" in line) == (2, True)
    assert bench_protect(*one, "--region", "image", "--output", tmp_path / "out") == 0
    row = lines(tmp_path / "out")["a.jpg"]
    assert row["protected_share"] == 1
    assert row["linf_background"] == 0


def test_points_protect_what_a_pretrained_decoder_segments(tmp_path: Path, photos) -> None:
    images, _ = photos
    pretrained = tiny_generator(tmp_path / "pretrained", trainable="noise", generator_init="sam_vit_b")
    one = ("--image", images / "a.jpg", "--generator", pretrained, "--box", "2,2,30,30")
    assert bench_protect(*one, "--output", tmp_path / "box") == 0
    code = bench_protect(*one, "--region", "predicted", "--output", tmp_path / "predicted")
    row = lines(tmp_path / "predicted")["a.jpg"]
    if code == 0:  # weights are random: what is segmented is anything
        assert row["protected_share"] != lines(tmp_path / "box")["a.jpg"]["protected_share"]
    else:
        assert "nothing is segmented" in row["error"]


def test_a_prompt_file_goes_before_masks_and_unknown_names_are_told(
    tmp_path: Path, photos, generator, capsys
) -> None:
    images, masks = photos
    prompts = {
        "a.jpg": {"boxes": [[0, 0, 9, 9]]},
        "sub/c.jpg": {"boxes": [[90, 0, 99, 9]]},
        "x.jpg": {"boxes": [[0, 0, 1, 1]]},
    }
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    command = ("--images", images, "--prompts", tmp_path / "p.json", "--generator", generator)
    assert bench_protect(*command, "--masks", masks, "--output", tmp_path / "out") == 1
    rows = lines(tmp_path / "out")
    assert rows["a.jpg"]["protected_share"] == pytest.approx(100 / (40 * 56))
    assert rows["b.png"]["protected_share"] == pytest.approx((mask_of(photo()) > 0).mean())
    assert "holds no pixel" in rows["sub/c.jpg"]["error"]
    assert "prompts for images that are not there: x.jpg" in capsys.readouterr().err
    assert bench_protect(*command, "--output", tmp_path / "only") == 1
    assert "no prompt names it" in lines(tmp_path / "only")["b.png"]["error"]
    prompts["a.jpg"]["boxes"] = [[0, 0, 19, 9]]
    del prompts["sub/c.jpg"], prompts["x.jpg"]
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    assert bench_protect(*command, "--masks", masks, "--output", tmp_path / "out") == 0
    rows = lines(tmp_path / "out")
    assert rows["a.jpg"]["protected_share"] == pytest.approx(200 / (40 * 56))
    assert "2 of 5 images protected" in capsys.readouterr().out


def test_protectors_without_prompts_take_the_region_as_mask(tmp_path: Path, photos) -> None:
    images, _ = photos
    for name in ("random", "lsp"):
        out = tmp_path / name
        assert (
            bench_protect(
                "--image", images / "a.jpg", "--box", "4,5,20,30", "--output", out, "--protector", name
            )
            == 0
        )
        row = lines(out)["a.jpg"]
        assert row["protected_share"] == pytest.approx(17 * 26 / (40 * 56))
        assert row["linf_foreground"] > row["linf_background"] > 0


@pytest.mark.parametrize(
    ("preset", "inside", "outside"), [("natural", 8, 2), ("medical", 4, 1), ("official-default", 16, 4)]
)
def test_presets(tmp_path: Path, photos, preset: str, inside: int, outside: int) -> None:
    images, masks = photos
    out = tmp_path / "out"
    assert (
        bench_protect("--images", images, "--masks", masks, "--output", out, *RANDOM, "--preset", preset) == 0
    )
    assert {(row["linf_foreground"], row["linf_background"]) for row in lines(out).values()} == {
        (inside, outside)
    }


def test_jpeg_is_written_and_its_excess_told(tmp_path: Path, photos) -> None:
    images, masks = photos
    out = tmp_path / "out"
    assert (
        bench_protect("--images", images, "--masks", masks, "--output", out, *RANDOM, "--codec", "jpeg95")
        == 0
    )
    assert set(outputs(out)) == {"a.jpg", "b.jpg", "sub/c.jpg", "sub/d.jpg", "ä ö.jpg"}
    assert all(row["over_budget_levels"] > 0 for row in lines(out).values())
