"""Small photographs with masks, a tiny generator, and the command as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

RANDOM = ("--protector", "random", "--protector-option", "grid=9")
"""A protector that draws random numbers and needs no training."""

SLOW = """
import time
from pathlib import Path
from protectors.random_noise import RandomNoise

class Slow(RandomNoise):
    name = "slow"
    summary = "random noise, slowly"

    def noise(self, *arguments):
        time.sleep(0.05)
        return super().noise(*arguments)
"""
SLOW_ENTRY = {"bench.protectors": "slow = third_party:Slow"}


def photo(seed: int = 0, height: int = 40, width: int = 56) -> np.ndarray:
    """Smooth colours with some grain, `(H, W, 3)` uint8."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)


def mask_of(image: np.ndarray) -> np.ndarray:
    """A rectangle in an image, `(H, W)` uint8 of 0 and 255."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = 255
    return mask


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_photos(folder: Path, names: Iterable[str]) -> tuple[Path, Path]:
    """Photographs in `folder/images` and their masks as PNG in `folder/masks`."""
    images, masks = folder / "images", folder / "masks"
    for index, name in enumerate(names):
        pixels = photo(index)
        save(images / name, pixels)
        save((masks / name).with_suffix(".png"), mask_of(pixels))
    return images, masks


def damaged(folder: Path) -> dict[str, tuple[Path, Path, str]]:
    """Image, mask and the message of each pair that cannot be used."""
    image, mask = save(folder / "a.png", photo()), save(folder / "m.png", mask_of(photo()))
    truncated = folder / "truncated.jpg"
    Image.fromarray(photo(0, 200, 300)).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:2000])
    large_mask = save(folder / "large.png", mask_of(photo(0, 200, 300)))
    text = folder / "text.jpg"
    text.write_text("not an image")
    empty = folder / "empty.jpg"
    empty.write_bytes(b"")
    wide = folder / "wide.tif"
    Image.fromarray(photo().mean(-1).astype(np.float32)).save(wide)
    return {
        "truncated": (truncated, large_mask, "cannot read image"),
        "text": (text, mask, "is not an image"),
        "empty": (empty, mask, "is not an image"),
        "32 bit": (wide, mask, "32-bit pixels"),
        "mask of another size": (image, large_mask, "300 x 200 pixels and the image 56 x 40"),
        "mask that is no image": (image, text, "mask .* is not an image"),
        "coloured mask": (image, save(folder / "c.png", photo()), "is in colour"),
        "missing mask": (image, folder / "absent.png", "is missing"),
    }


def lines(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest by name; fails if a name has two lines."""
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert len({row["image"] for row in rows}) == len(rows)
    return {row["image"]: row for row in rows}


def outputs(folder: Path) -> dict[str, bytes]:
    """Protected images by their place; the contact sheet is none."""
    files = (path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name != "contact_sheet.png"
    }


def arguments(*given: object) -> list[str]:
    return ["protect", *map(str, given)]


def start(*given: object, environment: Mapping[str, str] | None = None, before: str = "") -> subprocess.Popen:
    """The command in a process of its own; `before` is code that runs first in it."""
    code = (
        "import sys\n"
        f"{before}\n"
        "from bench.cli import app\n"
        "from bench.cli.protect import protect\n"
        "app.cli.add_command(protect)\n"
        "sys.exit(app.guarded(sys.argv[1:]))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments(*given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def bench_protect(*given: object) -> int:
    """The command in this process; returns the exit code."""
    from bench.cli import app
    from bench.cli.protect import protect

    app.cli.add_command(protect)
    return app.guarded(arguments(*given))


def errors(text: str) -> list[str]:
    """The lines on standard error that are no progress."""
    return [line for line in text.splitlines() if line.startswith(("bench:", "Error", "Usage", "Traceback"))]


def refused(capsys: pytest.CaptureFixture, *given: object) -> tuple[int, str]:
    """Exit code and the one line that must be printed."""
    code = bench_protect(*given)
    shown = errors(capsys.readouterr().err)
    assert len(shown) == 1, shown
    return code, shown[0]


def tiny_generator(folder: Path, **stated: Any) -> Path:
    """A generator with random weights."""
    import torch
    from unseg_support import SMALL

    from bench.training.checkpoint import save_weights
    from protectors.unseg.generator import NoiseSam
    from protectors.unseg.options import Geometry
    from protectors.unseg.weights import OPTIONS, WEIGHTS

    geometry = Geometry(**SMALL)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_weights(folder / WEIGHTS, NoiseSam(geometry, "intended"))
    said = {
        "generator": geometry.model_dump(mode="json"),
        "token_readout": "intended",
        "trainable": "all",
        **stated,
    }
    (folder / OPTIONS).write_text(json.dumps(said))
    return folder
