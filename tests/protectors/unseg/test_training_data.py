"""What the generator can be trained on: photographs with masks, classes or instances, and what is kept of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_dataset import MemoryDataset
from PIL import Image
from unseg_support import QUICK, TINY, Scenes

from bench.datasets.base import Annotation, Segment
from bench.datasets.image_mask import ImageMask
from bench.datasets.shapes.dataset import Shapes
from bench.datasets.voc import VOC2012
from bench.errors import DatasetError
from protectors.unseg import UnSeg, samples
from protectors.unseg.options import UnSegOptions
from protectors.unseg.samples import SampleStream

SIDE = 32
OBJECTS = {
    "one": [(2, 2, 12, 14)],
    "three": [(0, 0, 9, 9), (16, 2, 30, 12), (4, 18, 26, 30)],
    "val": [(5, 5, 20, 20)],
}
"""Boxes x0, y0, x1, y1 of the objects of each image."""


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def voc(tmp_path) -> Path:
    """Two training images in the layout of VOC, with one and with three objects; two of those are cats."""
    root = tmp_path / "VOC2012"
    rng = np.random.default_rng(0)
    for name, boxes in OBJECTS.items():
        classes, objects = np.zeros((2, SIDE, SIDE), np.uint8)
        for number, (x0, y0, x1, y1) in enumerate(boxes):
            classes[y0:y1, x0:x1] = (8, 8, 12)[number]
            objects[y0:y1, x0:x1] = number + 1
        write(root / f"JPEGImages/{name}.png", rng.integers(0, 256, (SIDE, SIDE, 3)))
        write(root / f"SegmentationClass/{name}.png", classes)
        write(root / f"SegmentationObject/{name}.png", objects)
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("one\nthree\n")
    (lists / "val.txt").write_text("val\n")
    return root


def options_for(objects: str, **changes: Any) -> UnSegOptions:
    geometry = TINY | {"image_size": SIDE}
    # No jitter and no cache: a sample is an image as it is, perhaps mirrored.
    fixed = {"generator": geometry, "jitter": [1.0, 1.0], "flips": "horizontal", "cache_images": 0}
    return UnSeg.resolve_options("ci", QUICK | fixed | {"objects": objects} | changes)


def areas(stream: SampleStream, positions: range) -> Counter[int]:
    return Counter(int(stream.sample(position)[1].sum()) for position in positions)


def area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def test_every_instance_is_a_sample_and_all_weigh_the_same(voc):
    stream = SampleStream([VOC2012(voc)], options_for("instances"), seed=0)
    expected = Counter(area(box) for name in ("one", "three") for box in OBJECTS[name])
    assert len(stream) == sum(expected.values()) == 4
    for epoch in range(5):
        assert areas(stream, range(4 * epoch, 4 * epoch + 4)) == expected


def test_without_instances_every_class_of_an_image_is_a_sample(voc):
    for path in (voc / "SegmentationObject").iterdir():
        path.unlink()
    stream = SampleStream([VOC2012(voc)], options_for("instances"), seed=0)
    first, (cat, other_cat, dog) = OBJECTS["one"][0], OBJECTS["three"]
    assert areas(stream, range(3)) == Counter([area(first), area(cat) + area(other_cat), area(dog)])


def test_the_union_is_one_sample_for_an_image(voc):
    stream = SampleStream([VOC2012(voc)], options_for("union"), seed=0)
    unions = Counter(sum(area(box) for box in OBJECTS[name]) for name in ("one", "three"))
    assert len(stream) == 2
    assert areas(stream, range(2)) == areas(stream, range(2, 4)) == unions


def test_the_sample_s_image_is_the_one_that_the_mask_belongs_to(voc):
    dataset = VOC2012(voc)
    stream = SampleStream([dataset], options_for("instances"), seed=0)
    pixels = {
        name: torch.from_numpy(dataset.image("train", name)).permute(2, 0, 1) / 255
        for name in ("one", "three")
    }
    for position in range(8):
        image, mask = stream.sample(position)
        straight = [(image, mask), (image.flip(2), mask.flip(2))]
        name = next(n for n, p in pixels.items() for i, _ in straight if torch.equal(i, p))
        masks = [torch.zeros(1, SIDE, SIDE) for _ in OBJECTS[name]]
        for plane, (x0, y0, x1, y1) in zip(masks, OBJECTS[name], strict=True):
            plane[0, y0:y1, x0:x1] = 1
        found = [m for i, m in straight if torch.equal(i, pixels[name])]
        assert any(torch.equal(m, plane) for m in found for plane in masks)


def test_folders_of_images_and_masks_scenes_and_voc_are_trained_on_together(tmp_path, voc):
    rng = np.random.default_rng(1)
    for name in "abc":
        write(tmp_path / f"pairs/images/{name}.png", rng.integers(0, 256, (SIDE, SIDE, 3)))
        mask = np.zeros((SIDE, SIDE))
        mask[4:20, 6:25] = 255
        write(tmp_path / f"pairs/masks/{name}.png", mask)
    (tmp_path / "pairs/train.txt").write_text("a\nb\n")
    (tmp_path / "pairs/val.txt").write_text("c\n")
    shapes = Shapes(tmp_path / "shapes", Shapes.resolve_options("ci", {"train_images": 3, "val_images": 1}))
    shapes.generate()
    labels = [shapes.annotation("train", image_id) for image_id in shapes.ids("train")]
    # Its background is a segment too, and no object.
    drawn = sum((segment.mask & label.foreground).any() for label in labels for segment in label.segments)
    pairs = ImageMask(tmp_path / "pairs", ImageMask.resolve_options("ci", {}))
    for objects in ("union", "instances"):
        options = options_for(objects, batch_size=7)
        stream = SampleStream([pairs, VOC2012(voc), shapes], options, seed=0)
        assert len(stream.images) == 2 + 2 + 3
        assert len(stream) == {"union": 2 + 2 + 3, "instances": 2 + 4 + drawn}[objects]
        image, mask = stream.batch(0)
        assert image.shape == (7, 3, SIDE, SIDE)
        assert set(mask.unique().tolist()) == {0.0, 1.0}


class Photographs(MemoryDataset):
    """Photographs that are larger than any network's input, each with two objects; counts how often it decodes."""

    name = "photographs"
    tasks = frozenset({"semantic", "instance"})

    def __init__(self, count: int, side: int = 300) -> None:
        super().__init__()
        self.count, self.side, self.decoded = count, side, 0

    def ids(self, split):
        return tuple(str(i) for i in range(self.count))

    def image(self, split, image_id):
        self.decoded += 1
        rng = np.random.default_rng(int(image_id))
        return rng.integers(0, 256, (self.side, self.side, 3)).astype(np.uint8)

    def annotation(self, split, image_id):
        masks = np.zeros((2, self.side, self.side), bool)
        masks[0, 40:150, 30:200] = masks[1, 160:290, 20 + int(image_id) : 280] = True
        foreground = masks.any(0)
        return Annotation(foreground.astype(np.uint8), tuple(Segment(m, 0) for m in masks), foreground)


