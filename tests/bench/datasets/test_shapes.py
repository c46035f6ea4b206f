"""The embedded dataset: same bytes everywhere, and readable by programs that know nothing of us."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from bench.datasets.base import SPLITS
from bench.datasets.image_mask import ImageMask
from bench.datasets.shapes.dataset import PRESETS, Shapes
from bench.datasets.shapes.scenes import draw_scene
from bench.datasets.voc import VOC2012
from bench.errors import DatasetError, SpecError
from bench.seeds import derive_seed

DRAW = """
import sys
from pathlib import Path
from bench.datasets.shapes.dataset import Shapes
Shapes(Path(sys.argv[1]), Shapes.resolve_options("ci", {})).generate()
"""

CPU_FEATURES = """
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(" ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name)))
"""


def test_another_process_writes_the_same_bytes(shapes, tools, tmp_path):
    """Another hash seed, locale, working folder, and numpy without this processor's vector instructions."""
    features = subprocess.run(
        [sys.executable, "-c", CPU_FEATURES], capture_output=True, text=True, check=True
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "NPY_DISABLE_CPU_FEATURES": features.stdout.strip(),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    root = tmp_path / "other place"
    subprocess.run([sys.executable, "-c", DRAW, str(root)], env=environment, cwd=tmp_path, check=True)
    assert tools.tree_hash(root) == tools.tree_hash(shapes.root)


def test_first_scenes_are_the_drawn_ones(shapes):
    for split in SPLITS:
        for index in (0, 5):
            scene = draw_scene(derive_seed("shapes", split, 0), index, shapes.options.scene())
            image_id = shapes.ids(split)[index]
            assert np.array_equal(shapes.image(split, image_id), scene.image)
            annotation = shapes.annotation(split, image_id)
            assert np.array_equal(annotation.semantic, scene.semantic)
            assert np.array_equal(annotation.foreground, scene.instances > 0)
            assert len(annotation.segments) == len(scene.categories) + 1
            covered = np.sum([segment.mask for segment in annotation.segments], axis=0)
            assert (covered == 1).all()
            for number, (segment, category) in enumerate(
                zip(annotation.segments, scene.categories, strict=False), 1
            ):
                assert np.array_equal(segment.mask, scene.instances == number)
                assert shapes.categories[segment.category].name == shapes.classes[category]
            assert shapes.categories[annotation.segments[-1].category].name == "background"


def test_pixels_are_pinned(shapes):
    """A change of the drawing must raise `Shapes.version`."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for image_id in shapes.ids(split):
            digest.update(shapes.image(split, image_id).tobytes())
            digest.update(shapes.annotation(split, image_id).semantic.tobytes())
    assert (Shapes.version, digest.hexdigest()) == (
        1,
        "12213b2dbebca73943f050a6285eaf2f4248eae2c1632e5b5f75a8be5d290295",
    )


def test_train_and_val_share_no_scene(shapes):
    pixels = [shapes.image(split, image_id).tobytes() for split in SPLITS for image_id in shapes.ids(split)]
    assert len(set(pixels)) == len(pixels) == 18


def test_check_passes_and_counts(shapes):
    shapes.check()
    assert [len(shapes.ids(split)) for split in SPLITS] == [12, 6]
    assert len({*shapes.ids("train"), *shapes.ids("val")}) == 18


def test_files_are_all_files(shapes, tools):
    assert [path.as_posix() for path in shapes.files()] == sorted(tools.tree_hash(shapes.root))


def test_layouts_share_their_images(shapes):
    for split in SPLITS:
        for image_id in shapes.ids(split):
            twin = shapes.root / f"VOCdevkit/VOC2012/JPEGImages/{image_id}.png"
            assert os.path.samefile(twin, shapes.image_path(split, image_id))


def test_pycocotools_reads_the_instances(shapes):
    from pycocotools.coco import COCO

    for split in SPLITS:
        coco = COCO(str(shapes.root / f"annotations/instances_{split}.json"))
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(shapes.classes[1:])
        for image in coco.loadImgs(coco.getImgIds()):
            image_id = image["file_name"].removesuffix(".png")
            things = [
                s
                for s in shapes.annotation(split, image_id).segments
                if shapes.categories[s.category].is_thing
            ]
            entries = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            assert len(entries) == len(things)
            for entry, thing in zip(entries, things, strict=True):
                assert np.array_equal(coco.annToMask(entry), thing.mask)
                assert entry["area"] == thing.mask.sum()
                left, top, width, height = entry["bbox"]
                assert thing.mask[top : top + height, left : left + width].sum() == thing.mask.sum()
                assert thing.mask[top].any() and thing.mask[:, left + width - 1].any()
                assert coco.cats[entry["category_id"]]["name"] == shapes.categories[thing.category].name


def test_pycocotools_scores_the_truth_as_perfect(shapes):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO(str(shapes.root / "annotations/instances_val.json"))
    results = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": 0.9,
            "segmentation": coco.annToRLE(a),
        }
        for a in coco.anns.values()
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_panoptic_png_by_plain_numpy(shapes):
    content = json.loads((shapes.root / "annotations/panoptic_val.json").read_text())
    names = {category["id"]: (category["name"], category["isthing"]) for category in content["categories"]}
    assert names[6] == ("background", 0) and names[5] == ("ring", 1) and len(names) == 6
    for entry in content["annotations"]:
        with Image.open(shapes.root / "panoptic_val" / entry["file_name"]) as image:
            colours = np.asarray(image).astype(int)
        ids = colours[..., 0] + 256 * colours[..., 1] + 256 * 256 * colours[..., 2]
        assert set(np.unique(ids)) == {segment["id"] for segment in entry["segments_info"]}
        for segment in entry["segments_info"]:
            assert (ids == segment["id"]).sum() == segment["area"]


def test_the_other_adapters_read_the_same_labels(shapes):
    voc, pairs = VOC2012(shapes.root), ImageMask(shapes.root)
    voc.check()
    pairs.check()
    for split in SPLITS:
        assert voc.ids(split) == pairs.ids(split) == shapes.ids(split)
        for image_id in shapes.ids(split):
            truth = shapes.annotation(split, image_id)
            from_voc = voc.annotation(split, image_id)
            assert np.array_equal(from_voc.semantic, truth.semantic)
            assert np.array_equal(pairs.annotation(split, image_id).foreground, truth.foreground)
            for segment, expected in zip(from_voc.segments, truth.segments[:-1], strict=True):
                assert np.array_equal(segment.mask, expected.mask) and segment.category == expected.category


@pytest.mark.slow  # importing torchvision takes ten seconds
def test_torchvision_reads_a_jpeg_copy(shapes, tools, tmp_path):
    """torchvision's VOC fixes the suffix .jpg, which the jpeg95 codec writes."""
    from torchvision.datasets import VOCSegmentation

    shapes.write_copy(tmp_path / "copy", tools.jpeg_writer)
    copy = Shapes(tmp_path / "copy", shapes.options)
    copy.check()
    loaded = VOCSegmentation(str(tmp_path / "copy"), year="2012", image_set="train", download=False)
    assert len(loaded) == 12
    for (image, label), image_id in zip(loaded, copy.ids("train"), strict=True):
        assert np.array_equal(np.asarray(image), copy.image("train", image_id))
        assert np.array_equal(np.asarray(label), copy.annotation("train", image_id).semantic)
    for name in ("instances", "panoptic"):
        content = json.loads((copy.root / f"annotations/{name}_train.json").read_text())
        assert all((copy.root / "images/train" / image["file_name"]).is_file() for image in content["images"])
        before = json.loads((shapes.root / f"annotations/{name}_train.json").read_text())
        assert content["annotations"] == before["annotations"]
        assert content["categories"] == before["categories"]


def test_profiles():
    sizes = {name: Shapes.resolve_options(name, {}) for name in PRESETS}
    assert sizes["cpu"] == Shapes.Options()
    assert (sizes["ci"].train_images, sizes["ci"].val_images, sizes["ci"].image_size) == (12, 6, 64)
    assert (
        sizes["ci"].train_images
        < sizes["cpu"].train_images
        < sizes["gpu"].train_images
        < sizes["paper"].train_images
    )
    assert Shapes.resolve_options("gpu", {"train_images": 3, "seed": 4}).model_dump() == {
        **sizes["gpu"].model_dump(),
        "train_images": 3,
        "seed": 4,
    }
    with pytest.raises(SpecError, match=r"ci, cpu, gpu, paper"):
        Shapes.resolve_options("huge", {})
    with pytest.raises(ValidationError):
        Shapes.resolve_options("ci", {"train_imags": 3})
    with pytest.raises(ValidationError, match="must not exceed"):
        Shapes.Options(min_objects=5, max_objects=4)


def test_seed_changes_pixels(tmp_path):
    digests = set()
    for seed in (0, 1):
        dataset = Shapes(tmp_path / str(seed), Shapes.Options(train_images=1, val_images=1, seed=seed))
        dataset.generate()
        digests |= {dataset.image(split, dataset.ids(split)[0]).tobytes() for split in SPLITS}
    assert len(digests) == 4


def test_progress_is_reported(tmp_path):
    calls = []
    options = Shapes.Options(train_images=2, val_images=1, image_size=16)
    Shapes(tmp_path / "new", options).generate(lambda done, total, note: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_scenes_without_objects_have_labels(tmp_path):
    options = Shapes.Options(train_images=2, val_images=1, image_size=16, distractor_share=1.0)
    dataset = Shapes(tmp_path / "bare", options)
    dataset.generate()
    dataset.check()
    annotation = dataset.annotation("train", dataset.ids("train")[0])
    assert not annotation.foreground.any() and len(annotation.segments) == 1


def broken(tmp_path, edit) -> Shapes:
    options = Shapes.Options(train_images=2, val_images=1, image_size=16)
    Shapes(tmp_path / "s", options).generate()
    edit(tmp_path / "s")
    return Shapes(tmp_path / "s", options)


def test_damaged_folders_are_told(tmp_path, tools):
    cases = {
        "does not exist": None,
        "shapes.json is missing": lambda root: (root / "shapes.json").unlink(),
        r"masks/train/train_000001\.png": lambda root: (root / "masks/train/train_000001.png").unlink(),
        r"panoptic_val\.json is missing": lambda root: (root / "annotations/panoptic_val.json").unlink(),
        "cannot read": lambda root: (root / "annotations/panoptic_val.json").write_text("{"),
        "not of the size": lambda root: tools.save_image(
            root / "masks/val/val_000000.png", np.zeros((3, 4), np.uint8)
        ),
    }
    for number, (message, edit) in enumerate(cases.items()):
        dataset = broken(tmp_path / str(number), edit) if edit else Shapes(tmp_path / "absent")
        with pytest.raises(DatasetError, match=message) as caught:
            dataset.check()
        assert "\n" not in str(caught.value)


def test_other_options_are_told(shapes):
    with pytest.raises(DatasetError, match="another seed than asked for"):
        Shapes(shapes.root, Shapes.resolve_options("ci", {"seed": 9})).check()


def test_generate_refuses_a_used_folder(shapes, tmp_path):
    with pytest.raises(DatasetError, match="not empty"):
        shapes.generate()
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="not empty"):
        Shapes(tmp_path / "file").generate()


def test_unknown_scene_is_named(shapes):
    with pytest.raises(DatasetError, match="no scene 'val_000099'"):
        shapes.annotation("val", "val_000099")
