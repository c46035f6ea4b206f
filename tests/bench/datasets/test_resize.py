"""Smaller copies of photographs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.datasets.base import SPLITS
from bench.datasets.image_mask import ImageMask
from bench.datasets.resize import resize_dataset, resized_shape
from bench.datasets.voc import VOC2012
from bench.errors import DatasetError, SpecError


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), side=st.integers(1, 2000))
def test_shape_keeps_the_aspect_within_a_pixel(height, width, side):
    new_height, new_width = resized_shape(height, width, side)
    assert max(new_height, new_width) == min(side, max(height, width))
    assert min(new_height, new_width) >= 1
    scale = max(new_height, new_width) / max(height, width)
    assert abs(new_height - height * scale) <= 1 and abs(new_width - width * scale) <= 1


@pytest.mark.parametrize("kind", [VOC2012, ImageMask])
def test_resized_copy_is_read_by_the_same_adapter(kind, tmp_path, tools):
    source = kind(tools.make_voc(tmp_path / "a") if kind is VOC2012 else tools.make_pairs(tmp_path / "a"))
    before = tools.tree_hash(tmp_path / "a")
    calls = []
    resize_dataset(source, tmp_path / "small", 22, lambda done, total, note: calls.append((done, total)))
    assert tools.tree_hash(tmp_path / "a") == before
    assert calls[-1] == (len(source.inventory()),) * 2
    small = kind(tmp_path / "small", source.options)
    small.check()
    for split in SPLITS:
        assert small.ids(split) == source.ids(split)
        for image_id in small.ids(split):
            image, annotation = small.image(split, image_id), small.annotation(split, image_id)
            assert image.shape == (15, 22, 3) and small.image_path(split, image_id).suffix == ".png"
            original = source.annotation(split, image_id)
            assert set(np.unique(annotation.semantic)) <= set(np.unique(original.semantic))
            assert np.array_equal(annotation.semantic, original.semantic[1::2, 1::2])
            expected = Image.fromarray(source.image(split, image_id)).resize(
                (22, 15), Image.Resampling.LANCZOS
            )
            assert np.array_equal(image, np.asarray(expected))
            assert len(annotation.segments) == len(original.segments)
    resize_dataset(kind(tmp_path / "a"), tmp_path / "again", 22)
    assert tools.tree_hash(tmp_path / "small") == tools.tree_hash(tmp_path / "again")


def test_smaller_images_keep_their_pixels(tmp_path, tools):
    source = ImageMask(tools.make_pairs(tmp_path / "a"))
    resize_dataset(source, tmp_path / "b", 1000)
    same = ImageMask(tmp_path / "b")
    for image_id in source.ids("train"):
        assert np.array_equal(same.image("train", image_id), source.image("train", image_id))
        assert np.array_equal(
            same.annotation("train", image_id).semantic, source.annotation("train", image_id).semantic
        )


def test_refusals(shapes, tmp_path, tools):
    with pytest.raises(SpecError, match="image_size option"):
        resize_dataset(shapes, tmp_path / "x", 32)
    source = ImageMask(tools.make_pairs(tmp_path / "a"))
    with pytest.raises(SpecError, match="below one pixel"):
        resize_dataset(source, tmp_path / "x", 0)
    with pytest.raises(DatasetError, match="not empty"):
        resize_dataset(source, tmp_path / "a", 32)
    for number, image_id in enumerate(tools.ids):
        tools.save_image(tmp_path / f"mixed/{image_id}.jpg", tools.photo(number))
        tools.save_image(tmp_path / f"mixed/{image_id}.png", tools.blob(number) * np.uint8(255))
    mixed = ImageMask(tmp_path / "mixed", ImageMask.Options(image_folder=".", mask_folder=".", val_share=0.5))
    with pytest.raises(DatasetError, match="two files of the copy"):
        resize_dataset(mixed, tmp_path / "y", 10)
