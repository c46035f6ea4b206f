"""COCO's panoptic layout: segment ids in colours, crowds, void, and what mmdet makes of a protected copy."""

from __future__ import annotations

import contextlib
import io
import json
import os

import numpy as np
import pytest
from coco_support import PANOPTIC_CATEGORIES, make_panoptic, panoptic_ids, save_json
from PIL import Image

from bench.datasets.base import VOID
from bench.datasets.coco_panoptic import CocoPanoptic
from bench.datasets.resize import resize_dataset
from bench.errors import DatasetError

TRAIN_JSON = "annotations/panoptic_train2017.json"
SKY, CAT, ROAD, DOG = range(4)
IDS = ("sub/one", "two", "three")


@pytest.fixture
def dataset(tmp_path) -> CocoPanoptic:
    return CocoPanoptic(make_panoptic(tmp_path / "source"))


def edit(dataset: CocoPanoptic, change) -> CocoPanoptic:
    content = json.loads((dataset.root / TRAIN_JSON).read_text())
    change(content)
    save_json(dataset.root / TRAIN_JSON, content)
    return CocoPanoptic(dataset.root)


def segments_of(content: dict) -> list[dict]:
    return content["annotations"][0]["segments_info"]


def test_ids_and_categories(dataset):
    dataset.check()
    assert dataset.ids("train") == IDS and dataset.ids("val") == ("four",)
    assert dataset.classes == ("sky", "cat", "road", "dog")
    assert [c.is_thing for c in dataset.categories] == [False, True, False, True]


def test_segments_are_the_colours(dataset):
    number = {name: index for index, (_, name, _) in enumerate(PANOPTIC_CATEGORIES)}
    expected = {5: "cat", 9: "dog", 256: "cat", 300: "sky", 70000: "road"}
    for index, image_id in enumerate(IDS):
        ids, annotation = panoptic_ids(index), dataset.annotation("train", image_id)
        assert len(annotation.segments) == len(expected)
        for segment, (value, name) in zip(annotation.segments, expected.items(), strict=True):
            assert np.array_equal(segment.mask, ids == value) and segment.category == number[name]
            assert segment.is_crowd == (value == 9)


def test_void_is_what_is_unlabelled_or_crowd(dataset):
    ids, annotation = panoptic_ids(0), dataset.annotation("train", IDS[0])
    assert np.array_equal(annotation.semantic == VOID, (ids == 0) | (ids == 9))
    assert (annotation.semantic[ids == 5] == CAT).all() and (annotation.semantic[ids == 300] == SKY).all()
    assert np.array_equal(annotation.foreground, annotation.semantic != VOID)
    things = CocoPanoptic(dataset.root, CocoPanoptic.Options(protected="things"))
    assert np.array_equal(things.annotation("train", IDS[0]).foreground, (ids == 5) | (ids == 256))


def test_pngs_beside_the_json_or_named_by_options(dataset, tmp_path, tools):
    os.rename(dataset.root / "panoptic_train2017", dataset.root / "annotations/panoptic_train2017")
    beside = CocoPanoptic(dataset.root)
    beside.check()
    beside.write_copy(tmp_path / "copy", tools.png_writer)
    assert (tmp_path / "copy/annotations/panoptic_train2017/sub/one.png").is_file()
    os.rename(dataset.root / "annotations/panoptic_train2017", dataset.root / "elsewhere")
    with pytest.raises(DatasetError, match="option train_segments"):
        CocoPanoptic(dataset.root).check()
    CocoPanoptic(dataset.root, CocoPanoptic.Options(train_segments="elsewhere")).check()


