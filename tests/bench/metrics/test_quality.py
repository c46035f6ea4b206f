from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.errors import ContractViolation
from bench.metrics import quality
from bench.metrics.quality import compare, linf, psnr, ssim, summary

IMAGES = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda size: st.tuples(arrays(np.uint8, (*size, 3)), arrays(np.uint8, (*size, 3)))
)


def pair(shape: tuple[int, int], levels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = 127 + 90 * np.sin(x / 5)[..., None] * np.cos(y / np.array([3, 4, 7])[:, None, None]).transpose(
        1, 2, 0
    )
    image = np.clip(smooth, 0, 255).astype(np.uint8)
    noise = rng.integers(-levels, levels + 1, image.shape)
    return image, np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "levels"), [((11, 11), 8), ((12, 40), 2), ((33, 47), 8), ((64, 64), 60), ((300, 280), 8)]
)
def test_against_torchmetrics(shape, levels):
    import torch
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

    image, other = pair(shape, levels)
    tensors = [torch.tensor(side).permute(2, 0, 1)[None].double() for side in (other, image)]
    structural = StructuralSimilarityIndexMeasure(data_range=255.0).set_dtype(torch.float64)
    assert ssim(image, other) == pytest.approx(float(structural(*tensors)), abs=1e-6)
    peak = PeakSignalNoiseRatio(data_range=255.0)
    assert psnr(image, other) == pytest.approx(float(peak(*tensors)), abs=1e-4)


def test_by_hand():
    image = np.full((16, 16, 3), 100, np.uint8)
    other = image + np.uint8(8)
    assert psnr(image, other) == pytest.approx(20 * np.log10(255 / 8))
    c1 = (0.01 * 255) ** 2
    assert ssim(image, other) == pytest.approx((2 * 100 * 108 + c1) / (100**2 + 108**2 + c1))


def test_identical_images():
    image, _ = pair((20, 20), 8)
    assert psnr(image, image) is None
    assert ssim(image, image) == pytest.approx(1.0)
    assert linf(image, image, np.ones((20, 20), bool)) == (0, 0)


def test_linf_inside_and_outside_the_mask():
    image = np.full((2, 2, 3), 250, np.uint8)
    other = image.copy()
    other[0, 0, 1] = 5
    other[1, 1, 2] = 252
    mask = np.array([[True, False], [False, False]])
    assert linf(image, other, mask) == (245, 2)
    assert linf(other, image, mask) == (245, 2)
    assert linf(image, other, np.zeros((2, 2), bool)) == (0, 245)
    assert linf(image, other, np.ones((2, 2), bool)) == (245, 0)


def test_summary_of_a_split():
    image, other = pair((20, 24), 8)
    mask = np.zeros((20, 24), bool)
    mask[5:10, 5:10] = True
    rows = [{"file": "a", **compare(image, other, mask)}, {"file": "b", **compare(image, image, mask)}]
    assert summary(rows) == {
        "identical": 1,
        "psnr": psnr(image, other),
        "ssim": pytest.approx((ssim(image, other) + 1) / 2),
        "linf_foreground": 8,
        "linf_background": 8,
    }
    assert summary(rows[1:])["psnr"] is None
    assert summary([])["ssim"] is None
    json.dumps([rows, summary(rows), summary([])], allow_nan=False)


def test_pairs_that_do_not_fit_are_refused():
    image = np.zeros((4, 4, 3), np.uint8)
    for other in (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)):
        with pytest.raises(ContractViolation, match="compared with"):
            psnr(image, other)
    with pytest.raises(ContractViolation, match="mask has shape"):
        linf(image, image, np.zeros((2, 2), bool))


@settings(deadline=None, max_examples=60)
@given(IMAGES)
def test_images_smaller_than_the_window(images):
    image, other = images
    value = ssim(image, other)
    assert -1 <= value <= 1
    assert value == pytest.approx(ssim(other, image))
    assert ssim(image, image) == pytest.approx(1.0)


def test_one_pixel_has_luminance_only():
    c1 = (0.01 * 255) ** 2
    value = ssim(np.full((1, 1, 3), 10, np.uint8), np.full((1, 1, 3), 20, np.uint8))
    assert value == pytest.approx((2 * 10 * 20 + c1) / (10**2 + 20**2 + c1))


def test_more_noise_is_more_visible():
    scores = [(psnr(*pair((40, 40), levels)), ssim(*pair((40, 40), levels))) for levels in (1, 4, 16)]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("shape", [(260, 300), (1, 70_000), (70_000, 1), (300, 1100)])
def test_a_photograph_has_the_same_score_in_bands_of_any_height_as_in_one_piece(shape, monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    other = np.clip(image + rng.integers(-8, 9, image.shape), 0, 255).astype(np.uint8)
    assert image[..., 0].size > quality.SMALL_PIXELS
    scores = (
        {ssim(image, other, rows) for rows in (1, 7, 64, 10**6)} if shape[0] < 1000 else {ssim(image, other)}
    )
    assert len(scores) == 1
    assert ssim(image, image) == 1
    peak = psnr(image, other)
    monkeypatch.setattr(quality, "SMALL_PIXELS", 10**9)
    monkeypatch.setattr(quality, "BAND_VALUES", 10**9)
    assert scores.pop() == pytest.approx(ssim(image, other), abs=2e-6)
    assert peak == psnr(image, other)


def test_psnr_is_exact():
    image, other = pair((50, 60), 9)
    error = np.mean((image.astype(np.float64) - other.astype(np.float64)) ** 2)
    assert psnr(image, other) == 10 * np.log10(255**2 / error)
