"""The trained generator on images: one encoder pass, prompts, areas, and sizes beyond what is held in one piece."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from unseg_support import SMALL

from bench.datasets.shapes.scenes import SceneOptions, draw_scene
from bench.errors import DatasetError
from bench.protect.prompts import ObjectPrompt
from bench.training.checkpoint import save_weights
from protectors.unseg import UnSeg, deploy
from protectors.unseg.checkpoints import CATALOGUE
from protectors.unseg.generator import NoiseSam
from protectors.unseg.options import Geometry, UnSegOptions
from protectors.unseg.prompts import MASK_ON, Prompts, resize
from protectors.unseg.weights import OPTIONS, WEIGHTS

GEOMETRY = Geometry(**SMALL)
BOXES = [(4, 4, 30, 40), (20, 10, 44, 44), (2, 30, 12, 47), (33, 1, 40, 8), (0, 0, 47, 35)]


@pytest.fixture(scope="module")
def generator() -> NoiseSam:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NoiseSam(GEOMETRY, "intended")
        # At its initial values this one's noise does not depend on the prompt enough to test with.
        for parameter in network.mask_decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    network.segments = True
    return network.eval().requires_grad_(False)


@pytest.fixture
def encoded(generator: NoiseSam) -> list[int]:
    """The batch sizes with which the image encoder is called."""
    calls: list[int] = []
    handle = generator.image_encoder.patch_embed.register_forward_hook(
        lambda module, arguments, output: calls.append(len(arguments[0]))
    )
    yield calls
    handle.remove()


def scene(index: int = 0, height: int = 36, width: int = 48) -> tuple[np.ndarray, np.ndarray]:
    foreground = np.zeros((height, width), bool)
    foreground[4:16, 6:17] = True
    return draw_scene(5, index, SceneOptions(size=48)).image[:height, :width].copy(), foreground


def boxed(*boxes: tuple[float, float, float, float]) -> list[ObjectPrompt]:
    return [ObjectPrompt(box=box) for box in boxes]


def plain_noise(generator: NoiseSam, image: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """The way of section 1.8 without care for memory: pad, scale, mask prompt, scale back, cut."""
    height, width = foreground.shape
    side, size = max(height, width), GEOMETRY.image_size
    padding = ((0, side - height), (0, side - width))
    square = torch.from_numpy(np.pad(image, (*padding, (0, 0)))).permute(2, 0, 1)[None].float() / 255
    mask = torch.from_numpy(np.pad(foreground, padding).astype(np.float32))[None, None]
    mask = F.interpolate(mask, size=(size, size), mode="nearest")
    prompts = Prompts(masks=MASK_ON * resize(mask, GEOMETRY.output_size).round())

    def scaled(planes: torch.Tensor, to: int) -> torch.Tensor:
        return F.interpolate(planes, size=(to, to), mode="bilinear", align_corners=False)

    with torch.no_grad():
        noise = generator(scaled(square, size) if side != size else square, prompts)
    return scaled(noise, side)[0, :, :height, :width].permute(1, 2, 0).numpy()


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 70), width=st.integers(1, 70), data=st.data())
def test_the_mask_way_is_the_plain_way_to_the_last_bit(generator, height, width, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    foreground = rng.random((height, width)) < data.draw(st.sampled_from([0.1, 0.5, 1.0]))
    foreground[rng.integers(height), rng.integers(width)] = True
    noise = deploy.deployed_noise(generator, image, foreground)
    assert np.array_equal(noise, plain_noise(generator, image, foreground))


@pytest.mark.parametrize(("height", "width"), [(37, 91), (91, 37), (64, 64)])
def test_an_image_that_is_resampled_in_bands_gets_the_same_noise(generator, monkeypatch, height, width):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    foreground = np.zeros((height, width), bool)
    foreground[5:20, 8:30] = True
    whole = deploy.deployed_noise(generator, image, foreground)
    monkeypatch.setattr(deploy, "WHOLE_SIDE", 8)
    results = []
    for band in (1, 7, 1000):
        monkeypatch.setattr(deploy, "BAND", band)
        results.append(deploy.deployed_noise(generator, image, foreground))
        assert np.abs(results[-1] - whole).max() < 1e-5
    assert np.abs(results[0] - results[1]).max() < 1e-6
    assert np.abs(results[0] - results[2]).max() < 1e-6


def test_a_batch_gives_each_image_its_own_noise_in_one_pass(generator, encoded):
    scenes = [scene(0), scene(1, 48, 30), scene(2), scene(3, 20, 20)]
    scenes[2][1][:] = False
    together = list(deploy.batch_noise(generator, *zip(*scenes, strict=True)))
    assert encoded == [3]  # the image with an empty mask is not among them
    for (image, foreground), noise in zip(scenes, together, strict=True):
        assert noise.shape == image.shape
        assert np.abs(noise - deploy.deployed_noise(generator, image, foreground)).max() < 1e-5
    assert not together[2].any()
    assert list(deploy.batch_noise(generator, [], [])) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("region", ["box", "image", "predicted"])
def test_the_image_is_encoded_once_whatever_the_number_of_prompts(generator, encoded, count, region):
    image, _ = scene()
    objects = boxed(*BOXES[:count])
    if region != "box":
        objects.append(ObjectPrompt(points=((10, 10), (30, 20))))
    noise, protected = deploy.prompted_noise(generator, image, objects, region)
    assert encoded == [1]
    assert noise.shape == image.shape
    assert np.abs(noise).max() <= 1
    assert protected.shape == image.shape[:2]


def alone(generator: NoiseSam, image: np.ndarray, item: ObjectPrompt) -> np.ndarray:
    return deploy.prompted_noise(generator, image, [item], "image")[0]


def test_each_object_has_its_own_noise_in_its_area_and_the_mean_lies_outside(generator):
    image, _ = scene()
    large, small = boxed((0, 0, 29, 29), (20, 20, 39, 31))
    noise, protected = deploy.prompted_noise(generator, image, [small, large], "box")
    of_large, of_small = alone(generator, image, large), alone(generator, image, small)
    assert np.abs(of_large - of_small).max() > 0.01
    in_small, in_large = small.area(36, 48), large.area(36, 48)
    assert np.array_equal(protected, in_small | in_large)
    # Where they overlap the smaller object wins.
    assert np.abs(noise - of_small)[in_small].max() < 1e-5
    assert np.abs(noise - of_large)[in_large & ~in_small].max() < 1e-5
    assert np.abs(noise - (of_large + of_small) / 2)[~protected].max() < 1e-5


def test_the_order_of_prompts_changes_nothing(generator):
    image, _ = scene()
    forward, _ = deploy.prompted_noise(generator, image, boxed(*BOXES), "box")
    backward, _ = deploy.prompted_noise(generator, image, boxed(*BOXES[::-1]), "box")
    assert np.abs(forward - backward).max() < 1e-5


def test_prompts_are_scaled_as_the_image_is(generator, monkeypatch):
    image, _ = scene(0, 36, 48)
    seen = []
    plain = generator.prompt_encoder.forward

    def remembering(points, boxes, masks):
        seen.append((points, boxes, masks))
        return plain(points, boxes, masks)

    monkeypatch.setattr(generator.prompt_encoder, "forward", remembering)
    objects = [*boxed((6, 3, 30, 21), (0, 0, 47, 35)), ObjectPrompt(points=((12, 9), (47, 0)))]
    deploy.prompted_noise(generator, image, objects, "image")
    (no_points, boxes, _), ((points, labels), no_boxes, _) = seen
    assert no_points is None
    assert no_boxes is None
    # 48 pixels become 32.
    assert torch.allclose(boxes, torch.tensor([[4, 2, 20, 14], [0, 0, 47 / 1.5, 35 / 1.5]]))
    assert torch.allclose(points, torch.tensor([[[8, 6], [47 / 1.5, 0]]]))
    assert (labels == 1).all()


@pytest.mark.parametrize("count", [1, 2, 10, 25])
def test_any_number_of_points_is_a_prompt(generator, count):
    image, _ = scene()
    spots = tuple((float(3 + k), float(5 + k % 20)) for k in range(count))
    noise, protected = deploy.prompted_noise(generator, image, [ObjectPrompt(points=spots)], "image")
    assert protected.all()
    assert noise.any()


def test_the_predicted_region_is_what_the_mask_decoder_segments(generator):
    image, _ = scene()
    box, points = ObjectPrompt(box=(4, 4, 30, 30)), ObjectPrompt(points=((10, 10),))
    _, both = deploy.prompted_noise(generator, image, [box, points], "predicted")
    regions = [deploy.prompted_noise(generator, image, [item], "predicted")[1] for item in (box, points)]
    assert np.array_equal(both, regions[0] | regions[1])
    assert not np.array_equal(regions[0], box.area(36, 48))


def test_nothing_segmented_is_an_error_and_not_an_empty_region(generator, monkeypatch):
    image, _ = scene()
    monkeypatch.setattr(
        generator.mask_decoder,
        "forward",
        lambda **arguments: (torch.full((1, 3, 32, 32), -1.0), torch.zeros(1, 3)),
    )
    with pytest.raises(DatasetError, match="nothing is segmented"):
        deploy.prompted_noise(generator, image, [ObjectPrompt(points=((5, 5),))], "predicted")


def test_prompts_outside_the_image_and_points_without_a_region_are_refused(generator, encoded):
    image, _ = scene()
    for item, region, message in (
        (ObjectPrompt(box=(60, 0, 70, 10)), "box", "holds no pixel"),
        (ObjectPrompt(points=((48, 0),)), "image", "outside the image of 48 x 36"),
        (ObjectPrompt(points=((5, 5),)), "box", "points have no box"),
    ):
        with pytest.raises(DatasetError, match=message):
            deploy.prompted_noise(generator, image, [item], region)
    assert encoded == []


@pytest.mark.parametrize(
    ("stated", "segments"),
    [
        ({}, True),  # a converted checkpoint of the authors: it says how it is built, not from what
        ({"trainable": "noise", "generator_init": CATALOGUE["sam_vit_b"].reference}, True),
        ({"trainable": "noise", "generator_init": "random"}, False),
        ({"trainable": "all", "generator_init": "random"}, False),
        ({"trainable": "all", "generator_init": CATALOGUE["sam_vit_b"].reference}, False),
    ],
)
def test_only_a_pretrained_decoder_that_stayed_as_it_was_predicts_regions(
    tmp_path: Path, generator, stated, segments
):
    save_weights(tmp_path / WEIGHTS, generator)
    said = {"generator": GEOMETRY.model_dump(mode="json"), "token_readout": "intended", **stated}
    (tmp_path / OPTIONS).write_text(json.dumps(said))
    loaded = deploy.load_generator(tmp_path, "cpu")
    assert loaded.segments is segments
    assert UnSeg(UnSegOptions()).predicts_regions(loaded) is segments


def test_bfloat16_gives_noise_close_to_that_of_single_precision(generator):
    image, foreground = scene()
    exact = deploy.deployed_noise(generator, image, foreground)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = deploy.deployed_noise(generator, image, foreground)
    assert coarse.dtype == np.float32
    assert np.abs(coarse - exact).max() > 0
    assert np.abs(coarse - exact).mean() < 0.05


@pytest.mark.parametrize("height, width", [(48, 48), (40, 61), (90, 33)])
def test_box_and_points_of_a_mask_prompt_as_that_box_and_those_points_do(generator, height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    foreground = np.zeros((height, width), bool)
    foreground[5:17, 9:25] = True
    foreground[20, 30] = True
    scale = 32 / max(height, width)
    box = deploy.union_prompt(generator, foreground, "box")
    assert box.masks is None and box.points is None
    assert torch.allclose(box.boxes, scale * torch.tensor([[9.0, 5.0, 30.0, 20.0]]))
    points = deploy.union_prompt(generator, foreground, "points").points[0].numpy() / scale
    columns, rows = points.round().astype(int).T
    assert len(set(zip(rows, columns, strict=True))) == 10 and foreground[rows, columns].all()
    assert {(5, 9), (20, 30)} <= set(zip(rows, columns, strict=True))  # from the first to the last
    kinds = ("mask", "box", "points")
    noises = [deploy.deployed_noise(generator, image, foreground, kind) for kind in kinds]
    assert np.array_equal(noises[0], deploy.deployed_noise(generator, image, foreground))
    assert all(np.abs(noises[0] - noise).max() > 1e-3 for noise in noises[1:])
    for kind, noise in zip(kinds, noises, strict=True):
        pair = list(deploy.batch_noise(generator, [image, image], [foreground, foreground], kind))
        assert np.allclose(pair[0], noise, atol=1e-5) and np.allclose(pair[1], noise, atol=1e-5)
    one = np.zeros((height, width), bool)
    one[3, 7] = True  # fewer pixels than points: they repeat
    assert np.isfinite(deploy.deployed_noise(generator, image, one, "points")).all()


def test_the_deployed_prompt_is_no_part_of_the_training(tmp_path):
    from bench.plan import make_plan
    from bench.spec import Matrix
    from bench.store import Store

    def plan(options):
        protectors = [{"name": "unseg", "options": options}]
        matrix = Matrix(protectors=protectors, victims=["unetplusplus"], profile="ci", controls=False)
        return {stage.kind: stage for stage in make_plan(matrix, Store(tmp_path)).stages}

    plain, box = plan({}), plan({"deployment_prompt": "box"})
    assert plain["fit"].key == box["fit"].key and plain["protect"].key != box["protect"].key
    assert plan({"deployment_prompt": "mask"})["protect"].key == plain["protect"].key
    assert "deployment_prompt" not in plain["protect"].identity["options"]
