"""Files that cannot be used, and requests that do not fit."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from protect_support import (
    RANDOM,
    bench_protect,
    damaged,
    errors,
    lines,
    outputs,
    photo,
    refused,
    save,
)

from bench.datasets.imageio import read_rgb


def test_bad_files_are_reported_by_name_and_the_others_are_done(tmp_path: Path, photos, capsys) -> None:
    images, masks = photos
    cases = damaged(tmp_path / "cases")
    for number, (image, mask, _) in enumerate(cases.values()):
        name = f"bad{number}"
        (images / f"{name}{image.suffix}").write_bytes(image.read_bytes())
        if mask.exists():
            (masks / f"{name}{mask.suffix}").write_bytes(mask.read_bytes())
    save(images / "b.jpg", photo())  # beside b.png
    command = ("--images", images, "--masks", masks, "--output", tmp_path / "out", *RANDOM)
    assert bench_protect(*command) == 1
    shown = capsys.readouterr()
    failed = len(cases) + 2
    assert f"4 of {5 + 1 + len(cases)} images protected" in shown.out
    assert f"{failed} failed" in shown.out
    rows = lines(tmp_path / "out")
    bad = {name: row["error"] for name, row in rows.items() if "error" in row}
    assert len(bad) == failed
    for name, message in bad.items():
        assert f"bench: {name}: {message}" in shown.err
        assert "\n" not in message
    for number, (image, _, message) in enumerate(cases.values()):
        expected = message if "missing" not in message else "no mask"
        assert re.search(expected, bad[f"bad{number}{image.suffix}"])
    assert set(outputs(tmp_path / "out")) == {"a.png", "sub/c.png", "sub/d.png", "ä ö.png"}
    # Mended, they are all that is left to do.
    (images / "b.jpg").unlink()
    for path in [*images.glob("bad*"), *masks.glob("bad*")]:
        path.unlink()
    assert bench_protect(*command) == 0
    assert "1 of 5 images protected" in capsys.readouterr().out


def test_strict_stops_at_the_first_failure(tmp_path: Path, photos, capsys) -> None:
    images, masks = photos
    (images / "b.png").write_bytes(b"no image")
    command = ("--images", images, "--masks", masks, "--output", tmp_path / "out", *RANDOM)
    assert bench_protect(*command, "--strict", "--workers", 0) == 1
    assert errors(capsys.readouterr().err)[1:] == ["bench: stopped at the first failure (--strict)"]
    assert set(lines(tmp_path / "out")) == {"a.jpg", "b.png"}


def test_an_empty_mask_leaves_the_image_as_it_is(tmp_path: Path, photos, generator) -> None:
    images, masks = photos
    save(masks / "a.png", np.zeros((40, 56), np.uint8))
    out = tmp_path / "out"
    assert bench_protect("--images", images, "--masks", masks, "--output", out, "--generator", generator) == 0
    row = lines(out)["a.jpg"]
    assert row["notes"] == ["the mask is empty"]
    assert (row["psnr"], row["linf_background"], row["protected_share"]) == (None, 0, 0)
    assert np.array_equal(read_rgb(out / "a.png"), read_rgb(images / "a.jpg"))


def test_output_inside_the_image_folder(tmp_path: Path, photos, capsys) -> None:
    images, masks = photos
    command = ("--images", images, "--masks", masks, "--output", images / "protected", *RANDOM)
    for expected in ("5 of 5 images", "0 of 5 images"):
        assert bench_protect(*command) == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ("--output out", 2, "give one of --images DIR, --image FILE and --dataset NAME"),
        ("--images images --image images/a.jpg --masks masks --output out", 2, "give one of"),
        ("--images images --output out", 2, "say what is to be protected"),
        ("--image images/a.jpg --output out", 2, "say what is to be protected"),
        (
            "--image images/a.jpg --mask masks/a.png --box 1,1,2,2 --output out",
            2,
            "say what is to be protected",
        ),
        ("--images images --mask masks/a.png --output out", 2, "--mask belongs to --image, not to --images"),
        (
            "--images images --masks masks --box 1,2,3,4 --output out",
            2,
            "--box and --point belongs to --image",
        ),
        ("--images absent --masks masks --output out", 2, "absent is no folder"),
        ("--images images --masks absent --output out", 2, "absent is no folder"),
        ("--images masks/sub/.. --masks masks --output images", 2, "did not write"),
        ("--images images --masks masks --output images", 2, "--output is the folder of the images"),
        ("--images images --masks masks --output images --force", 2, "--output is the folder of the images"),
        ("--image images/b.png --mask masks/b.png --output images --force", 2, "is where b.png lies"),
        ("--images images --masks masks --output notes.txt", 2, "is a file"),
        ("--images empty --masks masks --output out", 2, "holds no image"),
        ("--image images/a.jpg --box 1,2,3 --output out", 2, "a box is X0,Y0,X1,Y1"),
        ("--image images/a.jpg --box 1,2,x,4 --output out", 2, "write numbers separated by commas"),
        ("--image images/a.jpg --point 5,5 --region box --output out", 2, "points have no box"),
        ("--image images/a.jpg --point 5,5 --output out", 2, "cannot be predicted"),
        (
            "--image images/a.jpg --mask masks/a.png --region image --output out",
            2,
            "a mask is its own region",
        ),
        ("--images images --prompts notes.txt --output out", 2, "cannot read prompts"),
        ("--images images --masks masks --output out --epsilon 8", 2, "write it like 8/255"),
        (
            "--images images --masks masks --output out --preset natural --epsilon 8/255",
            2,
            "names both epsilons",
        ),
        ("--images images --masks masks --output out --generator x", 2, "takes no --generator"),
        ("--images images --masks masks --output out --protector-option grd=3", 2, "did you mean grid"),
        ("--images images --masks masks --output out --protector unsge", 2, "did you mean unseg"),
        ("--images images --masks masks --output out --protector unseg", 2, "bench fit"),
        ("--images images --masks masks --output out --protector unseg --generator absent", 2, "absent"),
        ("--images images --masks masks --output out --device gpu", 2, "device"),
        ("--dataset image_mask --output out", 2, "--data-root"),
        ("--dataset imagemask --output out", 2, "did you mean image_mask"),
        ("--dataset image_mask --data-root absent --output out", 3, "does not exist"),
    ],
)
def test_a_request_that_does_not_fit_is_one_line(
    tmp_path: Path, photos, capsys, monkeypatch, given: str, code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "empty").mkdir()
    words = given.split()
    chosen = () if "--protector" in words else ("--protector", "random")
    got, line = refused(capsys, *words, *chosen)
    assert message in line
    assert got == code
    assert not outputs(tmp_path / "out")
    assert (tmp_path / "notes.txt").read_text() == "notes"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path, photos, capsys) -> None:
    images, masks = photos
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    code, line = refused(capsys, "--images", images, "--masks", masks, "--output", closed / "out", *RANDOM)
    assert code == 3
    assert "make it writable" in line
