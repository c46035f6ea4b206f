"""The fingerprint follows content and nothing else; its cache saves reading and never lies."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from bench.datasets import fingerprint as module
from bench.datasets.fingerprint import fingerprint
from bench.datasets.image_mask import ImageMask
from bench.errors import DatasetError


@pytest.fixture
def root(tmp_path, tools):
    """A dataset that was last changed a minute ago."""
    root = tools.make_pairs(tmp_path / "data")
    for path in root.rglob("*"):
        os.utime(path, (time.time() - 60,) * 2)
    return root


@pytest.fixture
def reads(monkeypatch):
    """Counts the files that are hashed."""
    hashed = []
    original = module._sha256
    monkeypatch.setattr(module, "_sha256", lambda path: hashed.append(path) or original(path))
    return hashed


def test_place_time_and_other_files_do_not_count(root, tmp_path):
    value = fingerprint(ImageMask(root))
    assert len(value) == 64 and int(value, 16)
    shutil.copytree(root, tmp_path / "another place")
    (tmp_path / "another place/README").write_text("hello")
    for path in (tmp_path / "another place").rglob("*"):
        os.utime(path)
    assert fingerprint(ImageMask(tmp_path / "another place")) == value


def test_each_kind_of_file_counts(root, tools):
    values = {fingerprint(ImageMask(root))}
    tools.save_image(root / "masks/z_last.jpg", np.zeros((30, 44), np.uint8))
    values.add(fingerprint(ImageMask(root)))
    tools.save_image(root / "images/z_last.jpg", tools.photo(77))
    values.add(fingerprint(ImageMask(root)))
    tools.save_list(root / "train.txt", tools.train[:-1])
    values.add(fingerprint(ImageMask(root)))
    assert len(values) == 4


def test_the_same_bytes_in_another_place_count(root):
    value = fingerprint(ImageMask(root))
    image, mask, aside = root / "images/z_last.jpg", root / "masks/z_last.jpg", root / "aside"
    image.rename(aside)
    mask.rename(image)
    aside.rename(mask)
    assert fingerprint(ImageMask(root)) != value


def test_unchanged_files_are_not_read_again(root, tmp_path, reads):
    cache = tmp_path / "cache/hashes.json"
    value = fingerprint(ImageMask(root), cache)
    assert len(reads) == 14
    assert fingerprint(ImageMask(root), cache) == value
    assert len(reads) == 14
    path = root / "masks/z_last.jpg"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    assert fingerprint(ImageMask(root), cache) != value
    assert reads[14:] == [path]
    assert [entry.name for entry in cache.parent.iterdir()] == ["hashes.json"]
    assert not [entry for entry in root.rglob("*.json")]


def test_fresh_files_are_read_again(root, tmp_path, reads):
    """Two changes within one tick of the file system's clock look like one."""
    path = root / "train.txt"
    os.utime(path)
    cache = tmp_path / "hashes.json"
    value = fingerprint(ImageMask(root), cache)
    stamp = path.stat().st_mtime_ns
    text = path.read_text(encoding="utf-8")
    path.write_text(text[::-1].strip()[::-1].replace("2007", "7002") + "\n", encoding="utf-8")
    os.utime(path, ns=(stamp, stamp))
    (root / "images/2007_000032.jpg").rename(root / "images/7002_000032.jpg")
    (root / "masks/2007_000032.jpg").rename(root / "masks/7002_000032.jpg")
    assert fingerprint(ImageMask(root), cache) != value
    assert path in reads[14:]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": [1, 2, 3]}', "\0"])
def test_damaged_cache_is_ignored(root, tmp_path, content):
    cache = tmp_path / "hashes.json"
    value = fingerprint(ImageMask(root))
    cache.write_text(content)
    assert fingerprint(ImageMask(root), cache) == value
    assert len(json.loads(cache.read_text())) == 14


def test_missing_file_is_told(root, monkeypatch):
    dataset = ImageMask(root)
    monkeypatch.setattr(dataset, "files", lambda: iter([Path("images/gone.jpg")]))
    with pytest.raises(DatasetError, match=r"gone\.jpg: No such file"):
        fingerprint(dataset)
