"""Pascal VOC's layout: what is read, what is refused and with which words."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from bench.datasets.voc import VOC2012
from bench.errors import DatasetError


@pytest.fixture
def folder(tmp_path, tools):
    return tools.make_voc(tmp_path / "data")


def test_every_level_of_the_folder_is_the_same_dataset(folder):
    roots = (folder, folder.parent, folder.parent.parent)
    datasets = [VOC2012(root) for root in roots]
    for dataset in datasets:
        dataset.check()
    assert len({dataset.root for dataset in datasets}) == 1
    assert len({tuple(dataset.files()) for dataset in datasets}) == 1


def test_labels(folder, tools):
    dataset = VOC2012(folder)
    assert dataset.ids("train") == tools.train and dataset.ids("val") == tools.val
    assert dataset.tasks == {"semantic", "instance", "detection", "binary"} and len(dataset.classes) == 21
    for split, ids in (("train", tools.train), ("val", tools.val)):
        for image_id in ids:
            number = tools.ids.index(image_id)
            annotation = dataset.annotation(split, image_id)
            assert annotation.semantic.dtype == np.uint8
            assert set(np.unique(annotation.semantic)) == {0, 8, 12, 255}
            assert np.array_equal(annotation.foreground, np.isin(annotation.semantic, (8, 12)))
            first, second = annotation.segments
            expected = tools.blob(number)
            expected[1, :] = False
            assert np.array_equal(first.mask, expected)
            assert [dataset.categories[s.category].name for s in (first, second)] == ["cat", "dog"]
            assert dataset.image(split, image_id).shape == (tools.height, tools.width, 3)


def test_semantic_only_without_objects(tmp_path, tools):
    dataset = VOC2012(tools.make_voc(tmp_path, objects=False))
    dataset.check()
    assert dataset.tasks == {"semantic", "binary"} and dataset.categories == ()
    assert dataset.annotation("val", tools.val[0]).segments == ()


def test_incomplete_objects_offer_no_instances(folder):
    next((folder / "SegmentationObject").iterdir()).unlink()
    assert VOC2012(folder).tasks == {"semantic", "binary"}


def test_void_and_classes_survive_a_grey_index_png(folder, tools):
    before = VOC2012(folder).annotation("val", "z_last").semantic
    path = folder / "SegmentationClass/z_last.png"
    Image.fromarray(before).save(path)
    assert np.array_equal(VOC2012(folder).annotation("val", "z_last").semantic, before)


def test_all_void_image_has_no_foreground(folder, tools):
    path = folder / "SegmentationClass/z_last.png"
    tools.save_palette(path, np.full((tools.height, tools.width), 255))
    shutil.rmtree(folder / "SegmentationObject")
    assert not VOC2012(folder).annotation("val", "z_last").foreground.any()


def test_augmented_list_takes_its_own_labels(folder, tools):
    """train_aug is labelled by SegmentationClassAug; val keeps the official labels."""
    extra = np.full((tools.height, tools.width), 5)
    for image_id in tools.train:
        tools.save_palette(folder / f"SegmentationClassAug/{image_id}.png", extra)
    tools.save_list(folder / "ImageSets/Segmentation/train_aug.txt", tools.train)
    dataset = VOC2012(folder, VOC2012.Options(train_list="train_aug"))
    dataset.check()
    assert (dataset.annotation("train", tools.train[0]).semantic == 5).all()
    assert (dataset.annotation("val", tools.val[0]).semantic != 5).all()
    assert (VOC2012(folder).annotation("train", tools.train[0]).semantic != 5).all()
    forced = VOC2012(folder, VOC2012.Options(label_folder="SegmentationClassAug"))
    with pytest.raises(DatasetError, match="label file"):
        forced.check()


def test_options_name_no_path():
    with pytest.raises(ValidationError):
        VOC2012.Options(train_list="../../etc/passwd")
    with pytest.raises(ValidationError):
        VOC2012.Options(trainlist="train")


@pytest.mark.slow  # importing torchvision takes ten seconds
def test_torchvision_reads_the_same(folder, tools):
    from torchvision.datasets import VOCSegmentation

    # torchvision opens names as they stand in the list.
    tools.save_list(folder / "ImageSets/Segmentation/train.txt", (tools.train[0], tools.train[1]))
    tools.save_list(folder / "ImageSets/Segmentation/trainval.txt", tools.ids)
    dataset = VOC2012(folder)
    for (image, label), image_id in zip(
        VOCSegmentation(str(folder.parent.parent), year="2012", image_set="train"),
        tools.train[:2],
        strict=True,
    ):
        assert np.array_equal(np.asarray(image), dataset.image("train", image_id))
        assert np.array_equal(np.asarray(label), dataset.annotation("train", image_id).semantic)


def drop_list(folder, tools):
    (folder / "ImageSets/Segmentation/val.txt").unlink()


def empty_list(folder, tools):
    (folder / "ImageSets/Segmentation/val.txt").write_text("\n \n")


def binary_list(folder, tools):
    (folder / "ImageSets/Segmentation/val.txt").write_bytes(b"\xff\xfe\x00")


def repeated_id(folder, tools):
    tools.save_list(folder / "ImageSets/Segmentation/val.txt", ("z_last", "z_last"))


def shared_id(folder, tools):
    tools.save_list(folder / "ImageSets/Segmentation/val.txt", (*tools.val, tools.train[0]))


def listed_paths(folder, tools):
    text = "/JPEGImages/z_last.jpg /SegmentationClass/z_last.png\n"
    (folder / "ImageSets/Segmentation/val.txt").write_text(text)


def unknown_ids(folder, tools):
    tools.save_list(folder / "ImageSets/Segmentation/val.txt", tuple(f"no{i}" for i in range(8)))


def drop_label(folder, tools):
    (folder / "SegmentationClass/z_last.png").unlink()


def drop_labels(folder, tools):
    shutil.rmtree(folder / "SegmentationClass")


def no_images(folder, tools):
    shutil.rmtree(folder / "JPEGImages")
    (folder / "JPEGImages").mkdir()


def two_images(folder, tools):
    tools.save_image(folder / "JPEGImages/z_last.png", tools.photo(0))


def other_size(folder, tools):
    tools.save_palette(folder / "SegmentationClass/z_last.png", np.zeros((5, 7)))


def other_width(folder, tools):
    tools.save_palette(folder / "SegmentationClass/z_last.png", np.zeros((tools.height, 7)))


def not_an_image(folder, tools):
    (folder / "JPEGImages/z_last.jpg").write_text("<html>")


def deeper(folder, tools):
    shutil.move(folder.parent, folder.parent.parent / "a")
    (folder.parent.parent / "b").mkdir()
    shutil.move(folder.parent.parent / "a", folder.parent.parent / "b/VOC2012_train_val")


BROKEN = {
    drop_list: r"val\.txt is missing; write one image id",
    empty_list: r"val\.txt is empty",
    binary_list: r"UTF-8",
    repeated_id: r"repeats ids: z_last",
    shared_id: r"1 id in both the train and the val list.*2007_000032",
    listed_paths: r"a line must hold the id alone",
    unknown_ids: r"8 images of 8 missing.*no0, no1, no2, no3, no4 and 3 more; restore",
    drop_label: r"1 label file of 2 missing in .*SegmentationClass: z_last",
    drop_labels: r"has no folder SegmentationClass; expected .* found ImageSets, JPEGImages",
    no_images: r"holds no image at all",
    two_images: r"both z_last\.jpg and z_last\.png",
    other_size: r"z_last\.png \(7 x 5, image 44 x 30\)",
    other_width: r"z_last\.png \(7 x 30, image 44 x 30\)",
    not_an_image: r"z_last\.jpg is not an image",
    deeper: r"the layout lies in .*b/VOC2012_train_val/VOC2012, give that folder",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_broken_layouts_are_told_in_one_line(damage, folder, tools):
    damage(folder, tools)
    with pytest.raises(DatasetError, match=BROKEN[damage]) as caught:
        VOC2012(folder.parent.parent).check()
    assert "\n" not in str(caught.value)
    assert str(folder.parent.parent) in str(caught.value)


def test_wrong_roots_are_told(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "voc.tar").write_bytes(b"x")
    cases = {
        tmp_path / "nowhere": "does not exist",
        tmp_path / "empty": "is empty",
        tmp_path / "voc.tar": "is a file; unpack it",
        folder / "JPEGImages": f"inside the layout, give {folder}",
        folder / "ImageSets/Segmentation": f"inside the layout, give {folder}",
    }
    for root, message in cases.items():
        with pytest.raises(DatasetError) as caught:
            VOC2012(root).check()
        assert message in str(caught.value)


def test_unknown_index_is_told_when_decoded(folder, tools):
    tools.save_palette(folder / "SegmentationClass/z_last.png", np.full((tools.height, tools.width), 21))
    VOC2012(folder).check()
    with pytest.raises(DatasetError, match="holds index 21; VOC has 0 to 20"):
        VOC2012(folder).annotation("val", "z_last")


def test_object_without_class_is_told(folder, tools):
    tools.save_palette(folder / "SegmentationObject/z_last.png", np.full((tools.height, tools.width), 0))
    assert VOC2012(folder).annotation("val", "z_last").segments == ()
    objects = np.zeros((tools.height, tools.width))
    objects[0, 0] = 3
    tools.save_palette(folder / "SegmentationObject/z_last.png", objects)
    with pytest.raises(DatasetError, match="object 3 covers no pixel with a class"):
        VOC2012(folder).annotation("val", "z_last")


def test_label_of_other_size_is_told_when_decoded(folder, tools):
    other_size(folder, tools)
    with pytest.raises(DatasetError, match="7 x 5 pixels and its image 44 x 30"):
        VOC2012(folder).annotation("val", "z_last")


def test_unknown_id_is_told(folder):
    with pytest.raises(DatasetError, match="image of 'nobody' is missing"):
        VOC2012(folder).image("train", "nobody")
