"""`bench protect` as a user calls it."""

from __future__ import annotations

import json
import os
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
    damaged,
    errors,
    lines,
    mask_of,
    outputs,
    photo,
    save,
    start,
    tiny_generator,
    write_photos,
)

from bench.datasets.image_mask import ImageMask
from bench.datasets.imageio import read_binary_mask, read_rgb
from bench.protect.output import file_sha256

NAMES = ["a.jpg", "b.png", "sub/c.jpg", "sub/d.bmp", "ä ö.jpg"]


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    return write_photos(tmp_path, NAMES)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator(tmp_path_factory.mktemp("generator"))


def refused(capsys: pytest.CaptureFixture, *given: object) -> tuple[int, str]:
    """Exit code and the one line that must be printed."""
    code = bench_protect(*given)
    shown = errors(capsys.readouterr().err)
    assert len(shown) == 1, shown
    return code, shown[0]


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


# ---- interruptions -----------------------------------------------------------------------------------


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


# ---- bad input ---------------------------------------------------------------------------------------


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


# ---- prompts -----------------------------------------------------------------------------------------


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


# ---- datasets ----------------------------------------------------------------------------------------


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


# ---- memory ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_photograph_of_24_megapixels_needs_less_than_two_gibibytes(tmp_path: Path, generator) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for number in range(2):
        save(images / f"{number}.jpg", photo(number, 4000, 6000))
        save(masks / f"{number}.png", mask_of(photo(number, 4000, 6000)))
    process = start(
        "--images", images, "--masks", masks, "--output", tmp_path / "out", "--generator", generator
    )
    out, text = process.communicate()
    assert process.returncode == 0, text
    assert float(re.search(r"peak memory: (\S+) GiB", out)[1]) < 2
