"""Mask2Former: every task builds, trains and predicts at each profile's size; it can learn eight images."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from bench.datasets.base import Category
from bench.datasets.shapes.scenes import CLASSES, SceneOptions, draw_scene
from bench.errors import SpecError
from bench.victim import DataInfo, TrainingRecipe
from victims.mask2former import Mask2Former

THINGS = tuple(Category(name, True) for name in CLASSES)
BACKGROUND = Category("background", False)
TASKS = ("panoptic", "instance", "semantic")


def information(size: int = 64) -> DataInfo:
    return DataInfo(("background", *CLASSES), (*THINGS, BACKGROUND), size, 800)


def recipe(task: str, profile: str = "ci", size: int = 64, init: str = "scratch", **given) -> TrainingRecipe:
    victim = Mask2Former(Mask2Former.resolve_options(profile, given))
    return victim.recipe(information(size), task, init, profile)


def build(recipe: TrainingRecipe, seed: int = 0):
    from bench.training.model import build_initialised_model

    return build_initialised_model(recipe, "cpu", seed)


def packed(recipe: TrainingRecipe, image, instances, categories, pipeline=None):
    """A scene through the recipe's pipeline, from what the trainer hands to it."""
    from bench.training.environment import prepare

    prepare(recipe.scope, recipe.custom_imports)
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.dataset import Compose

    height, width = image.shape[:2]
    results = {
        "img": image,
        "img_id": "0",
        "img_shape": (height, width),
        "ori_shape": (height, width),
        "scale_factor": (1.0, 1.0),
        "flip": False,
        "flip_direction": None,
        "seg_fields": [],
    }
    if recipe.task != "instance":
        # Panoptic labels count things first; semantic classes count background first.
        labels = (len(CLASSES), *(category - 1 for category in categories))
        if recipe.task == "semantic":
            labels = (0, *categories)
        results |= {"gt_seg_map": np.array(labels, np.uint8)[instances], "seg_fields": ["gt_seg_map"]}
    if recipe.task != "semantic":
        masks = np.stack([instances == k for k in range(1, len(categories) + 1)]) if categories else []
        bitmaps = BitmapMasks(np.array(masks, np.uint8).reshape(-1, height, width), height, width)
        results |= {
            "gt_bboxes": bitmaps.get_bboxes(HorizontalBoxes),
            "gt_bboxes_labels": np.array(categories, np.int64) - 1,
            "gt_masks": bitmaps,
            "gt_ignore_flags": np.zeros(len(categories), bool),
        }
    return Compose(pipeline or recipe.train_pipeline)(results)


def batch(recipe: TrainingRecipe, count: int, size: int = 64, crop: tuple[int, int] | None = None) -> dict:
    scenes = [draw_scene(5, index, SceneOptions(size=size)) for index in range(count)]
    rows, columns = crop or (size, size)
    items = [
        packed(recipe, scene.image[:rows, :columns], scene.instances[:rows, :columns], scene.categories)
        for scene in scenes
    ]
    return {key: [item[key] for item in items] for key in items[0]}


def total_loss(model, data: dict):
    losses = model(**model.data_preprocessor(data, True), mode="loss")
    return model.parse_losses(losses)[0]


def parameters(task: str, things: int, stuff: int, backbone: str) -> int:
    from bench.training.model import build_model

    categories = tuple(Category(str(index), index < things) for index in range(things + stuff))
    data = DataInfo(tuple(category.name for category in categories), categories, 640, 1000)
    victim = Mask2Former(Mask2Former.resolve_options("paper", {"backbone": backbone}))
    model = build_model(victim.recipe(data, task, "imagenet", "paper"), "cpu")
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("profile", ["ci", "cpu"])
@pytest.mark.parametrize("task", TASKS)
def test_every_trainable_parameter_gets_a_finite_gradient(task, profile):
    import torch

    made = recipe(task, profile)
    model = build(made).train()
    loss = total_loss(model, batch(made, 2))
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("size", [(64, 64), (37, 61), (96, 40)])
@pytest.mark.parametrize("task", TASKS)
def test_predictions_have_the_original_size(task, size):
    import torch

    made = recipe(task, image_size=48) if size == (96, 40) else recipe(task)
    model = build(made).eval()
    scene = draw_scene(5, 0, SceneOptions(size=96))
    item = packed(
        made,
        scene.image[: size[0], : size[1]],
        scene.instances[: size[0], : size[1]],
        scene.categories,
        made.test_pipeline,
    )
    with torch.no_grad():
        (output,) = model.test_step({key: [value] for key, value in item.items()})
    if task == "panoptic":
        assert output.pred_panoptic_seg.sem_seg.shape == (1, *size)
    elif task == "instance":
        assert output.pred_instances.masks.shape[1:] == size and len(output.pred_instances) > 0
    else:
        assert output.pred_sem_seg.data.shape == (1, *size)


@pytest.mark.parametrize("task", TASKS)
def test_odd_sizes_train(task):
    import torch

    made = recipe(task, size=61)
    assert torch.isfinite(total_loss(build(made).train(), batch(made, 2, size=64, crop=(37, 61))))


