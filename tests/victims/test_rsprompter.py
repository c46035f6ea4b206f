"""RSPrompter: its parts against plain torch, both variants at ViT-B's shape, their training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional
from training_support import Identity, MemoryShapes, recipe_of

from bench.datasets.base import Category
from bench.errors import SpecError
from bench.training.environment import prepare
from bench.training.model import build_initialised_model
from bench.training.samples import TrainingSamples, collate
from bench.victim import DataInfo
from protectors.unseg.options import Geometry
from victims.rsprompter import RSPrompter

VARIANTS = ("anchor", "query")
VIT_B = {
    "image_size": 128,
    "patch_size": 16,
    "embed_dim": 768,
    "depth": 2,
    "num_heads": 12,
    "window_size": 14,
    "global_blocks": (1,),
    "decoder_dim": 256,
    "decoder_heads": 8,
    "decoder_mlp_dim": 2048,
}
"""ViT-B's widths, two blocks of it, on a small image."""
FULL_WIDTH = {
    "geometry": VIT_B,
    "stem": "patch",
    "channels": 256,
    "query_channels": 128,
    "box_channels": 1024,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prepare("mmdet", ("victims.rsprompter_anchor", "victims.rsprompter_query"))


def count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def batch(recipe: Any, dataset: MemoryShapes, images: int) -> dict[str, Any]:
    """Training samples as the trainer makes them."""
    stream = TrainingSamples(dataset, Identity(), recipe, 0)
    return collate([stream[index, index] for index in range(images)])


def total_loss(model: Any, data: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    losses = model(**model.data_preprocessor(data, True), mode="loss")
    return model.parse_losses(losses)[0], losses


def test_prompt_tokens_by_hand():
    from victims.rsprompter_modules import prompt_tokens

    values = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
    found = prompt_tokens(values, 2)
    expected = [[[np.sin(0) + 1, np.sin(2) + 3], [np.sin(4) + 5, np.sin(6) + 7]]]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float32))
    assert prompt_tokens(torch.zeros(3, 2 * 5 * 256), 5).shape == (3, 5, 256)


def normalised(maps: Tensor, norm: Any) -> Tensor:
    """Batch or layer normalisation by its formula."""
    dims = (0, 2, 3) if isinstance(norm, torch.nn.BatchNorm2d) else (1,)
    mean = maps.mean(dims, keepdim=True)
    variance = (maps - mean).pow(2).mean(dims, keepdim=True)
    return (maps - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[
        :, None, None
    ]


def stirred(module: Any) -> Any:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def test_the_aggregator_is_its_recursion():
    from victims.rsprompter_modules import Aggregator

    module = stirred(Aggregator(states=3, embed_dim=6, hidden=4, channels=8)).train()
    states = [torch.randn(2, 6, 5, 5) for _ in range(3)]

    def block(maps: Tensor, layers: Any) -> Tensor:
        convolution, norm = layers[0], layers[1]
        padding = convolution.kernel_size[0] // 2
        out = functional.conv2d(maps, convolution.weight, convolution.bias, padding=padding)
        return normalised(out, norm).clamp(min=0)

    reduced = [block(block(s, m[:3]), m[3:]) for s, m in zip(states, module.reductions, strict=True)]
    merged = reduced[0] + block(reduced[0], module.refinements[0])
    for feature, refine in zip(reduced[1:], module.refinements[1:], strict=True):
        merged = (merged + feature) + block(merged + feature, refine)
    fused = block(block(merged, module.fusion[:3]), module.fusion[3:6])
    expected = functional.conv2d(fused, module.fusion[6].weight, module.fusion[6].bias, padding=1)
    assert torch.allclose(module(states), expected, rtol=1e-4, atol=1e-4)


def test_the_splitter_makes_five_levels():
    from victims.rsprompter_modules import Splitter

    module = stirred(Splitter(16))
    features = torch.randn(2, 16, 8, 8)
    levels = module(features)
    assert [tuple(level.shape) for level in levels] == [(2, 16, side, side) for side in (32, 16, 8, 4, 2)]
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])

    def project(maps: Tensor, layers: Any) -> Tensor:
        maps = normalised(functional.conv2d(maps, layers[0].weight), layers[1])
        return normalised(functional.conv2d(maps, layers[2].weight, padding=1), layers[3])

    def enlarge(maps: Tensor, layer: Any) -> Tensor:
        return functional.conv_transpose2d(maps, layer.weight, layer.bias, stride=2)

    first = normalised(enlarge(features, module.scales[0][0]), module.scales[0][1])
    first = enlarge(functional.gelu(first), module.scales[0][3])
    sources = [first, enlarge(features, module.scales[1]), features, functional.max_pool2d(features, 2)]
    for level, source, layers in zip(levels, sources, module.projections, strict=False):
        assert torch.allclose(level, project(source, layers), rtol=1e-4, atol=1e-4)


