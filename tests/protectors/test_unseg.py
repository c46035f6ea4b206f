"""UnSeg at tiny sizes: its parts against brute force, and the whole as the benchmark calls it."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from unseg_support import QUICK, TINY, Scenes, context, rectangles

from bench.budget import Budget
from bench.datasets.base import VOID, Annotation, Segment
from bench.datasets.shapes.scenes import draw_scene
from bench.errors import ArtifactCorrupt, DatasetError, SpecError, TrainingDiverged
from protectors.unseg import UnSeg, UnSegOptions
from protectors.unseg import training as training_module
from protectors.unseg.deploy import deployed_noise, load_generator
from protectors.unseg.generator import NoiseSam
from protectors.unseg.losses import (
    dense_loss,
    draw_candidates,
    point_loss,
    sample_at,
    segmentation_loss,
    uncertain_points,
)
from protectors.unseg.options import PROMPT_KINDS, Geometry
from protectors.unseg.prompts import (
    POINTS,
    Prompts,
    degraded_masks,
    draw_kinds,
    make_prompts,
    random_points,
    tight_boxes,
)
from protectors.unseg.samples import SampleStream, object_masks
from protectors.unseg.surrogate import ScratchSam, apply_noise
from protectors.unseg.training import Training, build_networks


def annotated(foreground: np.ndarray) -> Annotation:
    return Annotation(foreground.astype(np.uint8), (), foreground)


@pytest.fixture(scope="module")
def options() -> UnSegOptions:
    return UnSeg.resolve_options("ci", QUICK)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, options) -> tuple[UnSeg, NoiseSam, Path]:
    folder = tmp_path_factory.mktemp("fitted")
    protector = UnSeg(options)
    protector.fit([Scenes()], context(folder))
    return protector, protector.load(folder / "state", "cpu"), folder


# ---- the networks ------------------------------------------------------------------------------


@pytest.mark.parametrize(("image_size", "patch_size"), [(16, 4), (96, 4), (16, 2), (32, 16)])
def test_generator_and_surrogate_give_four_cells_to_a_token(image_size, patch_size):
    geometry = Geometry(**TINY | {"image_size": image_size, "patch_size": patch_size})
    image = torch.rand(2, 3, image_size, image_size)
    mask = rectangles((2, 3, 9, 8), (0, 0, 5, 15), size=image_size)
    prompts = make_prompts(PROMPT_KINDS, mask, geometry.output_size, torch.Generator())
    noise = NoiseSam(geometry)(image, prompts)
    side = 4 * image_size // patch_size
    assert noise.shape == (2, 3, side, side)
    assert noise.abs().max() <= 1
    assert noise.std() > 0
    assert ScratchSam(geometry)(image, prompts).shape == (2, 1, side, side)


def test_an_image_s_noise_does_not_depend_on_the_batch():
    network = NoiseSam(Geometry(**TINY)).eval()
    image = torch.rand(3, 3, 16, 16)
    mask = rectangles((1, 1, 9, 9), (4, 4, 12, 14), (0, 2, 15, 6), size=16)
    together = network(image, Prompts(masks=255 * mask))
    alone = network(image[1:2], Prompts(masks=255 * mask[1:2]))
    torch.testing.assert_close(together[1:2], alone)


def test_the_noise_parts_bear_the_names_of_the_authors_checkpoints():
    names = {name for name, _ in NoiseSam(Geometry(**TINY)).named_parameters()}
    noise = {name for name in names if "noise_" in name}
    assert {name.split(".")[0] for name in names} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert {".".join(name.split(".")[:2]) for name in noise} == {
        "mask_decoder.noise_token",
        "mask_decoder.noise_mlp",
        "mask_decoder.noise_compress_vit_feat",
        "mask_decoder.noise_embedding_encoder",
        "mask_decoder.noise_embedding_maskfeature",
    }
    assert "mask_decoder.noise_mlp.2.layers.2.weight" in noise


def test_vit_b_has_as_many_trainable_parameters_as_the_authors_and_the_rest_is_sam():
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        network = NoiseSam(Geometry())
        sam = sam_model_registry["vit_b"]()
    noise = [value for name, value in network.named_parameters() if "noise_" in name]
    assert sum(value.numel() for value in noise) == 7_252_544
    shapes = {name: value.shape for name, value in network.state_dict().items() if "noise_" not in name}
    assert shapes == {name: value.shape for name, value in sam.state_dict().items()}


def test_the_authors_index_slip_reads_the_token_before():
    torch.manual_seed(0)
    official, intended = (NoiseSam(Geometry(**TINY), readout) for readout in ("official", "intended"))
    intended.load_state_dict(official.state_dict())
    assert official.mask_decoder.first_read_token == 4
    assert intended.mask_decoder.first_read_token == 5
    image, prompts = torch.rand(1, 3, 16, 16), Prompts(masks=255 * rectangles((2, 2, 9, 9), size=16))
    assert not torch.allclose(official(image, prompts), intended(image, prompts))


def test_apply_noise_spends_the_budget_inside_and_outside_and_stays_an_image():
    image = torch.full((1, 3, 4, 4), 0.5)
    image[0, :, 0, 0] = 1.0
    mask = rectangles((0, 0, 1, 1), size=4)
    noised = apply_noise(image, torch.ones(1, 3, 2, 2), mask, epsilon=8, epsilon_background=2)
    levels = (noised - image) * 255
    assert levels[0, 0, 0, 0] == 0
    torch.testing.assert_close(levels[0, 0, 1, 1], torch.tensor(8.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(levels[0, 0, 3, 3], torch.tensor(2.0), atol=1e-4, rtol=0)


# ---- prompts -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_boxes_are_tight_and_points_lie_on_the_object(data):
    x0, y0 = data.draw(st.tuples(st.integers(0, 11), st.integers(0, 11)))
    x1, y1 = data.draw(st.tuples(st.integers(x0 + 3, 15), st.integers(y0 + 3, 15)))
    mask = rectangles((x0, y0, x1, y1), size=16)
    assert tight_boxes(mask).tolist() == [[x0, y0, x1, y1]]
    points = random_points(mask, torch.Generator().manual_seed(data.draw(st.integers(0, 9))))[0].long()
    assert len({tuple(point) for point in points.tolist()}) == POINTS
    assert mask[0, 0, points[:, 1], points[:, 0]].all()


def test_degraded_masks_are_binary_and_differ_only_near_the_outline():
    mask = rectangles((8, 8, 40, 44), size=64)
    degraded = degraded_masks(mask, 64, torch.Generator().manual_seed(0))
    changed = degraded != mask
    assert set(degraded.unique().tolist()) <= {0.0, 1.0}
    assert changed.any()
    assert not changed[0, 0, 20:30, 20:30].any()
    assert not changed[0, 0, 56:, 56:].any()
    prompt = make_prompts(("mask",), mask, 32, torch.Generator()).masks
    assert prompt.shape == (1, 1, 32, 32)
    assert set(prompt.unique().tolist()) == {0.0, 255.0}


def test_kinds_are_a_nonempty_subset_or_exactly_one_and_small_objects_get_no_points():
    rng = torch.Generator().manual_seed(0)
    large, small = rectangles((2, 2, 9, 9), size=16), rectangles((2, 2, 4, 4), size=16)
    several = {draw_kinds(PROMPT_KINDS, large, True, rng) for _ in range(200)}
    single = {draw_kinds(PROMPT_KINDS, large, False, rng) for _ in range(100)}
    assert len(several) == 7
    assert () not in several
    assert single == {("box",), ("points",), ("mask",)}
    assert {draw_kinds(("box", "points"), small, True, rng) for _ in range(50)} == {("box",)}
    assert draw_kinds(("points",), small, False, rng) == ("box",)


# ---- losses ------------------------------------------------------------------------------------


def brute_force(logits: np.ndarray, target: np.ndarray) -> float:
    total = 0.0
    for plane, truth in zip(logits.reshape(len(logits), -1), target.reshape(len(target), -1), strict=True):
        p = 1 / (1 + np.exp(-plane))
        entropy = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
        total += entropy + 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    return total / len(logits)


def test_the_loss_equals_the_formula_pixel_by_pixel():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(3, 1, 8, 8)), (rng.random((3, 1, 8, 8)) < 0.4).astype(float)
    expected = brute_force(logits, target)
    logits, target = torch.from_numpy(logits), torch.from_numpy(target)
    assert dense_loss(logits, target).item() == pytest.approx(expected, rel=1e-9)
    centres = (torch.arange(8) + 0.5).double() / 8
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    everywhere = torch.stack([x, y], -1).reshape(1, 64, 2).expand(3, -1, -1)
    sampled = segmentation_loss(sample_at(logits, everywhere), sample_at(target, everywhere))
    assert sampled.item() == pytest.approx(expected, rel=1e-9)


def test_points_are_taken_where_the_prediction_is_least_certain():
    logits = torch.linspace(-9, 9, 32).expand(1, 1, 32, 32)
    candidates = draw_candidates(1, 100, 3.0, 0.75, torch.Generator().manual_seed(0))
    points = uncertain_points(logits, candidates)
    distance = (points[0, :, 0] - 0.5).abs()
    assert points.shape == (1, 100, 2)
    # 75 of 300 candidates are kept: those within an eighth of the line where the logit is 0.
    # Beyond the frame logits are 0, so a strip along it counts as uncertain too.
    near_frame = ((points[0] - 0.5).abs() > 0.5 - 0.5 / 32).any(1)
    assert distance[:75][~near_frame[:75]].max() < 0.25
    assert distance[75:].max() > 0.35


def test_the_point_loss_takes_a_target_of_another_size_and_passes_gradients():
    logits = torch.zeros(2, 1, 8, 8, requires_grad=True)
    candidates = draw_candidates(2, 50, 3.0, 0.75, torch.Generator().manual_seed(0))
    candidates = dataclasses.replace(
        candidates, offered=0.1 + 0.8 * candidates.offered, uniform=0.1 + 0.8 * candidates.uniform
    )
    loss = point_loss(logits, rectangles((0, 0, 15, 15), (0, 0, 15, 15), size=16), candidates)
    loss.backward()
    # All logits are 0: the entropy is ln 2, and the dice of a full mask is (P + 1) / (1.5 P + 1) at P points.
    assert loss.item() == pytest.approx(np.log(2) + 1 - 51 / 76, rel=1e-6)
    assert logits.grad.abs().sum() > 0


# ---- samples -----------------------------------------------------------------------------------


def test_objects_are_instances_else_classes_else_the_foreground():
    semantic = np.array([[0, 1, 1], [2, 2, VOID]], np.uint8)
    foreground = (semantic > 0) & (semantic != VOID)
    one = np.array([[False, True, False], [False, False, False]])
    crowd = Segment(foreground, 0, is_crowd=True)
    with_instances = Annotation(semantic, (Segment(one, 0), crowd), foreground)
    without = Annotation(semantic, (), foreground)
    assert [mask.tolist() for mask in object_masks(with_instances, "instances")] == [one.tolist()]
    assert [mask.sum() for mask in object_masks(without, "instances")] == [2, 2]
    assert [mask.sum() for mask in object_masks(with_instances, "union")] == [4]
    assert object_masks(annotated(np.zeros((2, 2), bool)), "instances") == []


@pytest.mark.parametrize("objects", ["instances", "union"])
def test_samples_are_images_with_a_binary_mask_and_a_pass_takes_every_one_once(options, objects):
    chosen = options.model_copy(update={"objects": objects, "batch_size": 3, "jitter": (0.5, 1.5)})
    stream = SampleStream([Scenes(4), Scenes(2, size=33)], chosen, seed=1)
    assert sorted(stream._index(position, 0) for position in range(len(stream))) == list(range(len(stream)))
    image, mask = stream.batch(0)
    assert image.shape == (3, 3, 16, 16)
    assert mask.shape == (3, 1, 16, 16)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert (mask.flatten(1).sum(1) >= 10).all()
    assert 0 <= image.min() <= image.max() <= 1


def test_a_batch_depends_on_its_number_only_and_not_on_the_cache(options):
    cached = SampleStream([Scenes(size=16)], options.model_copy(update={"cache_images": 100}), seed=1)
    uncached = SampleStream([Scenes(size=16)], options.model_copy(update={"cache_images": 0}), seed=1)
    later = cached.batch(7)
    cached.batch(0)
    for stream in (cached, uncached):
        image, mask = stream.batch(7)
        assert torch.equal(image, later[0])
        assert torch.equal(mask, later[1])


def test_a_fit_without_images_or_objects_says_so(options):
    with pytest.raises(DatasetError, match="no training images"):
        SampleStream([Scenes(0)], options, seed=0)
    blank = Scenes(3)
    blank.annotation = lambda split, image_id: annotated(np.zeros((24, 24), bool))
    with pytest.raises(DatasetError, match="no object of 10 pixels"):
        SampleStream([blank], options, seed=0).batch(0)


# ---- training ----------------------------------------------------------------------------------


def test_phases_alternate_and_only_the_learner_moves(options):
    training = Training(options, 0, "cpu")
    stream = SampleStream([Scenes()], options, seed=0)
    learners = []
    while training.step < training.total:
        before = {name: _copy(getattr(training, name)) for name in ("generator", "surrogate")}
        learners.append(learner := training.learner)
        training.advance(*stream.batch(training.step))
        moved = {name for name, state in before.items() if not _same(state, _copy(getattr(training, name)))}
        assert moved == {learner}
    assert learners == ["surrogate"] * 3 + ["generator"] * 6 + ["surrogate"] * 2


@pytest.mark.slow
def test_training_finds_noise_that_makes_unseen_scenes_easy_for_the_surrogate():
    """The method's objective, at the `cpu` profile's settings and half its length.

    Random noise of the same budget writes the mask into the image too, and must not do.
    """
    options = UnSeg.resolve_options("cpu", {"phases": 14})
    training = Training(options, 0, "cpu")
    stream = SampleStream([Scenes(count=200, size=64)], options, seed=0)
    while training.step < training.total:
        training.advance(*stream.batch(training.step))
    unseen = SampleStream(
        [Scenes(count=48, size=64, series=4)], options.model_copy(update={"batch_size": 32}), 0
    )
    image, mask = unseen.batch(0)
    rng = torch.Generator().manual_seed(0)
    prompts = make_prompts(("box",), mask, options.surrogate.output_size, rng)
    with torch.no_grad():
        learnt = training.generator(image, make_prompts(("mask",), mask, options.generator.output_size, rng))
        noises = {
            "learnt": learnt,
            "random": torch.randn(learnt.shape, generator=rng).sign(),
            "none": torch.zeros_like(learnt),
        }
        loss = {
            name: dense_loss(
                training.surrogate(
                    apply_noise(image, noise, mask, options.train_epsilon, options.train_epsilon_background),
                    prompts,
                ),
                mask,
            ).item()
            for name, noise in noises.items()
        }
    assert loss["learnt"] < 0.6 * min(loss["random"], loss["none"]), loss


def test_trainable_noise_leaves_sam_as_it_is(options):
    frozen = options.model_copy(update={"trainable": "noise"})
    training = Training(frozen, 0, "cpu")
    stream = SampleStream([Scenes()], frozen, seed=0)
    before = _copy(training.generator)
    for step in range(4):
        training.advance(*stream.batch(step))
    after = _copy(training.generator)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("noise_" in name for name in moved)


def test_label_modification_changes_the_generator_s_target_only(options):
    plain = options.model_copy(update={"label_modification": False})
    modified = options.model_copy(update={"label_modification": True})
    image, mask = SampleStream([Scenes()], options, seed=0).batch(0)

    def loss(chosen, learner):
        return Training(chosen, 0, "cpu").loss(image, mask, learner, torch.Generator().manual_seed(0)).item()

    assert loss(plain, "surrogate") == loss(modified, "surrogate")
    assert loss(plain, "generator") != loss(modified, "generator")


def test_the_surrogate_may_be_smaller_than_the_generator(options):
    halved = options.model_copy(
        update={"surrogate": Geometry(**TINY | {"image_size": 8, "patch_size": 2}), "loss": "points"}
    )
    image, mask = SampleStream([Scenes()], halved, seed=0).batch(0)
    assert Training(halved, 0, "cpu").loss(image, mask, "generator", torch.Generator()).isfinite()


def test_a_diverged_training_is_reported(options):
    training = Training(options, 0, "cpu")
    image, mask = SampleStream([Scenes()], options, seed=0).batch(0)
    with pytest.raises(TrainingDiverged, match="surrogate's loss is nan at step 0"):
        training.advance(image * torch.nan, mask)


def test_an_interrupted_fit_resumes_to_the_same_bytes(tmp_path, fitted):
    def interrupt(done: int, total: int, note: str) -> None:
        if done == 4:
            signal.raise_signal(signal.SIGINT)

    protector, _, folder = fitted
    with pytest.raises(KeyboardInterrupt):
        protector.fit([Scenes()], context(tmp_path, report=interrupt))
    assert not (tmp_path / "state" / training_module.WEIGHTS).exists()
    steps = []
    protector.fit([Scenes()], context(tmp_path, report=lambda done, total, note: steps.append(done)))
    assert steps == [6, 7, 8, 9, 10, 11]
    for name in (training_module.WEIGHTS, training_module.OPTIONS):
        assert (tmp_path / "state" / name).read_bytes() == (folder / "state" / name).read_bytes()


def test_a_checkpoint_of_other_options_or_seed_is_not_resumed(tmp_path, options):
    path = tmp_path / "training.pt"
    training = Training(options, 0, "cpu")
    training.step = 3
    training.save(path)
    resumed = Training(options, 0, "cpu")
    resumed.resume(path)
    assert resumed.step == 3
    for other in (
        Training(options, 1, "cpu"),
        Training(options.model_copy(update={"train_epsilon": 3.0}), 0, "cpu"),
    ):
        with pytest.raises(ArtifactCorrupt, match="start over"):
            other.resume(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactCorrupt, match="cannot be read"):
        resumed.resume(path)


def test_the_seed_decides_the_weights_and_nothing_else_does(options):
    torch.manual_seed(5)
    first = build_networks(options, 0, "cpu")
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    second, other = build_networks(options, 0, "cpu"), build_networks(options, 1, "cpu")
    assert all(_same(_copy(a), _copy(b)) for a, b in zip(first, second, strict=True))
    assert not _same(_copy(first[0]), _copy(other[0]))


# ---- deployment --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_size_gets_noise_of_its_size_within_the_budget(fitted, height, width):
    protector, state, _ = fitted
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    source, foreground = image.copy(), np.zeros((height, width), bool)
    foreground[: (height + 1) // 2] = True
    noise = protector.noise(image, annotated(foreground), rng, state, 0)
    assert noise.shape == (height, width, 3)
    assert np.abs(noise).max() <= 1
    assert noise.any()
    protected = protector.protect(image, annotated(foreground), Budget(), rng, state, 0)
    distance = np.abs(protected.astype(int) - image).max(-1)
    assert distance[foreground].max() <= 8
    assert distance[~foreground].max(initial=0) <= 2
    assert (image == source).all()


def test_without_foreground_the_image_stays_as_it_is(fitted):
    protector, state, _ = fitted
    image = draw_scene(0, 0).image
    empty = annotated(np.zeros(image.shape[:2], bool))
    protected = protector.protect(image, empty, Budget(), np.random.default_rng(0), state, 0)
    assert (protected == image).all()


def test_the_noise_follows_image_and_mask(fitted):
    _, state, _ = fitted
    image, mask = draw_scene(0, 0).image, np.zeros((64, 64), bool)
    mask[:32] = True
    noise = deployed_noise(state, image, mask)
    assert (deployed_noise(state, image, mask) == noise).all()
    assert (deployed_noise(state, draw_scene(0, 1).image, mask) != noise).any()
    assert (deployed_noise(state, image, ~mask) != noise).any()


def test_noise_cells_are_counted_along_the_longer_side(options):
    assert UnSeg(options).noise_grid(500, 375) == 16
    assert UnSeg(options).noise_grid(9, 7) == 9


def test_a_missing_or_foreign_state_is_reported(tmp_path, fitted):
    with pytest.raises(ArtifactCorrupt, match="fit again"):
        load_generator(tmp_path, "cpu")
    _, _, folder = fitted
    for name in (training_module.WEIGHTS, training_module.OPTIONS):
        (tmp_path / name).write_bytes((folder / "state" / name).read_bytes())
    load_generator(tmp_path, "cpu")
    (tmp_path / training_module.WEIGHTS).write_bytes(b"short")
    with pytest.raises(ArtifactCorrupt, match="do not fit the model"):
        load_generator(tmp_path, "cpu")


# ---- options -----------------------------------------------------------------------------------


def test_profiles_resolve_and_what_is_given_prevails():
    for profile in ("ci", "cpu", "gpu", "paper"):
        random = {"generator_init": "random"}  # the paper's SAM leaves no choice of its geometry
        resolved = UnSeg.resolve_options(
            profile, {**random, "generator": {"decoder_depth": 1}, "batch_size": 3}
        )
        untouched = UnSeg.resolve_options(profile, random)
        assert resolved.batch_size == 3
        assert resolved.generator == untouched.generator.model_copy(update={"decoder_depth": 1})
        assert resolved.surrogate == untouched.surrogate
        assert UnSegOptions(**json.loads(untouched.model_dump_json())) == untouched


def test_an_unknown_profile_is_refused():
    with pytest.raises(SpecError, match="no profile 'huge'"):
        UnSeg.resolve_options("huge", {})


def test_paper_is_vit_b_at_the_paper_s_sizes():
    paper = UnSeg.resolve_options("paper", {})
    assert paper.generator == Geometry()
    assert paper.surrogate == Geometry(image_size=512)
    assert paper.label_modification
    assert (paper.phases, paper.batch_size, paper.loss_points) == (27, 32, 12544)
    assert UnSeg(paper).noise_grid(2000, 1000) == 256


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 15},
        {"num_heads": 3},
        {"decoder_heads": 16},
        {"global_blocks": (2,)},
    ],
)
def test_a_geometry_that_does_not_fit_together_is_refused(change):
    with pytest.raises(ValidationError):
        Geometry(**TINY | change)


def _copy(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.named_parameters()}


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)
