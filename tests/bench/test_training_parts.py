"""Sampler, transforms, label spaces and the conversion of predictions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_support import Identity, MemoryShapes, recipe_of

from bench.datasets.base import Annotation, Category, Segment
from bench.errors import ArtifactCorrupt, ContractViolation
from bench.metrics.prediction import DetectionPrediction, InstancePrediction, PanopticPrediction
from bench.training.inference import convert, predict
from bench.training.labels import instance_targets, label_order, target_map
from bench.training.sampler import DrawSampler
from bench.training.samples import TrainingSamples, sample
from bench.training.transforms import RandomDihedral, RandomWindow
from victims.unetplusplus import UNetPlusPlus

MIXED = (Category("sky", False), Category("cat", True), Category("road", False), Category("dog", True))


@settings(deadline=None, max_examples=50)
@given(images=st.integers(1, 40), seed=st.integers(0, 2**40), epochs=st.integers(1, 4))
def test_every_epoch_takes_every_image_once(images: int, seed: int, epochs: int) -> None:
    positions = [position for position, _ in DrawSampler(images, seed, 0, images * epochs)]
    for epoch in range(epochs):
        assert sorted(positions[epoch * images : (epoch + 1) * images]) == list(range(images))


@settings(deadline=None, max_examples=50)
@given(
    images=st.integers(1, 40),
    seed=st.integers(0, 2**40),
    start=st.integers(0, 200),
    length=st.integers(0, 60),
)
def test_draws_do_not_depend_on_where_the_sampler_starts(
    images: int, seed: int, start: int, length: int
) -> None:
    whole = list(DrawSampler(images, seed, 0, start + length))
    part = DrawSampler(images, seed, start, start + length)
    assert list(part) == whole[start:] and len(part) == length
    assert [draw for _, draw in whole] == list(range(start + length))


def test_seeds_give_different_orders() -> None:
    assert list(DrawSampler(30, 0, 0, 30)) != list(DrawSampler(30, 1, 0, 30))


def test_a_draw_is_the_same_whatever_was_drawn_before() -> None:
    dataset = MemoryShapes()
    recipe = recipe_of(UNetPlusPlus, dataset, "semantic")
    fresh = TrainingSamples(dataset, Identity(), recipe, seed=0)[2, 17]
    used = TrainingSamples(dataset, Identity(), recipe, seed=0)
    used[2, 16], used[0, 3]
    again, other = used[2, 17], used[2, 18]
    assert torch.equal(fresh["inputs"], again["inputs"])
    assert torch.equal(fresh["data_samples"].gt_sem_seg.data, again["data_samples"].gt_sem_seg.data)
    assert not torch.equal(fresh["inputs"], other["inputs"])


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    window=st.integers(1, 48),
    shift=st.integers(0, 12),
    seed=st.integers(0, 2**31),
)
def test_a_window_has_its_size_and_keeps_labels_on_their_pixels(
    height: int, width: int, window: int, shift: int, seed: int
) -> None:
    np.random.seed(seed)
    labels = np.random.randint(0, 256, (height, width)).astype(np.uint8)
    image = np.repeat(labels[..., None], 3, axis=2)
    results = {"img": image, "gt_seg_map": labels}
    for transform in (RandomWindow((window, window), shift), RandomDihedral()):
        results = transform.transform(results)
        assert results["img"].shape == (window, window, 3) and results["gt_seg_map"].shape == (window, window)
        assert (results["img"] == results["gt_seg_map"][..., None]).all()
        assert results["img_shape"] == (window, window)


def test_outside_the_image_it_continues_at_the_other_side() -> None:
    np.random.seed(0)
    row = np.arange(4, dtype=np.uint8)[None, :, None].repeat(3, 2)
    for _ in range(20):
        columns = RandomWindow((1, 4), 3).transform({"img": row})["img"][0, :, 0]
        assert ((np.diff(columns.astype(int)) % 4) == 1).all()


def test_a_window_of_the_images_size_without_shift_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    results = RandomWindow((5, 7)).transform({"img": image})
    assert (results["img"] == image).all()


def test_the_dihedral_transform_draws_all_eight_symmetries() -> None:
    np.random.seed(0)
    seen = set()
    for _ in range(200):
        image = np.arange(4, dtype=np.uint8).reshape(2, 2)[..., None].repeat(3, 2)
        seen.add(RandomDihedral().transform({"img": image})["img"][..., 0].tobytes())
    assert len(seen) == 8


def annotation() -> Annotation:
    """Rows: sky, sky, cat, road, a crowd of dogs, void."""
    semantic = np.repeat(np.array([0, 0, 1, 2, 3, 255], np.uint8)[:, None], 4, axis=1)
    rows = [semantic == label for label in range(4)]
    segments = tuple(Segment(mask, label, is_crowd=label == 3) for label, mask in enumerate(rows))
    return Annotation(semantic, segments, (semantic == 1) | (semantic == 3))


def test_model_labels_put_things_before_stuff() -> None:
    assert label_order(MIXED, "panoptic") == (1, 3, 0, 2)
    assert label_order(MIXED, "instance") == (1, 3)


def test_targets_of_each_task() -> None:
    def column(task: Any) -> list[int]:
        return target_map(annotation(), MIXED, task)[:, 0].tolist()

    assert column("semantic") == [0, 0, 1, 2, 3, 255]
    assert column("binary") == column("interactive") == [0, 0, 1, 0, 1, 255]
    assert column("panoptic") == [2, 2, 0, 3, 255, 255]


def test_instances_are_the_things_with_exclusive_boxes_and_crowds_flagged() -> None:
    targets = instance_targets(annotation().segments, MIXED, 6, 4)
    assert targets["gt_bboxes"].tensor.tolist() == [[0, 2, 4, 3], [0, 4, 4, 5]]
    assert targets["gt_bboxes_labels"].tolist() == [0, 1]
    assert targets["gt_ignore_flags"].tolist() == [False, True]
    assert targets["gt_masks"].masks.shape == (2, 6, 4) and targets["gt_masks"].masks.sum() == 8


def test_boxes_of_the_dataset_go_before_the_bounds_of_the_mask() -> None:
    cat = Segment(annotation().segments[1].mask, 1, box=(0.25, 1.5, 3.75, 3.0))
    targets = instance_targets((cat,), MIXED, 6, 4)
    assert targets["gt_bboxes"].tensor.tolist() == [[0.25, 1.5, 3.75, 3.0]]


def test_an_image_without_things_has_empty_targets() -> None:
    targets = instance_targets((), MIXED, 6, 4)
    assert targets["gt_bboxes"].tensor.shape == (0, 4) and targets["gt_masks"].masks.shape == (0, 6, 4)


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        ("semantic", {"gt_seg_map"}),
        ("instance", {"gt_bboxes", "gt_bboxes_labels", "gt_masks", "gt_ignore_flags"}),
        ("detection", {"gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags"}),
        ("panoptic", {"gt_seg_map", "gt_bboxes", "gt_bboxes_labels", "gt_masks", "gt_ignore_flags"}),
    ],
)
def test_a_sample_carries_the_targets_of_its_task(task: str, targets: set[str]) -> None:
    dataset = MemoryShapes()
    image = dataset.image("train", "train0")
    results = sample("train0", image, dataset.annotation("train", "train0"), dataset, task)
    assert {key for key in results if key.startswith("gt_")} == targets
    unlabelled = sample("train0", image, None, dataset, task)
    assert not any(key.startswith("gt_") for key in unlabelled)


def mmdet_output(**fields: Any) -> Any:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData, PixelData

    output = DetDataSample()
    for name, content in fields.items():
        setattr(output, name, (InstanceData if name == "pred_instances" else PixelData)(**content))
    return output


def mixed_dataset() -> Any:
    return SimpleNamespace(categories=MIXED)


def test_a_panoptic_map_is_split_into_segments_of_dataset_categories() -> None:
    # Two cats (label 0), sky (label 2), nothing (label 4).
    encoded = torch.tensor([[[1000, 2000, 2, 4], [1000, 2000, 2, 4]]])
    prediction = convert(
        mmdet_output(pred_panoptic_seg={"sem_seg": encoded}), "panoptic", mixed_dataset(), (2, 4)
    )
    assert isinstance(prediction, PanopticPrediction)
    assert prediction.segments.dtype == np.int32
    of_pixel = [(0, *prediction.categories)[k] if k else None for k in prediction.segments[0]]
    assert of_pixel == [1, 1, 0, None]
    assert len(set(prediction.segments[0].tolist())) == 4


@pytest.mark.parametrize("count", [0, 3])
def test_instances_keep_masks_scores_and_categories(count: int) -> None:
    fields = {
        "masks": torch.ones(count, 2, 4, dtype=torch.bool),
        "scores": torch.rand(count),
        "labels": torch.ones(count, dtype=torch.long),
    }
    prediction = convert(mmdet_output(pred_instances=fields), "instance", mixed_dataset(), (2, 4))
    assert isinstance(prediction, InstancePrediction)
    assert prediction.masks.shape == (count, 2, 4) and prediction.masks.dtype == bool
    assert prediction.scores.dtype == np.float32 and prediction.categories.tolist() == [3] * count


@pytest.mark.parametrize("count", [0, 3])
def test_boxes_keep_scores_and_categories(count: int) -> None:
    fields = {
        "bboxes": torch.rand(count, 4),
        "scores": torch.rand(count),
        # Some heads of mmdet give floats where they found nothing.
        "labels": torch.ones(count, dtype=torch.long if count else torch.float),
    }
    prediction = convert(mmdet_output(pred_instances=fields), "detection", mixed_dataset(), (2, 4))
    assert isinstance(prediction, DetectionPrediction)
    assert prediction.boxes.shape == (count, 4) and prediction.boxes.dtype == np.float32
    assert (
        np.array_equal(prediction.boxes, fields["bboxes"]) and prediction.categories.tolist() == [3] * count
    )
    with pytest.raises(ContractViolation, match="no boxes"):
        convert(mmdet_output(), "detection", mixed_dataset(), (2, 4))


def test_a_prediction_of_another_size_or_task_is_refused() -> None:
    output = mmdet_output(pred_panoptic_seg={"sem_seg": torch.zeros(1, 2, 4, dtype=torch.long)})
    with pytest.raises(ContractViolation, match="size"):
        convert(output, "panoptic", mixed_dataset(), (3, 4))
    with pytest.raises(ContractViolation, match="no instance masks"):
        convert(output, "instance", mixed_dataset(), (2, 4))
    with pytest.raises(ContractViolation, match="no pred_sem_seg"):
        convert(output, "semantic", mixed_dataset(), (2, 4))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    dataset = MemoryShapes()
    recipe = recipe_of(UNetPlusPlus, dataset, "semantic")
    with pytest.raises(ArtifactCorrupt, match=r"weights .*none\.safetensors"):
        next(predict(recipe, tmp_path / "none.safetensors", dataset, "val", device="cpu"))
