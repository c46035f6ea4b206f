from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bench.report.contact_sheet import GAP, TILE, amplified_noise, write_contact_sheet


def test_sheet_shows_clean_protected_and_amplified_noise(tmp_path: Path) -> None:
    clean = np.full((48, 64, 3), 100, np.uint8)
    protected = clean.copy()
    protected[:24] += 8
    protected[24:] -= 4
    write_contact_sheet([(clean, protected), (clean[:1, :1], protected[:1, :1])], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * (TILE + GAP), 3 * (TILE + GAP), 3)
    noise = sheet[:, 2 * (TILE + GAP) :]
    assert (noise[0, 0] == 255).all()  # +8 levels is full swing
    assert (noise[143, 0] == 63).all()  # -4 levels is half of it, down
    assert (sheet[0, 0] == 100).all()


def test_noise_of_all_levels_is_amplified_in_bands_too() -> None:
    levels = np.arange(-255, 256)
    protected = np.clip(levels, 0, 255).astype(np.uint8).repeat(3).reshape(-1, 1, 3)
    clean = np.clip(-levels, 0, 255).astype(np.uint8).repeat(3).reshape(-1, 1, 3)
    expected = np.clip(127.5 + levels.astype(np.float32) * 15.9375, 0, 255).astype(np.uint8)
    assert (amplified_noise(clean, protected)[:, 0] == expected[:, None]).all()


def test_without_images_there_is_no_sheet(tmp_path: Path) -> None:
    write_contact_sheet(iter(()), tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())
