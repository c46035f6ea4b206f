from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.cli import guarded
from bench.cli.options import parse_epsilon
from bench.errors import SpecError


def bench(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bench.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str]:
    """Runs the command in this process; returns exit code and the one line it must print."""
    code = guarded([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert len(lines) == 1, captured.err
    return code, lines[0]


def test_help_and_ls_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from bench.cli import guarded\n"
        "guarded(['--help']); guarded(['ls']); guarded(['run', '--help'])\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'mmengine', 'cv2', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_ls_shows_every_plugin_and_no_broken_one() -> None:
    done = bench("ls")
    assert done.returncode == 0
    for name in (
        "unseg",
        "lsp",
        "random",
        "mask2former",
        "deeplabv3",
        "unetplusplus",
        "gaussian",
        "jpeg",
        "shapes",
        "voc",
    ):
        assert re.search(rf"^  {name}\s", done.stdout, re.M), name
    assert "does not import" not in done.stdout
    assert "victims" not in bench("ls", "protectors").stdout


def test_a_broken_plugin_is_listed_with_its_reason(install_plugins, capsys: pytest.CaptureFixture) -> None:
    install_plugins("import not_there", {"bench.victims": "broken = third_party:Victim"})
    assert guarded(["ls"]) == 0
    assert re.search(r"broken\s+victim 'broken'.*No module named 'not_there'", capsys.readouterr().out)
    code, line = refused(capsys, "run", "--protector", "lsp", "--victim", "broken")
    assert code == 3
    assert "does not import" in line


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["rn"], 2, "did you mean run"),
        (["run", "--protector", "unsge", "--victim", "mask2former"], 2, "did you mean unseg"),
        (["run", "--protector", "lsp", "--victim", "masktoformer"], 2, "did you mean mask2former"),
        (["run", "--protector", "lsp", "--victim", "deeplabv3", "--defense", "jpgg"], 2, "did you mean jpeg"),
        (["run", "--protector", "lsp", "--victim", "deeplabv3", "--dataset", "vocc"], 2, "did you mean voc"),
        (["run", "--protector", "lsp", "--victim", "deeplabv3", "--epsilon", "8"], 2, "write it like 8/255"),
        (["run", "--protector", "lsp", "--victim", "deeplabv3", "--epsilon", "x"], 2, "is no number"),
        (["run", "--protector", "lsp", "--victim", "deeplabv3", "--seeds", "0,0"], 2, "named once"),
        (["run", "--protector", "lsp", "--victim", "deeplabv3", "--profile", "tiny"], 2, "profile"),
        (["run", "--protector", "lsp", "--victim", "deeplabv3", "--victim-option", "x"], 2, "KEY=VALUE"),
        (["run", "--protector", "lsp", "--victim", "deeplabv3", "--dataset", "voc"], 2, "--data-root"),
        (["run", "--protector", "lsp", "--victim", "deeplabv3", "--device", "gpu"], 2, "device"),
        (["matrix", "absent.toml"], 2, "no matrix file"),
        (["tables", "--store", "absent"], 3, "holds no records"),
        (["status", "--store", "absent"], 3, "is no store"),
        (["ls", "protektors"], 2, "did you mean protectors"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_is_one_line_with_the_right_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "rn" in arguments:
        assert guarded(arguments) == code
        assert message in capsys.readouterr().err
        return
    got, line = refused(capsys, *arguments)
    assert message in line
    assert got == code
    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.rglob("record.json"))


def test_debug_gives_the_traceback() -> None:
    arguments = ("run", "--protector", "unsge", "--victim", "mask2former")
    assert "Traceback" not in bench(*arguments).stderr
    assert "Traceback" in bench(*arguments, "--debug").stderr


@pytest.mark.parametrize(
    ("text", "levels"), [("8/255", 8.0), ("0", 0.0), ("1", 255.0), ("0.03", 7.65), ("16/255", 16.0)]
)
def test_epsilon(text: str, levels: float) -> None:
    assert parse_epsilon(text, "--epsilon") == levels


@pytest.mark.parametrize("text", ["256/255", "-1/255", "1/0", "eight", "nan", "inf"])
def test_bad_epsilon(text: str) -> None:
    with pytest.raises(SpecError, match="--epsilon"):
        parse_epsilon(text, "--epsilon")


# ---- datasets that are wrong -------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A small image + mask dataset that is all right."""
    root = tmp_path / "photos"
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 255, (40, 48, 3), dtype=np.uint8)
            mask = np.zeros((40, 48), np.uint8)
            mask[8:24, 8:30] = 255
            Image.fromarray(pixels).save(root / "images" / split / f"photo {i}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"photo {i}.png")
    return root


def _run_on(photos: Path, store: Path, *more: str) -> list[object]:
    base = [
        "run",
        "--protector",
        "lsp",
        "--victim",
        "unetplusplus",
        "--profile",
        "ci",
        "--dataset",
        "image_mask",
    ]
    return [*base, "--data-root", photos, "--store", store, "--no-controls", *more]


def test_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, line = refused(capsys, *_run_on(tmp_path / "nowhere", tmp_path / "store"))
    assert code == 3
    assert "nowhere" in line


def test_mask_of_another_size(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Image.fromarray(np.full((40, 40), 255, np.uint8)).save(photos / "masks" / "train" / "photo 1.png")
    code, line = refused(capsys, *_run_on(photos, tmp_path / "store"))
    assert code == 3
    assert "photo 1" in line
    assert not list((tmp_path / "store").rglob("*.partial"))


def test_image_without_mask(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (photos / "masks" / "train" / "photo 2.png").unlink()
    code, line = refused(capsys, *_run_on(photos, tmp_path / "store"))
    assert code == 3
    assert "photo 2" in line


def test_unreadable_image_fails_its_cell_and_names_the_file(photos: Path, tmp_path: Path) -> None:
    bad = photos / "images" / "train" / "photo 3.png"
    bad.write_bytes(bad.read_bytes()[:900])  # the header is whole, the pixels are not
    store = tmp_path / "store"
    done = bench(*_run_on(photos, store))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert "photo 3.png" in done.stderr
    (record,) = (json.loads(p.read_text()) for p in store.glob("records/*/record.json"))
    assert record["status"] == "failed: dataset"
    assert not list(store.glob("stages/*/*/stage.json"))


def test_store_that_cannot_be_written(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    code, line = refused(capsys, *_run_on(photos, tmp_path / "file"))
    assert code == 3
    assert "--store" in line


def test_no_disk_space_while_protecting(photos: Path, tmp_path: Path) -> None:
    # RLIMIT_FSIZE is inherited by the workers; the kernel then refuses to write larger files, as a full disk does.
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for path in (photos / "images" / split).iterdir():
            Image.fromarray(rng.integers(0, 255, (400, 400, 3), dtype=np.uint8)).save(path)
            Image.fromarray(np.full((400, 400), 255, np.uint8)).save(photos / "masks" / split / path.name)
    store = tmp_path / "store"

    def limit() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", *map(str, _run_on(photos, store))],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=300,
    )
    assert done.returncode == 3, done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(store.glob("stages/*/*/stage.json"))


def test_no_cuda_where_it_was_asked_for(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from bench.machine import gpu_names

    if gpu_names():
        pytest.skip("this machine has a GPU")
    code, line = refused(capsys, *_run_on(photos, tmp_path / "store", "--device", "cuda"))
    assert code == 3
    assert "--device cpu" in line
