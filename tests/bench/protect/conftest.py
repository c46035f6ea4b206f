"""Fixtures of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from protect_support import tiny_generator, write_photos

NAMES = ["a.jpg", "b.png", "sub/c.jpg", "sub/d.bmp", "ä ö.jpg"]


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    return write_photos(tmp_path, NAMES)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator(tmp_path_factory.mktemp("generator"))
