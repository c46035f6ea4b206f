"""Generator, surrogate, noise, prompts and losses against a second implementation that shares no code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import unseg_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from unseg_support import TINY, perturbed, rectangles

from protectors.unseg.generator import NoiseSam
from protectors.unseg.losses import dense_loss, draw_candidates, point_loss, uncertain_points
from protectors.unseg.options import PROMPT_KINDS, Geometry
from protectors.unseg.prompts import Prompts, degraded_masks, make_prompts, resize, tight_boxes
from protectors.unseg.surrogate import ScratchSam, apply_noise

TOLERANCE = 1e-5
FIRST_TOKEN = {"official": 4, "intended": 5}
SUBSETS = [c for n in (1, 2, 3) for c in itertools.combinations(PROMPT_KINDS, n)]
# Wider than elsewhere: over a few channels a layer normalisation blows rounding up.
SMALL = TINY | {"decoder_dim": 32, "mask_channels": 32}
GEOMETRIES = {
    "plain": SMALL,
    "relative positions": SMALL | {"relative_positions": True},
    "windows of 5 on a grid of 12": SMALL
    | {"image_size": 48, "window_size": 5, "depth": 3, "global_blocks": (1,), "relative_positions": True},
    "one window larger than the grid": SMALL | {"window_size": 7, "relative_positions": True},
    "two global blocks": SMALL
    | {"depth": 4, "global_blocks": (1, 3), "window_size": 3, "decoder_depth": 3, "relative_positions": True},
    "patches of 2, four decoder heads": SMALL | {"patch_size": 2, "decoder_heads": 4, "decoder_dim": 48},
}


def shape_of(geometry: Geometry) -> oracle.Shape:
    return oracle.Shape(
        geometry.image_size,
        geometry.num_heads,
        geometry.window_size,
        geometry.global_blocks,
        geometry.decoder_heads,
    )


def inputs(geometry: Geometry, kinds: tuple[str, ...], seed: int = 0) -> tuple[Tensor, Tensor, Prompts]:
    rng = torch.Generator().manual_seed(seed)
    side = geometry.image_size
    image = torch.rand(2, 3, side, side, generator=rng)
    mask = rectangles((1, 2, side // 2, side // 2), (side // 3, 0, side - 1, side - 3), size=side)
    return image, mask, make_prompts(kinds, mask, geometry.output_size, rng)


def precise(prompts: Prompts) -> dict[str, Tensor | None]:
    given = {"boxes": prompts.boxes, "points": prompts.points, "masks": prompts.masks}
    return {name: None if prompt is None else prompt.double() for name, prompt in given.items()}


def oracle_noise(network: NoiseSam, readout: str, image: Tensor, prompts: Prompts) -> Tensor:
    """What the oracle makes of the network's weights, in float64: all that is left is the network's rounding."""
    weights = {name: weight.double() for name, weight in network.state_dict().items()}
    shape = shape_of(network.geometry)
    return oracle.noise(weights, shape, image.double(), FIRST_TOKEN[readout], **precise(prompts))


def assert_same_noise(geometry: Geometry, readout: str, kinds: tuple[str, ...]) -> None:
    network = perturbed(NoiseSam(geometry, readout))
    image, _, prompts = inputs(geometry, kinds)
    with torch.no_grad():
        for mlp in network.mask_decoder.noise_mlp:
            mlp.layers[2].weight *= 0.5  # away from saturation, where noise would agree whatever was wrong
        ours = network(image, prompts)
        theirs = oracle_noise(network, readout, image, prompts)
    assert ours.shape == theirs.shape
    assert ours.std() > 0.05
    assert ((ours.abs() > 0.01) & (ours.abs() < 0.99)).float().mean() > 0.5
    assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize("kinds", SUBSETS, ids="+".join)
@pytest.mark.parametrize("readout", FIRST_TOKEN)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_generator_s_noise_is_the_oracle_s(name, readout, kinds):
    assert_same_noise(Geometry(**GEOMETRIES[name]), readout, kinds)


@pytest.mark.parametrize("kinds", [(), *((kind,) for kind in PROMPT_KINDS)], ids="+".join)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_surrogate_s_logits_are_the_oracle_s(name, kinds):
    geometry = Geometry(**GEOMETRIES[name])
    network = perturbed(ScratchSam(geometry))
    image, _, prompts = inputs(geometry, kinds)
    with torch.no_grad():
        # Logits of the size that they have after training.
        network.mask_decoder.output_hypernetworks_mlps[0].layers[2].weight *= 50
        ours = network(image, prompts)
        weights = {name: weight.double() for name, weight in network.state_dict().items()}
        theirs = oracle.logits(weights, shape_of(geometry), image.double(), **precise(prompts))
    assert ours.shape == theirs.shape
    assert 0.1 < ours.std() < 20
    assert (ours - theirs).abs().max() <= TOLERANCE * max(1, ours.abs().max().item())


@pytest.mark.slow
def test_the_generator_at_the_width_of_vit_b_is_the_oracle_s():
    """SAM's ViT-B at 1024 pixels but for its depth: one windowed and one global block."""
    geometry = Geometry(depth=2, global_blocks=(1,))
    network = NoiseSam(geometry, "official")
    rng = torch.Generator().manual_seed(1)
    for name, weight in network.named_parameters():
        if "rel_pos" in name or "pos_embed" in name or name.endswith("bias"):
            weight.data = 0.05 * torch.randn(weight.shape, generator=rng)
    image, _, prompts = inputs(geometry, ("box", "mask"))
    prompts = prompts.rows(0, 1)
    with torch.no_grad():
        ours = network(image[:1], prompts)
        theirs = oracle_noise(network, "official", image[:1], prompts)
    assert ours.shape == (1, 3, 256, 256)
    assert 0.05 < ours.std() < 0.95
    assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize("readout", FIRST_TOKEN)
