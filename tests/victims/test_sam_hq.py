"""SAM-HQ: its decoder against the authors' package, its prompts, its loss, its training."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_support import Identity, MemoryShapes, recipe_of

from bench.datasets.base import VOID, Annotation
from bench.training.environment import prepare
from bench.training.inference import predict
from bench.training.labels import object_box
from bench.training.samples import EvaluationSamples
from bench.training.trainer import train
from bench.victim import DataInfo
from victims.sam_hq import SamHQ

TINY = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "window_size": 4,
    "global_blocks": (1,),
    "relative_positions": True,
    "decoder_dim": 32,
    "decoder_heads": 4,
    "decoder_mlp_dim": 32,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prepare("mmseg", ("victims.sam_hq_model",))


def segmentor(frozen: bool = False, points: int | None = None, geometry: dict[str, Any] = TINY) -> Any:
    from victims.sam_hq_model import SamHQSegmentor

    return SamHQSegmentor(geometry, "patch", frozen, frozen, points, None, None)


def samples(labels: Any) -> list[Any]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    made = []
    for label in labels:
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=torch.as_tensor(np.asarray(label), dtype=torch.long)[None])
        made.append(sample)
    return made


def square(side: int = 32, start: int = 4, stop: int = 20, value: int = 1) -> np.ndarray:
    label = np.zeros((side, side), np.uint8)
    label[start:stop, start:stop] = value
    return label


@pytest.mark.skipif(importlib.util.find_spec("segment_anything_hq") is None, reason="a test dependency")
def test_masks_are_those_of_segment_anything_hq():
    root = Path(__file__).parents[2]
    script = Path(__file__).with_name("sam_hq_reference.py")
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    numbers = [[float(word) for word in line.split()] for line in result.stdout.splitlines()]
    assert len(numbers) == 10
    assert numbers[0][0] < 1e-5
    for difference, scale in numbers[1:]:
        assert scale > 0.1 and difference < 1e-5 * max(1, scale)


@pytest.mark.parametrize(("encoder", "millions"), [("vit_b", 1.07), ("vit_l", 1.33)])
def test_the_trained_parts_have_the_published_size(encoder, millions):
    from victims.sam import PUBLISHED
    from victims.sam_hq_model import HQMaskDecoder

    decoder = HQMaskDecoder(PUBLISHED[encoder], frozen=True)
    assert round(sum(p.numel() for p in decoder.parameters() if p.requires_grad) / 1e6, 2) == millions


def test_only_what_sam_hq_adds_is_trained_on_a_frozen_sam():
    from victims.sam_hq_model import HQ_PARTS

    model = segmentor(frozen=True, points=64)
    model(torch.randn(3, 3, 32, 32), samples([square()] * 3), "loss")["loss_mask"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    expected = {
        name
        for name, _ in model.named_parameters()
        if name.startswith(tuple(f"mask_decoder.{p}." for p in HQ_PARTS))
    }
    assert trained == expected == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("points", [None, 64])
def test_every_trained_parameter_gets_a_finite_gradient(points):
    model = segmentor(points=points)
    # A dozen images, so that all three kinds of prompt are drawn.
    loss = model(torch.randn(12, 3, 32, 32), samples([square()] * 12), "loss")["loss_mask"]
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_each_image_gets_one_kind_of_prompt_and_small_objects_no_points():
    from victims.sam_hq_model import draw_kinds

    masks = torch.zeros(300, 1, 8, 8)
    masks[:100, :, :4, :4] = 1  # sixteen pixels
    masks[100:200, :, :3, :3] = 1  # nine, too few for ten points; the rest has none
    kinds = draw_kinds(masks, torch.Generator().manual_seed(0))
    rows = [row for members in kinds.values() for row in members]
    assert sorted(rows) == list(range(200))
    assert min(kinds["points"]) < max(kinds["points"]) < 100
    for kind in ("box", "mask"):
        assert sum(row < 100 for row in kinds[kind]) in range(20, 47)
        assert sum(row >= 100 for row in kinds[kind]) in range(35, 66)
    assert kinds == draw_kinds(masks, torch.Generator().manual_seed(0))


def test_images_without_an_object_do_not_count():
    model = segmentor().eval()
    images = torch.randn(3, 3, 32, 32)
    nothing = square(stop=4)
    empty = model(images, samples([nothing] * 3), "loss")["loss_mask"]
    assert empty == 0
    empty.backward()  # a batch of them can be trained on
    torch.manual_seed(1)
    mixed = model(images[:2], samples([square(), nothing]), "loss")["loss_mask"]
    torch.manual_seed(1)
    alone = model(images[:1], samples([square()]), "loss")["loss_mask"]
    assert torch.allclose(mixed, alone)


@pytest.mark.parametrize("points", [None, 256])
def test_void_pixels_do_not_count(points):
    model = segmentor(points=points)
    logits = torch.randn(2, 1, 32, 32)
    mask, void = torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 32, 32)
    mask[:, :, 4:20, 4:20] = 1
    void[:, :, :, 24:] = 1
    changed = torch.where(void == 0, logits, torch.randn_like(logits))
    losses = [
        model._mask_loss(values, mask, void, torch.Generator().manual_seed(0)) for values in (logits, changed)
    ]
    assert torch.allclose(losses[0], losses[1])


def test_a_perfect_mask_has_no_loss():
    model = segmentor()
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, 4:20, 4:20] = 1
    void, rng = torch.zeros_like(mask), torch.Generator()
    assert model._mask_loss(40 * (2 * mask - 1), mask, void, rng) < 1e-6
    assert model._mask_loss(-40 * (2 * mask - 1), mask, void, rng) > 10


def test_the_box_of_an_annotation():
    semantic = np.zeros((10, 12), np.uint8)
    semantic[2:5, 3:9] = 4
    semantic[7] = VOID
    everything = Annotation(semantic, (), semantic != 0)
    assert object_box(everything) == (3.0, 2.0, 9.0, 5.0)
    assert object_box(Annotation(semantic, (), semantic == 1)) is None


class OneBox(MemoryShapes):
    """Images of 24x40 pixels whose object is a known rectangle; every second one has none."""

    def image(self, split: str, image_id: str) -> np.ndarray:
        return super().image(split, image_id)[:24, :40]

    def annotation(self, split: str, image_id: str) -> Annotation:
        semantic = np.zeros((24, 40), np.uint8)
        if int(image_id.removeprefix(split)) % 2 == 0:
            semantic[6:18, 10:30] = 1
        return Annotation(semantic, (), semantic == 1)


def test_the_prompt_reaches_the_model_and_no_label_does(tmp_path, monkeypatch):
    from victims.sam_hq_model import SamHQSegmentor

    dataset = OneBox(train=2, val=2)
    recipe = recipe_of(SamHQ, dataset, "interactive", geometry=TINY, iterations=1)
    packed = [EvaluationSamples(dataset, "val", recipe, dataset.ids("val")).load(i) for i in range(2)]
    assert packed[0]["inputs"].shape == (3, 32, 32)  # squashed, not padded
    assert all("gt_sem_seg" not in item["data_samples"] for item in packed)
    assert packed[0]["data_samples"].prompt_box == (10.0, 6.0, 30.0, 18.0)
    assert "prompt_box" not in packed[1]["data_samples"]

    boxes = []
    masks = SamHQSegmentor.masks

    def watched(self: Any, early: Any, embedding: Any, prompts: Any) -> Any:
        if prompts.boxes is not None and not self.training:
            boxes.append(prompts.boxes)
        return masks(self, early, embedding, prompts) + (0 if self.training else 1000)

    monkeypatch.setattr(SamHQSegmentor, "masks", watched)
    result = train(recipe, dataset, Identity(), tmp_path, seed=0, device="cpu")
    found = dict(predict(recipe, result.weights, dataset, "val", device="cpu"))
    # 40 columns and 24 rows become 32: pixels 8 to 23 and 8 to 23.
    assert [box.tolist() for box in boxes] == [[[8.0, 8.0, 23.0, 23.0]]]
    assert found["val0"].labels.all() and not found["val1"].labels.any()


def test_the_paper_profile_is_the_authors_schedule():
    data = DataInfo(("background", "object"), (), 1000, 44320)
    recipe = SamHQ(SamHQ.resolve_options("paper", {})).recipe(data, "interactive", "sam", "paper")
    assert recipe.iterations == 12 * 44320 / 32 and recipe.batch_size == 32
    assert recipe.optim_wrapper["optimizer"] == {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.0}
    (steps,) = recipe.param_scheduler
    assert steps["milestones"] == [10 * 44320 / 32] and steps["gamma"] == 0.1
    assert recipe.train_pipeline[0]["ratio_range"] == (0.1, 2.0)
    assert (
        recipe.model["frozen_encoder"] and recipe.model["frozen_decoder"] and recipe.model["points"] == 112**2
    )
    assert recipe.test_pipeline[0] == {"type": "Resize", "scale": (1024, 1024), "keep_ratio": False}