def test_strides_are_4_to_64_with_sams_patches():
    data = DataInfo(("background", "ship"), (Category("ship", True),), 1024, 928)
    recipe = RSPrompter(RSPrompter.resolve_options("paper", {})).recipe(data, "instance", "scratch", "paper")
    assert recipe.model["rpn_head"]["anchor_generator"]["strides"] == [4, 8, 16, 32, 64]
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        found = recipe.model["roi_head"][extractor]
        assert found["featmap_strides"] == [4, 8, 16, 32] and found["finest_scale"] == 56


def test_parts_have_the_sizes_that_their_description_gives():
    from victims.rsprompter_anchor import PromptMaskHead
    from victims.rsprompter_modules import Aggregator, SamBackbone, SamDecoder

    assert round(count(SamBackbone(Geometry().model_dump(), "patch", True, (1,))) / 1e6, 2) == 89.67
    decoder = SamDecoder(Geometry(), False, False)
    assert round(count(decoder.mask_decoder) / 1e6, 2) == 4.06  # SAM's
    head = PromptMaskHead(Geometry().model_dump(), False, 256, 14, 5)
    layers = 256 * 256 * 9 + 256 + 2 * 256 + 12544 * 256 + 256 + 256 * 256 + 256 + 256 * 2560 + 2560
    assert count(head.prompter) == layers
    state = (768 * 32 + 32 + 64) + 2 * (32 * 32 * 9 + 32 + 64)
    fusion = (32 * 256 + 256 + 512) + (256 * 256 * 9 + 256 + 512) + (256 * 256 * 9 + 256)
    assert count(Aggregator(6, 768, 32, 256)) == 6 * state + fusion


def test_masks_come_to_the_original_size_without_the_padding():
    from victims.rsprompter_modules import resize_masks

    # Four cells a side stand for 16 pixels, of which 8 rows and 16 columns are image, 4x8 pixels originally.
    logits = torch.full((2, 4, 4), -1.0)
    logits[0, :, 2:] = 1.0
    logits[1, 2:] = 1.0
    meta = {"batch_input_shape": (16, 16), "img_shape": (8, 16), "ori_shape": (4, 8)}
    found = resize_masks(logits, meta)
    assert found.dtype == torch.bool and found.shape == (2, 4, 8)
    assert found[0, :, 4:].all() and not found[0, :, :4].any()
    assert not found[1, :3].any()


def test_the_loss_in_parts_is_the_whole_loss():
    from victims.rsprompter_anchor import LOSS_MASKS, PromptMaskHead

    shape = Geometry(
        image_size=32, patch_size=4, embed_dim=16, depth=1, num_heads=2, global_blocks=(0,), decoder_dim=32
    )
    head = PromptMaskHead(shape.model_dump(), False, 16, 14, 2)
    rng = np.random.default_rng(0)
    targets = [rng.integers(0, 2, (32, 32)).astype(np.uint8) for _ in range(2 * LOSS_MASKS + 1)]
    logits = torch.randn(len(targets), 8, 8, requires_grad=True)
    head.loss(logits, targets).backward()
    again = logits.detach().clone().requires_grad_()
    enlarged = functional.interpolate(again[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]
    truth = torch.from_numpy(np.stack(targets)).float()
    whole = functional.binary_cross_entropy_with_logits(enlarged, truth)
    whole.backward()
    assert torch.allclose(head.loss(logits, targets), whole, rtol=1e-5)
    assert torch.allclose(logits.grad, again.grad, rtol=1e-4, atol=1e-8)


def test_many_masks_are_decoded_in_parts_with_the_same_gradient(monkeypatch):
    from victims import rsprompter_modules

    shape = Geometry(
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depth=1,
        num_heads=2,
        global_blocks=(0,),
        decoder_dim=32,
        mask_channels=8,
    )
    decoder = stirred(rsprompter_modules.SamDecoder(shape, False, mask_prompts=True))
    embedding, sparse, masks = torch.randn(5, 32, 8, 8), torch.randn(5, 3, 32), torch.randn(5, 1, 32, 32)
    results = []
    for cells in (2**22, 2 * 32 * 32):
        monkeypatch.setattr(rsprompter_modules, "MASK_CELLS", cells)
        decoder.zero_grad()
        found = decoder(embedding, sparse, masks)
        found.square().mean().backward()
        gradients = [p.grad.clone() for p in decoder.parameters() if p.grad is not None]
        results.append((found.detach(), gradients))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-4, atol=1e-4)
    assert len(results[0][1]) == len(results[1][1]) > 20
    largest = max(float(gradient.abs().max()) for gradient in results[0][1])
    for first, second in zip(*(gradients for _, gradients in results), strict=True):
        assert torch.allclose(first, second, rtol=1e-3, atol=1e-5 * largest)


