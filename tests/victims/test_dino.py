"""DINO: it builds, trains and predicts at each profile's size; it can learn eight images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from training_support import Identity, MemoryShapes, recipe_of

from bench.datasets.base import Annotation, Category
from bench.errors import SpecError
from bench.training.samples import TrainingSamples, collate
from bench.victim import DataInfo, TrainingRecipe
from victims.dino import DINO, divisor_for


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def recipe(profile: str = "ci", init: str = "scratch", things: int = 5, images: int = 800, **given: Any):
    categories = (Category("sky", False), *(Category(str(index), True) for index in range(things)))
    data = DataInfo(("background",), categories, 64, images)
    return DINO(DINO.resolve_options(profile, given)).recipe(data, "detection", init, profile)


def build(made: TrainingRecipe) -> Any:
    from bench.training.model import build_initialised_model

    return build_initialised_model(made, "cpu", 0)


def batch(made: TrainingRecipe, dataset: MemoryShapes, count: int = 2) -> dict[str, Any]:
    samples = TrainingSamples(dataset, Identity(), made, 0)
    return collate([samples[index, index] for index in range(count)])


def total_loss(model: Any, data: dict[str, Any]) -> Any:
    losses = model(**model.data_preprocessor(data, True), mode="loss")
    return model.parse_losses(losses)[0]


@pytest.mark.parametrize("profile", ["ci", "cpu"])
def test_every_trainable_parameter_gets_a_finite_gradient(profile: str) -> None:
    import torch

    dataset = MemoryShapes(sizes=((64, 64), (37, 61)))
    made = recipe_of(DINO, dataset, "detection", profile)
    model = build(made).train()
    loss = total_loss(model, batch(made, dataset))
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_images_without_any_object_train() -> None:
    import torch

    class Nothing(MemoryShapes):
        def annotation(self, split: Any, image_id: str) -> Annotation:
            empty = np.zeros((64, 64), np.uint8)
            return Annotation(empty, (), empty > 0)

    dataset = Nothing()
    made = recipe_of(DINO, dataset, "detection")
    loss = total_loss(build(made).train(), batch(made, dataset))
    loss.backward()
    assert torch.isfinite(loss)


def test_flips_move_boxes_with_the_image() -> None:
    class Marked(MemoryShapes):
        def image(self, split: Any, image_id: str) -> np.ndarray:
            return np.repeat(
                self.annotation(split, image_id).segments[1].mask[..., None] * np.uint8(200), 3, 2
            )

    dataset = Marked(train=1)
    made = recipe_of(DINO, dataset, "detection")
    samples, seen = TrainingSamples(dataset, Identity(), made, 0), set()
    for draw in range(20):
        packed = samples[0, draw]
        rows, columns = np.nonzero(packed["inputs"][0].numpy())
        instances = packed["data_samples"].gt_instances
        assert "masks" not in instances
        bounds = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert instances.bboxes.tensor[0].tolist() == bounds
        seen.add(tuple(bounds))
    assert len(seen) == 4


@pytest.mark.parametrize("size", [(64, 64), (37, 61), (9, 40), (96, 33)])
def test_boxes_are_in_pixels_of_the_original_image(size: tuple[int, int]) -> None:
    import torch

    from bench.training.inference import convert
    from bench.training.samples import EvaluationSamples

    class Given(MemoryShapes):
        def image(self, split: Any, image_id: str) -> np.ndarray:
            return pixels

    made = recipe_of(DINO, MemoryShapes(), "detection", image_size=48)
    model = build(made).eval()

    def boxes() -> np.ndarray:
        with torch.no_grad():
            (output,) = model.test_step({key: [item[key]] for key in ("inputs", "data_samples")})
        return convert(output, "detection", dataset, pixels.shape[:2]).boxes

    dataset, pixels = Given(), np.resize(MemoryShapes().image("val", "val0"), (*size, 3))
    item = EvaluationSamples(dataset, "val", made, ("val0",))[0]
    original = boxes()
    # The same pixels as the network got them, as an image of that size.
    pixels = item["inputs"].permute(1, 2, 0).numpy()
    assert max(pixels.shape[:2]) == 48
    item = EvaluationSamples(dataset, "val", made, ("val0",))[0]
    factors = [size[1] / pixels.shape[1], size[0] / pixels.shape[0]] * 2
    assert len(original) == 10 * 5 and np.allclose(original, boxes() * factors, atol=1e-3)


def test_the_dense_target_is_the_class_of_the_smallest_box_around_a_cell() -> None:
    import torch
    from mmengine.structures import InstanceData

    import bench.mmcv_ext

    bench.mmcv_ext.install()
    from victims.dino_modules import UNSURE, dense_target

    boxes = torch.tensor([[12.0, 12.0, 16.0, 16.0], [0.0, 0.0, 20.0, 40.0]])
    target = dense_target(InstanceData(bboxes=boxes, labels=torch.tensor([3, 1])), (10, 8), 4.0, 5)
    # Rows and columns of 4 pixels: the core of the large box are rows 2 to 7 and columns 1 to 3.
    expected = torch.full((10, 8), 5)
    expected[:, :5] = UNSURE
    expected[2:8, 1:4] = 1
    expected[3, 3] = 3
    assert torch.equal(target, expected)
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    assert (dense_target(nothing, (10, 8), 4.0, 5) == 5).all()


def test_padding_gives_every_query_a_place() -> None:
    assert divisor_for(30, (4, 8, 16)) == 32  # 64 + 16 + 4 places; 16 + 4 + 1 are too few
    assert divisor_for(900, (8, 16, 32, 64)) == 256
    assert recipe("gpu").model.data_preprocessor.pad_size_divisor == 256
    assert recipe("paper").model.data_preprocessor.pad_size_divisor == 1


def test_the_paper_profile_is_the_published_protocol() -> None:
    made = recipe("paper", "imagenet", images=118_287)
    assert made.iterations == 88_716 and made.batch_size == 16  # 12 epochs
    (step,) = made.param_scheduler
    assert step["milestones"] == [81_323] and step["gamma"] == 0.1
    assert made.optim_wrapper["optimizer"] == {"type": "AdamW", "lr": 1e-4, "weight_decay": 1e-4}
    assert made.optim_wrapper["clip_grad"] == {"max_norm": 0.1, "norm_type": 2}
    assert made.optim_wrapper["paramwise_cfg"]["custom_keys"] == {"backbone": {"lr_mult": 0.1}}
    flip, choice, _ = made.train_pipeline
    assert flip["prob"] == 0.5 and len(choice["transforms"]) == 2
    assert made.test_pipeline[0]["scale"] == (1333, 800)
    assert made.model.num_queries == 900 and made.model.test_cfg.max_per_img == 300


def test_scratch_trains_the_whole_backbone_at_the_full_rate() -> None:
    made = recipe("gpu")
    backbone = made.model.backbone
    assert backbone.init_cfg is None and backbone.frozen_stages == -1 and not backbone.norm_eval
    assert backbone.norm_cfg.requires_grad and "paramwise_cfg" not in made.optim_wrapper


@pytest.mark.slow
def test_the_published_network_has_the_published_size_and_trains() -> None:
    import torch

    from bench.training.model import build_model

    model = build_model(recipe("paper", "imagenet", things=80), "cpu")
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == 47.70
    dataset = MemoryShapes()
    made = recipe_of(DINO, dataset, "detection", "gpu", image_size=128, batch_size=2)
    model = build(made).train()
    loss = total_loss(model, batch(made, dataset))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("task", "init", "message"),
    [
        ("instance", "scratch", "has no task 'instance': there is detection"),
        ("detection", "sam", "has no init 'sam': there is scratch, imagenet"),
        ("detection", "imagenet", "network=published"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(task: Any, init: Any, message: str) -> None:
    data = DataInfo((), (Category("a", True),), 64, 10)
    with pytest.raises(SpecError, match=message):
        DINO().recipe(data, task, init, "cpu")
    with pytest.raises(SpecError, match="no things"):
        DINO().recipe(DataInfo((), (Category("sky", False),), 64, 10), "detection", "scratch", "cpu")
    with pytest.raises(ValidationError):
        DINO.resolve_options("cpu", {"layers": 3})


def test_one_class_has_fewer_detections_than_mmdet_keeps() -> None:
    assert recipe(things=1).model.test_cfg.max_per_img == 10
