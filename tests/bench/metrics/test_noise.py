"""Strength, spectrum and repetition of noise, on noise whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.noise import BANDS, NoiseStatistics

GREY = np.full((48, 64, 3), 128, np.uint8)
MASK = np.zeros((48, 64), bool)
MASK[8:40, 12:52] = True


def statistics(*noises: np.ndarray, mask: np.ndarray = MASK) -> dict:
    gathered = NoiseStatistics()
    for noise in noises:
        gathered.update(GREY, (GREY + noise.astype(np.int16)).astype(np.uint8), mask)
    return gathered.summary()


def white(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([-8, 8], GREY.shape)


def test_white_noise_is_flat_and_repeats_nothing() -> None:
    found = statistics(*(white(seed) for seed in range(12)))
    assert found["mean_abs_inside"] == found["mean_abs_outside"] == 8
    assert np.allclose(found["spectrum"], 1, atol=0.1)
    assert found["tile_share"]["1"] < 0.001 and found["tile_share"]["8"] < 0.01


def test_a_tile_is_recognised_at_its_period_and_its_multiples() -> None:
    tile = np.random.default_rng(3).choice([-8, 8], (4, 4, 3))
    tiled = np.tile(tile, (12, 16, 1))
    shares = statistics(tiled, tiled)["tile_share"]
    assert shares["4"] == shares["8"] == pytest.approx(1, abs=1e-3)
    assert shares["2"] < 0.9 and shares["1"] <= shares["2"]


def test_a_tile_that_changes_from_image_to_image_is_none() -> None:
    tiles = [np.tile(np.random.default_rng(s).choice([-8, 8], (4, 4, 3)), (12, 16, 1)) for s in range(30)]
    assert statistics(*tiles)["tile_share"]["4"] < 0.1


def test_one_colour_is_the_lowest_band_and_a_chessboard_the_highest() -> None:
    flat = np.full(GREY.shape, 4)
    assert np.argmax(statistics(flat)["spectrum"]) == 0 and statistics(flat)["tile_share"]["1"] == 1
    board = np.where(np.indices(GREY.shape[:2]).sum(0) % 2, 4, -4)[..., None].repeat(3, 2)
    spectrum = statistics(board)["spectrum"]
    assert np.argmax(spectrum) == BANDS - 1 and max(spectrum[:-1]) == 0
    assert statistics(board)["tile_share"] == {"1": 0, "2": 1, "4": 1, "8": 1}


def test_strength_is_told_apart_by_the_mask() -> None:
    noise = np.where(MASK[..., None], 8, -2).repeat(3, 2)
    found = statistics(noise)
    assert (found["mean_abs_inside"], found["mean_abs_outside"]) == (8, 2)
    assert statistics(noise, mask=np.ones_like(MASK))["mean_abs_outside"] is None


def test_no_noise_and_one_pixel_have_no_spectrum() -> None:
    assert statistics(np.zeros(GREY.shape))["spectrum"] is None
    assert set(statistics(np.zeros(GREY.shape))["tile_share"].values()) == {None}
    gathered = NoiseStatistics()
    gathered.update(GREY[:1, :1], GREY[:1, :1] + 3, np.ones((1, 1), bool))
    assert gathered.summary()["spectrum"] is None and gathered.summary()["mean_abs_inside"] == 3