@pytest.mark.parametrize("task", TASKS)
def test_images_without_any_object_train(task):
    import torch

    made = recipe(task)
    image = draw_scene(5, 0).image
    items = [packed(made, image.copy(), np.zeros(image.shape[:2], np.uint8), ()) for _ in range(2)]
    loss = total_loss(build(made).train(), {key: [item[key] for item in items] for key in items[0]})
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("task", TASKS)
def test_flips_move_labels_with_the_image(task):
    made = recipe(task)
    marked = np.zeros((64, 64), np.uint8)
    marked[5:20, 30:60] = 1
    image = np.repeat(marked[..., None] * np.uint8(200), 3, 2)
    found = set()
    for attempt in range(20):
        np.random.seed(attempt)
        item = packed(made, image.copy(), marked.copy(), (2,))
        bright = item["inputs"][0].numpy() > 0
        sample = item["data_samples"]
        if task != "semantic":
            assert (sample.gt_instances.masks.masks[0].astype(bool) == bright).all()
        if task == "panoptic":
            assert ((sample.gt_sem_seg.sem_seg[0].numpy() == 1) == bright).all()
        if task == "semantic":
            assert ((sample.gt_sem_seg.data[0].numpy() == 2) == bright).all()
        found.add(bright.tobytes())
    assert len(found) == 4


def test_the_auxiliary_target_leaves_pixels_of_no_segment_out():
    import torch
    from mmengine.structures import InstanceData

    import bench.mmcv_ext

    bench.mmcv_ext.install()
    from victims.mask2former_modules import semantic_target

    masks = torch.zeros(2, 4, 4, dtype=torch.long)
    masks[0, :2] = 1
    masks[1, 1, 1] = 1
    target = semantic_target([InstanceData(labels=torch.tensor([3, 0]), masks=masks)], nothing=6)
    expected = torch.full((1, 4, 4), 6)
    expected[0, :2] = 3
    expected[0, 1, 1] = 0
    assert torch.equal(target, expected)


def test_scratch_trains_the_backbone_at_the_full_rate_and_imagenet_at_a_tenth():
    for init, rate in (("scratch", 1.0), ("imagenet", 0.1)):
        made = recipe("panoptic", "gpu", init=init)
        assert made.optim_wrapper["paramwise_cfg"]["custom_keys"]["backbone"]["lr_mult"] == rate
        assert (made.model.backbone.init_cfg is None) == (init == "scratch")
        assert made.model.backbone.norm_cfg["requires_grad"] == (init == "scratch")


@pytest.mark.parametrize("protocol", ["coco", "ade20k", "cityscapes"])
def test_published_pipelines_keep_labels_on_the_image(protocol):
    from mmengine.dataset import Compose

    for task in TASKS:
        if (protocol, task) == ("coco", "semantic"):
            continue
        made = recipe(task, "paper", protocol=protocol)
        scene = draw_scene(5, 1, SceneOptions(size=128))
        np.random.seed(0)
        item = packed(made, scene.image, scene.instances, scene.categories)
        sample, size = item["data_samples"], item["inputs"].shape[1:]
        if task != "semantic":
            assert sample.gt_instances.masks.masks.shape[1:] == size
        if task == "panoptic":
            things = sample.gt_sem_seg.sem_seg[0].numpy() < len(CLASSES)
            union = sample.gt_instances.masks.masks.any(0)
            # Both are nearest-neighbour resizings, by two libraries.
            assert (things != union).mean() < 0.01
        if task == "semantic":
            assert sample.gt_sem_seg.data.shape[1:] == size
        Compose(made.test_pipeline)


@pytest.mark.parametrize(
    ("task", "init", "given", "message"),
    [
        ("binary", "scratch", {}, "panoptic"),
        ("panoptic", "sam", {}, "imagenet"),
        ("panoptic", "imagenet", {}, "network=published"),
        ("semantic", "scratch", {"protocol": "coco"}, "ade20k, cityscapes"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(task, init, given, message):
    with pytest.raises(SpecError, match=message):
        recipe(task, "cpu", init=init, **given)


def test_data_without_things_are_refused():
    data = DataInfo(("background", "object"), (), 64, 10)
    with pytest.raises(SpecError, match="no things"):
        Mask2Former().recipe(data, "instance", "scratch", "cpu")


def test_unknown_options_are_refused():
    with pytest.raises(ValidationError):
        Mask2Former.resolve_options("cpu", {"layers": 3})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "things", "stuff", "backbone", "millions"),
    [
        ("panoptic", 80, 53, "r50", 44.04),
        ("instance", 80, 0, "r50", 44.02),
        ("semantic", 0, 150, "r50", 44.04),
        ("instance", 80, 0, "swin-t", 47.42),
    ],
)
def test_the_published_network_has_the_published_size(task, things, stuff, backbone, millions):
    assert round(parameters(task, things, stuff, backbone) / 1e6, 2) == millions
