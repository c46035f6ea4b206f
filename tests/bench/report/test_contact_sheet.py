from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bench.report.contact_sheet import GAP, TILE, write_contact_sheet


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
