"""The random control: its distribution, its grain, and that it knows nothing."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.budget import Budget
from bench.datasets.base import Annotation
from bench.seeds import generator
from bench.testing import samples
from protectors.random_noise import RandomNoise, RandomNoiseOptions


def blank(height: int, width: int) -> tuple[np.ndarray, Annotation]:
    label = np.zeros((height, width), np.uint8)
    return np.full((height, width, 3), 128, np.uint8), Annotation(label, (), label.astype(bool))


def draw(height: int, width: int, seed: int = 0, **options: object) -> np.ndarray:
    image, annotation = blank(height, width)
    plugin = RandomNoise(RandomNoiseOptions(**options))
    return plugin.noise(image, annotation, generator(seed), None, 0)


def test_signs_are_fair_and_independent() -> None:
    noise = draw(96, 128)
    assert set(np.unique(noise)) == {-1.0, 1.0}
    # 36,864 fair coins: a mean beyond 0.026 is a five-sigma event, so is a neighbour correlation.
    assert abs(noise.mean()) < 0.026
    for axis in range(3):
        rolled = np.roll(noise, 1, axis)
        assert abs((noise * rolled).mean()) < 0.026


def test_uniform_noise_has_the_variance_of_a_uniform_variable() -> None:
    noise = draw(96, 128, distribution="uniform")
    assert np.abs(noise).max() <= 1
    assert noise.var() == pytest.approx(1 / 3, abs=0.01)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60))
def test_nearest_cells_are_flat_and_cover_the_padded_square(height: int, width: int, grid: int) -> None:
    side = max(height, width)
    plugin = RandomNoise(RandomNoiseOptions(grid=grid))
    assert plugin.noise_grid(height, width) == min(grid, side)
    noise = draw(height, width, distribution="uniform", grid=grid)
    assert noise.shape == (height, width, 3)
    rows, columns = (len(np.unique(noise.mean((1 - axis, 2)))) for axis in (0, 1))
    for found, length in ((rows, height), (columns, width)):
        cells = {int((i + 0.5) * min(grid, side) / side) for i in range(length)}
        assert found == len(cells)


def test_cells_keep_their_size_on_both_axes() -> None:
    noise = draw(8, 16, grid=4, distribution="uniform")
    for i in range(2):
        for j in range(4):
            cell = noise[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            assert (cell == cell[0, 0]).all()
    assert len(np.unique(noise[..., 0])) == 8


def test_as_many_cells_as_pixels_is_noise_per_pixel() -> None:
    per_pixel = draw(20, 30)
    assert np.array_equal(draw(20, 30, grid=30), per_pixel)
    assert np.array_equal(draw(20, 30, grid=1000), per_pixel)
    assert np.array_equal(draw(20, 30, grid=30, interpolation="bilinear"), per_pixel)
    assert not np.array_equal(draw(20, 30, grid=29), per_pixel)


def test_bilinear_cells_blend_between_centres() -> None:
    coarse = draw(4, 4, seed=3, distribution="uniform")
    fine = draw(8, 8, seed=3, distribution="uniform", grid=4, interpolation="bilinear")
    # With twice the size, pixel 2k+1 lies a quarter of a cell beyond the centre of cell k.
    rows = 0.75 * coarse[:3] + 0.25 * coarse[1:]
    expected = 0.75 * rows[:, :3] + 0.25 * rows[:, 1:]
    assert np.allclose(fine[1:7:2, 1:7:2], expected, atol=1e-6)
    assert np.allclose(fine[0, 0], coarse[0, 0])
    assert np.abs(fine).max() <= np.abs(coarse).max()


def test_it_knows_neither_the_pixels_nor_the_labels() -> None:
    plugin = RandomNoise()
    one, other = samples()[:2]
    noises = [plugin.noise(s.image, s.annotation, generator(5), None, 0) for s in (one, other)]
    assert np.array_equal(*noises)


def test_the_budget_alone_gives_the_mask_away() -> None:
    sample = samples()[0]
    mask = sample.annotation.foreground
    grey = np.full_like(sample.image, 128)
    for kind, inside, outside in (("mask", 8, 2), ("uniform", 8, 8)):
        protected = RandomNoise().protect(grey, sample.annotation, Budget(kind=kind), generator(1), None, 0)
        change = np.abs(protected.astype(int) - grey)
        assert (change[mask] == inside).all()
        assert (change[~mask] == outside).all()


@pytest.mark.parametrize("options", [{"grid": 0}, {"distribution": "normal"}, {"cells": 4}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        RandomNoiseOptions(**options)


def test_the_version_is_raised_when_the_noise_changes() -> None:
    image, annotation = blank(17, 23)
    protected = RandomNoise().protect(image, annotation, Budget(kind="uniform"), generator(0), None, 0)
    digest = hashlib.sha256(protected.tobytes()).hexdigest()[:16]
    assert (RandomNoise.version, digest) == (1, "d148ac5d01d9bce5")


def test_a_tile_is_one_pattern_for_all_images_of_a_run() -> None:
    image, annotation = blank(9, 14)
    plugin = RandomNoise(RandomNoiseOptions(tile=4))
    noise, other = (plugin.noise(image, annotation, generator(rng), None, 5) for rng in (0, 1))
    assert np.array_equal(noise, other)
    assert np.array_equal(noise[:, :10], noise[:, 4:])
    assert np.array_equal(noise[:5], noise[4:])
    assert not np.array_equal(noise[:4, :4], np.full((4, 4, 3), noise[0, 0, 0]))
    assert not np.array_equal(noise, plugin.noise(image, annotation, generator(0), None, 6))
    with pytest.raises(ValidationError, match="tile or grid"):
        RandomNoiseOptions(tile=4, grid=8)