BROKEN = [
    (lambda c: c["categories"][0].pop("isthing"), "1 category entry without 'isthing': dog"),
    (lambda c: c["annotations"].pop(), "image 'three' has 0 annotations"),
    (
        lambda c: c["annotations"][0].pop("file_name"),
        "'file_name' of annotation of image 'sub/one' is missing",
    ),
    (lambda c: c["annotations"][0].update(file_name="/x.png"), "must be a path below"),
    (
        lambda c: c["annotations"][0].update(file_name="lost.png"),
        r"1 panoptic PNG of 3 missing in .*lost.png",
    ),
    (
        lambda c: c["annotations"][0].pop("segments_info"),
        "'segments_info' of annotation of image 'sub/one' is",
    ),
    (lambda c: segments_of(c)[0].update(category_id=3), "segment 5 of image 'sub/one' has category 3"),
    (lambda c: segments_of(c)[0].update(id=9), "segment id of image 'sub/one' more than once: 9"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[m for _, m in BROKEN])
def test_what_is_wrong_is_named_in_one_line(dataset, change, message):
    with pytest.raises(DatasetError, match=message) as caught:
        edit(dataset, change).check()
    assert "\n" not in str(caught.value)


def test_json_and_png_must_hold_the_same_segments(dataset):
    unlisted = edit(dataset, lambda c: segments_of(c).pop(0))
    unlisted.check()
    with pytest.raises(DatasetError, match=r"segment 5 of one.png is in .*one.png and not in .*2017.json"):
        unlisted.annotation("train", IDS[0])
    invented = edit(
        dataset, lambda c: c["annotations"][1]["segments_info"].append({"id": 4, "category_id": 7})
    )
    with pytest.raises(DatasetError, match=r"segment 4 of two.png is in .*2017.json and not in"):
        invented.annotation("train", "two")


def test_a_png_of_another_size_is_refused(dataset):
    Image.new("RGB", (10, 10)).save(dataset.root / "panoptic_train2017/two.png")
    with pytest.raises(DatasetError, match=r"1 label file .*two.png \(10 x 10, image 44 x 30\)"):
        dataset.check()


def test_the_copy_differs_in_file_names_of_images_alone(dataset, tmp_path, tools):
    dataset.write_copy(tmp_path / "copy", tools.png_writer)
    before = json.loads((dataset.root / TRAIN_JSON).read_text())
    after = json.loads((tmp_path / "copy" / TRAIN_JSON).read_text())
    assert [image["file_name"] for image in after["images"]] == ["sub/one.png", "two.png", "three.png"]
    assert after["annotations"] == before["annotations"] and after["categories"] == before["categories"]
    for name in ("panoptic_train2017/sub/one.png", "panoptic_val2017/four.png", "val2017/four.jpg"):
        assert os.path.samefile(tmp_path / "copy" / name, dataset.root / name)


def test_mmdet_reads_the_copy(dataset, tmp_path, tools):
    from bench.training.environment import prepare

    prepare("mmdet")
    from mmdet.datasets import CocoPanopticDataset

    dataset.write_copy(tmp_path / "copy", tools.png_writer)
    things = tuple(name for _, name, is_thing in PANOPTIC_CATEGORIES if is_thing)
    stuff = tuple(name for _, name, is_thing in PANOPTIC_CATEGORIES if not is_thing)
    with contextlib.redirect_stdout(io.StringIO()):
        read = CocoPanopticDataset(
            ann_file=str(tmp_path / "copy" / TRAIN_JSON),
            data_prefix={
                "img": str(tmp_path / "copy/train2017"),
                "seg": str(tmp_path / "copy/panoptic_train2017"),
            },
            metainfo={"classes": things + stuff, "thing_classes": things, "stuff_classes": stuff},
            pipeline=[],
        )
    assert len(read) == len(IDS)
    # mmdet counts categories in the order of the json, which is reversed: dog, road, cat, sky.
    labels = {DOG: 0, ROAD: 1, CAT: 2, SKY: 3}
    for index, image_id in enumerate(IDS):
        found, annotation = read.get_data_info(index), dataset.annotation("train", image_id)
        pixels = np.asarray(Image.open(found["img_path"]))
        assert np.array_equal(pixels, 255 - dataset.image("train", image_id))
        # mmdet's own loading of the PNG needs a package that is not on PyPI; this is what it does.
        colours = np.asarray(Image.open(found["seg_map_path"])).astype(int)
        ids = colours[..., 0] + 256 * colours[..., 1] + 256**2 * colours[..., 2]
        for segment, info in zip(annotation.segments, found["segments_info"], strict=True):
            assert np.array_equal(ids == info["id"], segment.mask)
            assert info["category"] == labels[segment.category]
            is_thing = dataset.categories[segment.category].is_thing and not segment.is_crowd
            assert info["is_thing"] == is_thing
        assert len(found["instances"]) == 2


def test_a_resized_copy(dataset, tmp_path, tools):
    before = tools.tree_hash(dataset.root)
    resize_dataset(dataset, tmp_path / "small", 22)
    assert tools.tree_hash(dataset.root) == before
    small = CocoPanoptic(tmp_path / "small")
    small.check()
    content = json.loads((tmp_path / "small" / TRAIN_JSON).read_text())
    for image_id, entry in zip(IDS, content["annotations"], strict=True):
        old, new = dataset.annotation("train", image_id), small.annotation("train", image_id)
        assert np.array_equal(new.semantic, old.semantic[1::2, 1::2])
        for segment, info in zip(new.segments, entry["segments_info"], strict=True):
            rows, columns = np.nonzero(segment.mask)
            assert info["area"] == len(rows)
            assert info["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


def test_resizing_drops_segments_without_a_pixel(dataset, tmp_path):
    resize_dataset(dataset, tmp_path / "tiny", 4)
    tiny = CocoPanoptic(tmp_path / "tiny")
    assert 0 < len(tiny.annotation("train", "two").segments) < 5


def test_it_reads_shapes(shapes):
    dataset = CocoPanoptic(shapes.root, CocoPanoptic.Options(protected="things"))
    dataset.check()
    assert dataset.categories == shapes.categories
    for image_id in shapes.ids("train"):
        drawn, found = shapes.annotation("train", image_id), dataset.annotation("train", image_id)
        assert [s.category for s in found.segments] == [s.category for s in drawn.segments]
        assert all(
            np.array_equal(a.mask, b.mask) for a, b in zip(found.segments, drawn.segments, strict=True)
        )
        assert np.array_equal(found.foreground, drawn.foreground)