def test_regions_see_the_embedding_of_their_own_image():
    from victims.rsprompter_anchor import PromptMaskHead

    shape = Geometry(
        image_size=32, patch_size=4, embed_dim=16, depth=1, num_heads=2, global_blocks=(0,), decoder_dim=32
    )
    head = PromptMaskHead(shape.model_dump(), False, 16, 14, 2).eval()
    features, embedding = torch.randn(3, 16, 14, 14), torch.randn(2, 32, 8, 8)
    together = head(features, embedding, torch.tensor([1, 0, 1]))
    for row, image in enumerate((1, 0, 1)):
        alone = head(features[row, None], embedding[image, None], torch.tensor([0]))
        assert torch.allclose(together[row], alone[0], atol=1e-5)
    assert head(features[:0], embedding, torch.zeros(0, dtype=torch.long)).shape == (0, 32, 32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_step_at_the_width_of_vit_b(variant):
    dataset = MemoryShapes(train=2, val=1)
    recipe = recipe_of(RSPrompter, dataset, "instance", variant=variant, **FULL_WIDTH)
    model = build_initialised_model(recipe, "cpu", 0).train()
    loss, _ = total_loss(model, batch(recipe, dataset, 2))
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_frozen_sam_stays_as_it_is(variant):
    dataset = MemoryShapes(train=2, val=1)
    recipe = recipe_of(
        RSPrompter, dataset, "instance", variant=variant, frozen_encoder=True, frozen_decoder=True
    )
    model = build_initialised_model(recipe, "cpu", 0).train()
    total_loss(model, batch(recipe, dataset, 2))[0].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained and not any("image_encoder" in name or ".decoder.mask_decoder" in name for name in trained)
    assert any("prompter" in name for name in trained)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_without_any_object_train(variant):
    class Nothing(MemoryShapes):
        def annotation(self, split: str, image_id: str) -> Any:
            made = super().annotation(split, image_id)
            return type(made)(np.zeros_like(made.semantic), (), made.foreground & False)

    dataset = Nothing(train=2)
    recipe = recipe_of(RSPrompter, dataset, "instance", variant=variant)
    model = build_initialised_model(recipe, "cpu", 0).train()
    loss, _ = total_loss(model, batch(recipe, dataset, 2))
    loss.backward()
    assert torch.isfinite(loss)


def test_matched_queries_take_the_losses_of_both_masks():
    """The head's losses, from its own outputs by the formulas, where one query alone can be matched."""
    from mmengine.structures import InstanceData

    dataset = MemoryShapes(train=1)
    recipe = recipe_of(RSPrompter, dataset, "instance", variant="query", queries=1)
    model = build_initialised_model(recipe, "cpu", 0)
    head = model.panoptic_head
    levels = model.extract_feat(torch.randn(1, 3, 64, 64))
    classes, masks = head(levels, [None])
    coarse, queries = masks[-1]
    truth = torch.zeros(1, 64, 64, dtype=torch.long)
    truth[0, 10:40, 20:50] = 1
    target = InstanceData(labels=torch.tensor([2]), masks=truth)
    torch.manual_seed(3)
    found = head._loss_by_feat_single(classes[-1], masks[-1], [target], [{}])
    fine = head.sam_masks(queries[0], coarse[0], torch.tensor([0]))
    # Every pixel of a coarse grid in place of the sampled points: the same up to sampling.
    small = functional.interpolate(truth[None].float(), fine.shape[-2:], mode="area")[0]
    entropy = sum(5 * functional.binary_cross_entropy_with_logits(m, small) for m in (fine, coarse[0]))
    assert torch.allclose(found[0], 2 * functional.cross_entropy(classes[-1][0], torch.tensor([2])))
    assert float(found[1]) == pytest.approx(float(entropy), rel=0.2)
    assert 0 < float(found[2]) < 10


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_dense_loss_is_the_cross_entropy_of_the_finest_level(variant):
    dataset = MemoryShapes(train=2)
    recipe = recipe_of(RSPrompter, dataset, "instance", variant=variant, dense_weight=3.0, flips="horizontal")
    model = build_initialised_model(recipe, "cpu", 0).train()
    data = model.data_preprocessor(batch(recipe, dataset, 2), True)
    masks = [sample.gt_instances.masks.masks for sample in data["data_samples"]]
    labels = [sample.gt_instances.labels for sample in data["data_samples"]]
    found = model(**data, mode="loss")["loss_dense"]
    expected = torch.full((2, 64, 64), 5)  # none of the five outlines
    for image in range(2):
        for mask, label in zip(masks[image], labels[image], strict=True):
            expected[image][torch.from_numpy(mask) > 0] = label
    assert (expected == 5).any() and (expected < 5).any()
    # Batch norm normalises the same batch in the same way once more.
    logits = model.dense_logits(model.extract_feat(data["inputs"])[0])
    logits = functional.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False)
    assert torch.allclose(found, 3 * functional.cross_entropy(logits, expected), rtol=1e-5)
    published = RSPrompter.resolve_options("paper", {"variant": variant})
    assert published.dense_weight == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_predictions_hold_boxes_and_masks_at_the_original_size(variant):
    dataset = MemoryShapes(train=2, val=3, sizes=((37, 52),))
    recipe = recipe_of(RSPrompter, dataset, "instance", variant=variant, detections=7)
    model = build_initialised_model(recipe, "cpu", 0).eval()
    if variant == "anchor":
        model.roi_head.test_cfg.score_thr = 0.0  # an untrained detector finds nothing
    from bench.training.samples import EvaluationSamples

    packed = EvaluationSamples(dataset, "val", recipe, dataset.ids("val"))
    items = [packed.load(index) for index in range(3)]
    with torch.no_grad():
        outputs = model.test_step({key: [item[key] for item in items] for key in ("inputs", "data_samples")})
    for output in outputs:
        found = output.pred_instances
        assert len(found) == 7
        assert found.masks.shape == (7, 37, 52) and found.masks.dtype == torch.bool
        assert (found.bboxes >= 0).all()
        assert (found.bboxes[:, 2] <= 52 + 1e-3).all() and (found.bboxes[:, 3] <= 37 + 1e-3).all()


@pytest.mark.parametrize(
    ("protocol", "variant", "epochs", "detections"),
    [
        ("whu", "anchor", 200, 100),
        ("whu", "query", 300, 100),
        ("nwpu", "anchor", 300, 70),
        ("ssdd", "query", 500, 30),
    ],
)
def test_protocols_are_the_published_ones(protocol, variant, epochs, detections):
    options = RSPrompter.resolve_options("paper", {"protocol": protocol, "variant": variant})
    assert (options.epochs, options.detections) == (epochs, detections)
    if variant == "query":
        assert options.queries == detections
    assert options.batch_size == 16 and options.learning_rate == 1e-4
    assert RSPrompter.resolve_options("paper", {"protocol": protocol, "epochs": 3}).epochs == 3


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValidationError, match="lie outside 0 to 4"):
        RSPrompter.resolve_options("cpu", {"layers": (1, 9), "geometry": {"depth": 4}})
    with pytest.raises(ValidationError, match="no multiple of 4"):
        RSPrompter.resolve_options("cpu", {"geometry": {"patch_size": 2}})
    data = DataInfo(("background", "object"), (), 64, 10)
    with pytest.raises(SpecError, match="no things"):
        RSPrompter().recipe(data, "instance", "scratch", "cpu")
