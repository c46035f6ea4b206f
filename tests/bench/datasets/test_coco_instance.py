"""COCO's instance layout: what real files hold, and what other programs make of a protected copy."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from coco_support import HEIGHT, TRAIN, VAL, WIDTH, make_instances, save_json, save_photo
from PIL import Image
from pydantic import ValidationError

from bench.datasets.coco_instance import CocoInstance
from bench.datasets.resize import resize_dataset
from bench.errors import DatasetError

TRAIN_JSON = "annotations/instances_train2017.json"
IDS = ("city/a b", "city/deep/ümlaut", "dots.in.name", "nothing")


@pytest.fixture
def dataset(tmp_path) -> CocoInstance:
    return CocoInstance(make_instances(tmp_path / "source"))


def quiet_coco(path: Path):
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def edit(root: Path, change, name: str = TRAIN_JSON) -> CocoInstance:
    content = json.loads((root / name).read_text())
    change(content)
    save_json(root / name, content)
    return CocoInstance(root)


def test_ids_and_categories(dataset):
    dataset.check()
    assert dataset.ids("train") == IDS and dataset.ids("val") == ("city/v", "日本")
    assert [c.name for c in dataset.categories] == ["cat", "dog", "tooth brush", "never seen"]
    assert dataset.classes == ("background", "cat", "dog", "tooth brush", "never seen")
    assert all(category.is_thing for category in dataset.categories)


def test_masks_and_boxes_are_those_of_pycocotools(dataset):
    coco = quiet_coco(dataset.json_path("train"))
    order = {c["name"]: c["id"] for c in coco.dataset["categories"]}
    for image_id in dataset.ids("train"):
        segments = dataset.annotation("train", image_id).segments
        entries = coco.loadAnns(coco.getAnnIds([dataset.entry("train", image_id).number]))
        assert len(segments) == len(entries) == (0 if image_id == "nothing" else 4)
        for segment, entry in zip(segments, entries, strict=True):
            assert np.array_equal(segment.mask, coco.annToMask(entry) > 0)
            assert order[dataset.categories[segment.category].name] == entry["category_id"]
            assert segment.is_crowd == bool(entry.get("iscrowd"))
            x, y, width, height = entry["bbox"]
            assert segment.box == (x, y, x + width, y + height)


def test_label_maps_put_small_objects_on_large_ones_and_make_crowds_void(dataset):
    annotation = dataset.annotation("train", "city/a b")
    assert (
        annotation.semantic[5, 5] == 1 and annotation.semantic[3, 3] == 2 and annotation.semantic[22, 3] == 3
    )
    assert annotation.semantic[20, 35] == 255 and annotation.semantic[0, 0] == 0
    nothing = dataset.annotation("train", "nothing")
    assert not nothing.semantic.any() and not nothing.foreground.any() and nothing.segments == ()


@pytest.mark.parametrize(
    ("jsons", "images"),
    [
        (("annotations/NWPU_instances_train.json", "annotations/NWPU_instances_val.json"), ("imgs", "imgs")),
        (
            ("annotations/WHU_building_train.json", "annotations/WHU_building_val.json"),
            ("imgs/train/image", "imgs/val/image"),
        ),
        (("annotations/train.json", "annotations/val.json"), ("images/train", "images/val")),
        (("annotations/instances_train.json", "annotations/instances_val.json"), ("train", "val")),
        (("train.json", "val.json"), ("images", "images")),
    ],
)
def test_layouts_that_are_found(tmp_path, jsons, images, tools):
    root = make_instances(tmp_path / "data", jsons, images)
    save_json(root / "annotations/panoptic_train.json", {})
    dataset = CocoInstance(root)
    dataset.check()
    assert dataset.ids("train") == IDS
    dataset.write_copy(tmp_path / "copy", tools.png_writer)
    copy = CocoInstance(tmp_path / "copy")
    copy.check()
    assert copy.ids("train") == IDS and copy.image_path("train", IDS[1]).suffix == ".png"


def test_other_layouts_are_named_by_options(tmp_path):
    root = make_instances(tmp_path / "data", ("a/x.json", "b/y.json"), ("here", "there/deep"))
    with pytest.raises(DatasetError, match="option train_json"):
        CocoInstance(root).check()
    options = CocoInstance.Options(train_json="a/x.json", val_json="b/y.json")
    with pytest.raises(DatasetError, match=r"city/a b.jpg .*option train_images"):
        CocoInstance(root, options).check()
    names = {
        "train_json": "a/x.json",
        "val_json": "b/y.json",
        "train_images": "here",
        "val_images": "there/deep",
    }
    CocoInstance(root, CocoInstance.Options(**names)).check()
    with pytest.raises(DatasetError, match=r"b/z.json is missing \(option val_json\)"):
        CocoInstance(root, CocoInstance.Options(**names | {"val_json": "b/z.json"})).check()
    with pytest.raises(DatasetError, match=r"nowhere is no folder \(option train_images\)"):
        CocoInstance(root, CocoInstance.Options(**names | {"train_images": "nowhere"})).check()
    for path in ("/etc/x.json", "../x.json"):
        with pytest.raises(ValidationError, match="must lie in the dataset folder"):
            CocoInstance.Options(train_json=path)


@pytest.mark.parametrize("place", ["..", ".", "source", "source/annotations"])
def test_a_root_one_level_too_high_or_low_is_corrected(dataset, tmp_path, place):
    if place == "..":
        (tmp_path / "outer").mkdir()
        dataset.root.rename(tmp_path / "outer/source")
        found = CocoInstance(tmp_path / "outer")
    else:
        found = CocoInstance(tmp_path / place)
    found.check()
    assert found.root.name == "source"


def test_two_jsons_for_a_split_are_an_error_that_names_them(dataset):
    save_json(dataset.root / "annotations/instances_train2014.json", {})
    with pytest.raises(
        DatasetError, match=r"2 jsons for train: .*2014.json, .*2017.json; .*option train_json"
    ):
        CocoInstance(dataset.root).check()


def first(key: str, **change):
    return lambda content: content[key][0].update(change)


def drop(key: str, name: str):
    return lambda content: content[key][0].pop(name)


BROKEN = [
    (lambda c: c.pop("categories"), "has no list categories"),
    (lambda c: c["images"].clear(), "names no image"),
    (first("images", file_name="../up.jpg"), "must be a path below the folder"),
    (first("images", file_name="city\\a.jpg"), "write / between folders"),
    (first("images", height="30"), "'height' of image 5 is \"30\"; it must be a whole number"),
    (drop("images", "width"), "'width' of image 5 is missing"),
    (
        lambda c: c["images"][3].update(width=45),
        r"1 image of another size .*nothing.jpg \(44 x 30, json 45 x 30\)",
    ),
    (first("images", id=12), "image id more than once: 12"),
    (first("images", file_name="nothing.png"), "are both 'nothing'"),
    (first("images", file_name="lost.jpg"), "1 image of 4 missing in .*lost.jpg"),
    (first("annotations", image_id=999), "belongs to image 999, which is not in 'images'"),
    (first("annotations", category_id=4), "has category 4, which is not in 'categories'"),
    (first("annotations", id=100), "annotation id more than once: 100"),
    (first("annotations", segmentation=[]), r"1 annotation without segmentation: 111"),
    (drop("annotations", "segmentation"), r"1 annotation without segmentation: 111"),
    (
        first("annotations", segmentation=[1, 2, 3, 4, 5, 6]),
        "a polygon of annotation 111 is 1; it must be a list",
    ),
    (first("annotations", segmentation=[[1, 2, 3, 4]]), "at least three points"),
    (
        first("annotations", segmentation={"size": [30, 44], "counts": [5]}),
        "do not add up to its image of 30 x 44",
    ),
    (first("annotations", segmentation={"size": [44, 30], "counts": "x"}), r"for size \[44, 30\]"),
    (first("annotations", segmentation={"size": [30, 44]}), "neither polygons nor run lengths"),
    (drop("annotations", "bbox"), "'bbox' of annotation 111 is None"),
    (first("annotations", bbox=[1, 2, float("nan"), 4]), "no readable json: NaN is not part of json"),
    (first("categories", id=3), "category id more than once: 3"),
    (first("categories", name="cat"), "category name more than once: cat"),
    (first("categories", name="other"), r"have other categories: 91 \(other\)"),
    (
        lambda c: c["categories"].extend({"id": 1000 + i, "name": str(i)} for i in range(300)),
        "has 304 categories",
    ),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[m for _, m in BROKEN])
def test_what_is_wrong_is_named_in_one_line(dataset, change, message):
    broken = edit(dataset.root, change)
    with pytest.raises(DatasetError, match=message) as caught:
        broken.check()
    assert "\n" not in str(caught.value)


def test_damaged_files_are_named(dataset):
    (dataset.root / TRAIN_JSON).write_text('{"images": [')
    with pytest.raises(DatasetError, match=r"instances_train2017.json is no readable json: .*line 1"):
        CocoInstance(dataset.root).check()
    (dataset.root / TRAIN_JSON).unlink()
    with pytest.raises(
        DatasetError, match=r"no instances json for train .*which has .*instances_val2017.json"
    ):
        CocoInstance(dataset.root).check()
    with pytest.raises(DatasetError, match="does not exist"):
        CocoInstance(dataset.root / "gone").check()


def test_an_image_in_both_splits_is_refused(tmp_path):
    root = make_instances(tmp_path / "data", images=("imgs", "imgs"))
    broken = edit(root, first("images", file_name="city/v.png"))
    save_photo(root / "imgs/city/v.png", 3)
    with pytest.raises(DatasetError, match=r"1 image in both .*city/v"):
        broken.check()
    # COCO numbers images afresh in every split: the same name in another folder is another image.
    other = make_instances(tmp_path / "other")
    save_photo(other / "train2017/city/v.jpg", 3)
    edit(other, first("images", file_name="city/v.jpg")).check()


def test_an_object_without_a_pixel_is_left_out(dataset):
    sliver = first("annotations", segmentation=[[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]])
    assert len(edit(dataset.root, sliver).annotation("train", IDS[2]).segments) == 3


def test_the_copy_differs_in_file_names_alone(dataset, tmp_path, tools):
    dataset.write_copy(tmp_path / "copy", tools.png_writer)
    before = json.loads((dataset.root / TRAIN_JSON).read_text())
    after = json.loads((tmp_path / "copy" / TRAIN_JSON).read_text())
    names = [image["file_name"] for image in after["images"]]
    assert names == ["city/a b.png", "city/deep/ümlaut.png", "dots.in.name.png", "nothing.png"]
    for image, name in zip(after["images"], TRAIN, strict=True):
        image["file_name"] = name
    assert after == before
    val = "annotations/instances_val2017.json"
    assert os.path.samefile(tmp_path / "copy" / val, dataset.root / val)
    for name in VAL:
        assert os.path.samefile(tmp_path / "copy/val2017" / name, dataset.root / "val2017" / name)


def test_pycocotools_reads_the_copy(dataset, tmp_path, tools):
    dataset.write_copy(tmp_path / "copy", tools.png_writer)
    source, copy = (quiet_coco(root / TRAIN_JSON) for root in (dataset.root, tmp_path / "copy"))
    assert source.anns == copy.anns and source.cats == copy.cats
    for number, image in copy.imgs.items():
        pixels = np.asarray(Image.open(tmp_path / "copy/train2017" / image["file_name"]).convert("RGB"))
        image_id = IDS[list(copy.imgs).index(number)]
        assert np.array_equal(pixels, 255 - dataset.image("train", image_id))


def test_mmdet_reads_the_copy(dataset, tmp_path, tools):
    from bench.training.environment import prepare

    prepare("mmdet")
    from mmdet.datasets import CocoDataset

    dataset.write_copy(tmp_path / "copy", tools.png_writer)
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True, "poly2mask": True},
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        read = CocoDataset(
            ann_file=str(tmp_path / "copy" / TRAIN_JSON),
            data_prefix={"img": str(tmp_path / "copy/train2017")},
            metainfo={"classes": [category.name for category in dataset.categories]},
            pipeline=pipeline,
        )
    assert len(read) == len(IDS)
    for index, image_id in enumerate(IDS):
        found = read[index]
        assert np.array_equal(found["img"][..., ::-1], 255 - dataset.image("train", image_id))
        segments = dataset.annotation("train", image_id).segments
        assert np.array_equal(
            found["gt_masks"].masks, [s.mask for s in segments] or np.zeros((0, HEIGHT, WIDTH))
        )
        boxes = np.array([s.box for s in segments], np.float32).reshape(-1, 4)
        assert np.array_equal(found["gt_bboxes"].tensor.numpy(), boxes)
        assert found["gt_ignore_flags"].tolist() == [s.is_crowd for s in segments]
        # mmdet counts categories in the order of the json, which here is not that of the ids.
        names = [c["name"] for c in json.loads((dataset.root / TRAIN_JSON).read_text())["categories"]]
        assert [names[label] for label in found["gt_bboxes_labels"]] == [
            dataset.categories[s.category].name for s in segments
        ]


def test_a_resized_copy(dataset, tmp_path, tools):
    before = tools.tree_hash(dataset.root)
    resize_dataset(dataset, tmp_path / "small", 22)
    assert tools.tree_hash(dataset.root) == before
    small = CocoInstance(tmp_path / "small")
    small.check()
    for split in ("train", "val"):
        assert small.ids(split) == dataset.ids(split)
        for image_id in small.ids(split):
            assert small.image(split, image_id).shape == (15, 22, 3)
            old, new = dataset.annotation(split, image_id), small.annotation(split, image_id)
            assert len(old.segments) == len(new.segments)
            for first_segment, segment in zip(old.segments, new.segments, strict=True):
                assert np.array_equal(segment.mask, first_segment.mask[1::2, 1::2])
                assert segment.category == first_segment.category
                assert segment.is_crowd == first_segment.is_crowd
                assert segment.box == pytest.approx([value / 2 for value in first_segment.box])
            assert np.array_equal(new.semantic, old.semantic[1::2, 1::2])
    coco = quiet_coco(small.json_path("train"))
    assert all(entry["area"] == coco.annToMask(entry).sum() for entry in coco.anns.values())


def test_resizing_drops_objects_without_a_pixel_and_keeps_small_images(dataset, tmp_path):
    speck = first("annotations", segmentation=[[0, 0, 1, 0, 1, 1, 0, 1]])
    source = edit(dataset.root, speck)
    assert len(source.annotation("train", IDS[2]).segments) == 4
    resize_dataset(source, tmp_path / "small", 22)
    assert len(CocoInstance(tmp_path / "small").annotation("train", IDS[2]).segments) == 3
    resize_dataset(source, tmp_path / "same", 1000)
    same = json.loads((tmp_path / "same" / TRAIN_JSON).read_text())
    assert same["annotations"] == json.loads((dataset.root / TRAIN_JSON).read_text())["annotations"]


def test_it_reads_the_instances_of_shapes(shapes):
    dataset = CocoInstance(shapes.root)
    dataset.check()
    for image_id in shapes.ids("train"):
        things = [s for s in shapes.annotation("train", image_id).segments if s.category < 5]
        found = dataset.annotation("train", image_id)
        assert [s.category for s in found.segments] == [s.category for s in things]
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(found.segments, things, strict=True))
        assert np.array_equal(found.semantic, shapes.annotation("train", image_id).semantic)
