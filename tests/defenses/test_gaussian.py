"""The blur is a blur, the one it says, and never the identity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.ndimage import correlate1d

from bench.errors import SpecError
from bench.seeds import generator
from bench.testing import samples
from defenses.gaussian import GaussianBlur, GaussianBlurOptions


def blur(image: np.ndarray, **options: float) -> np.ndarray:
    return GaussianBlur(GaussianBlurOptions(**options)).transform(image, generator(0))


@pytest.mark.parametrize(("side", "sigma"), [(5, 1.5), (3, 0.6), (7, 1.0), (21, 4.0)])
def test_it_convolves_with_a_gaussian_and_mirrors_the_border(side: int, sigma: float) -> None:
    image = samples()[0].image
    weights = np.exp(-0.5 * ((np.arange(side) - side // 2) / sigma) ** 2)
    expected = image.astype(float)
    for axis in (0, 1):
        expected = correlate1d(expected, weights / weights.sum(), axis, mode="mirror")
    assert np.abs(blur(image, kernel_size=side, sigma=sigma) - expected).max() <= 1.5


def test_the_default_averages_noise_away() -> None:
    rng = generator(1)
    noisy = (128 + 8 * (rng.integers(0, 2, (64, 64, 3)) * 2 - 1)).astype(np.uint8)
    assert blur(noisy).std() < 0.3 * noisy.std()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.floats(1e-3, 5))
def test_settings_that_are_accepted_change_a_textured_image(half: int, sigma: float) -> None:
    image = generator(0).integers(0, 256, (32, 32, 3), np.uint8)
    try:
        result = blur(image, kernel_size=2 * half + 1, sigma=sigma)
    except SpecError:
        assert sigma < 0.5
    else:
        assert not np.array_equal(result, image)


def test_the_identity_of_an_earlier_benchmark_is_refused() -> None:
    with pytest.raises(SpecError, match=r"no blur.*choose sigma"):
        GaussianBlurOptions(kernel_size=3, sigma=0.1)


def test_an_even_kernel_is_refused_with_the_next_odd_one() -> None:
    with pytest.raises(SpecError, match="4 is even: choose 5"):
        GaussianBlurOptions(kernel_size=4)


@pytest.mark.parametrize("options", [{"kernel_size": 1}, {"sigma": 0}, {"sigma": -1}, {"sigma": np.inf}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        GaussianBlurOptions(**options)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (3, 40)])
def test_images_smaller_than_the_kernel_are_blurred(shape: tuple[int, int]) -> None:
    image = generator(0).integers(0, 256, (*shape, 3), np.uint8)
    assert blur(image, kernel_size=21, sigma=4).shape == image.shape