@pytest.mark.parametrize("objects", ["union", "instances"])
def test_photographs_are_kept_small_and_within_bounds_and_that_changes_nothing(monkeypatch, objects):
    options = options_for(objects, cache_images=20, jitter=[0.5, 1.5])
    per_image = SIDE * SIDE * (3 + (2 if objects == "instances" else 1))
    streams = {}
    for name, room in (("all", 1 << 30), ("some", 3 * per_image + 5), ("none", 0)):
        monkeypatch.setattr(samples, "CACHE_BYTES", room)
        dataset = Photographs(8)
        stream = SampleStream([dataset], options, seed=0)
        streams[name] = [stream.sample(position) for position in range(3 * len(stream))]
        assert stream._kept_bytes == min(8, room // per_image) * per_image
        assert stream._kept_bytes == sum(i.nbytes + m.nbytes for i, m in stream._kept.values())
        assert dataset.decoded == {"all": 8, "none": 3 * len(stream)}.get(name, dataset.decoded)
    for name in ("some", "none"):
        for ours, theirs in zip(streams[name], streams["all"], strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


def test_more_photographs_than_are_to_be_kept_are_not(monkeypatch):
    stream = SampleStream([Photographs(8)], options_for("union", cache_images=7), seed=0)
    for position in range(8):
        stream.sample(position)
    assert stream._kept == {}


def test_small_objects_give_way_to_the_next_and_only_small_ones_are_refused():
    class Dots(Scenes):
        def annotation(self, split, image_id):
            mask = np.zeros((24, 24), bool)
            mask[3:6, 3 : 6 if image_id in self.small else 15] = True
            return Annotation(mask.astype(np.uint8), (), mask)

    dots = Dots(4)
    dots.small = {"0", "2"}
    stream = SampleStream([dots], options_for("union", generator=TINY | {"image_size": 24}), seed=0)
    assert {int(mask.sum()) for _, mask in (stream.sample(i) for i in range(12))} == {36}
    dots.small = {"0", "1", "2", "3"}
    with pytest.raises(DatasetError, match="no object of 10 pixels"):
        stream.sample(0)


def test_a_set_without_objects_is_refused_by_name():
    blank = Scenes(3)
    blank.annotation = lambda split, image_id: Annotation(
        np.zeros((24, 24), np.uint8), (), np.zeros((24, 24), bool)
    )
    with pytest.raises(DatasetError, match="no labelled object in the 3 training images of memory"):
        SampleStream([blank], options_for("instances"), seed=0)