def test_noise_depends_on_every_weight_but_those_that_the_method_leaves_out(readout):
    """Otherwise the oracle could agree by not reading a weight that the network does not read either."""
    geometry = Geometry(**GEOMETRIES["windows of 5 on a grid of 12"])
    network = perturbed(NoiseSam(geometry, readout))
    weights = {name: value.double().requires_grad_() for name, value in network.state_dict().items()}
    unread = set(weights)
    for kinds in (("box",), ("points",), ("mask",)):
        image, _, prompts = inputs(geometry, kinds)
        shape, first = shape_of(geometry), FIRST_TOKEN[readout]
        out = oracle.noise(weights, shape, image.double(), first, **precise(prompts))
        # A sum of squares: a plain sum is flat along the directions that a normalisation removes.
        gradients = torch.autograd.grad(out.square().sum(), list(weights.values()), allow_unused=True)
        for name, gradient in zip(list(weights), gradients, strict=True):
            if gradient is not None and gradient.abs().max() > 0:
                unread.discard(name)
    left_out = ("iou_prediction_head.", "output_hypernetworks_mlps.", "point_embeddings.0.")
    assert {name for name in unread if not any(part in name for part in left_out)} == set()
    assert {part for part in left_out if any(part in name for name in unread)} == set(left_out)


@settings(deadline=None, max_examples=20)
@given(
    side=st.integers(4, 40),
    cells=st.integers(2, 24),
    epsilon=st.floats(0.1, 32),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_noised_images_are_the_oracle_s(side, cells, epsilon, share, seed):
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, side, side, generator=rng)
    noise = 2 * torch.rand(2, 3, cells, cells, generator=rng) - 1
    mask = (torch.rand(2, 1, side, side, generator=rng) < 0.5).float()
    ours = apply_noise(image, noise, mask, epsilon, share * epsilon)
    theirs = oracle.noised(image, noise, mask, epsilon, share * epsilon)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.sampled_from([16, 32, 48]))
def test_prompts_and_the_surrogate_s_mask_are_the_oracle_s(seed, side):
    rng = np.random.default_rng(seed)
    corners = []
    for _ in range(3):
        x, y = np.sort(rng.integers(0, side, 2)), np.sort(rng.integers(0, side, 2))
        corners.append((x[0], y[0], x[1], y[1]))
    mask = rectangles(*corners, size=side)
    mask[:, :, :: int(rng.integers(2, 5))] *= rng.integers(0, 2)
    mask[:, 0, side // 2, side // 3] = 1
    assert tight_boxes(mask).tolist() == [oracle.box(plane[0]) for plane in mask]
    assert torch.equal(resize(mask, side // 2).round(), oracle.surrogate_mask(mask, side // 2))
    draw = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(3, 1, side, side, generator=draw)
    ours = degraded_masks(mask, side, draw.manual_seed(seed))
    assert torch.equal(255 * ours, oracle.noisy_mask(mask, side, gaussian))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 99))
def test_both_losses_are_the_oracle_s(seed):
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 1, 8, 8, generator=rng)
    target = (torch.rand(2, 1, 32, 32, generator=rng) < 0.4).float()
    candidates = draw_candidates(2, 40, 3.0, 0.75, rng)
    assert (candidates.offered.shape, candidates.uniform.shape) == ((2, 120, 2), (2, 10, 2))
    expected = oracle.point_loss(logits, target, candidates.offered, candidates.uniform, candidates.certain)
    torch.testing.assert_close(point_loss(logits, target, candidates), expected, atol=TOLERANCE, rtol=0)
    expected = oracle.dense_loss(logits, target)
    torch.testing.assert_close(dense_loss(logits, target), expected, atol=TOLERANCE, rtol=0)


def test_points_lie_as_pointrend_takes_them():
    """mmdet's implementation of PointRend, on the same random numbers."""
    from bench.mmcv_ext import install

    install()
    from mmdet.models.utils import point_sample

    logits = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    theirs = point_sample.get_uncertain_point_coords_with_randomness(logits, None, 60, 3.0, 0.75)
    ours = uncertain_points(logits, draw_candidates(2, 60, 3.0, 0.75, torch.Generator().manual_seed(5)))
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
