"""Properties of the noise budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from bench.budget import Budget, add_noise, excess
from bench.errors import ContractViolation

SHAPE = (5, 4)
images = arrays(np.uint8, (*SHAPE, 3))
masks = arrays(bool, SHAPE)
noises = arrays(np.float64, (*SHAPE, 3), elements=st.floats(-3, 3))
levels_of = st.floats(0, 255)
budgets = st.builds(
    Budget, kind=st.sampled_from(["mask", "uniform"]), epsilon=levels_of, epsilon_background=levels_of
)


@settings(deadline=None)
@given(images, masks, noises, budgets)
def test_noise_stays_within_the_budget_in_integer_levels(image, mask, noise, budget) -> None:
    levels = budget.levels(mask)
    source = image.copy()
    protected = add_noise(image, noise, levels)
    assert protected.dtype == np.uint8
    assert (np.abs(protected.astype(int) - image) <= np.floor(levels)[..., None]).all()
    assert excess(image, protected, levels) <= 0
    assert np.array_equal(image, source)


@settings(deadline=None)
@given(arrays(np.uint8, (*SHAPE, 3), elements=st.integers(64, 191)), noises, st.floats(0, 64))
def test_noise_is_rounded_to_the_nearest_level_not_truncated(image, noise, epsilon) -> None:
    levels = np.full(SHAPE, epsilon, np.float32)
    wanted = np.clip(noise, -1, 1) * levels[..., None]
    got = add_noise(image, noise, levels).astype(float) - image
    assert (np.abs(got - wanted) <= np.maximum(0.5, epsilon - np.floor(epsilon)) + 1e-5).all()
    inside = np.abs(wanted) <= np.floor(epsilon)
    assert (np.abs(got - wanted)[inside] <= 0.5).all()


@settings(deadline=None)
@given(images, masks, noises)
def test_zero_budget_is_the_identity(image, mask, noise) -> None:
    levels = Budget(epsilon=0, epsilon_background=0).levels(mask)
    assert np.array_equal(add_noise(image, noise, levels), image)


@given(images, noises)
def test_the_full_budget_saturates_and_never_wraps(image, noise) -> None:
    protected = add_noise(image, np.sign(noise), np.full(SHAPE, 255, np.float32))
    assert np.array_equal(protected, np.where(noise > 0, 255, np.where(noise < 0, 0, image)))


@given(masks, budgets)
def test_levels_follow_the_mask_under_the_mask_budget_only(mask, budget) -> None:
    levels = budget.levels(mask)
    assert levels.shape == mask.shape
    assert np.allclose(levels[mask], budget.epsilon)
    outside = budget.epsilon if budget.kind == "uniform" else budget.epsilon_background
    assert np.allclose(levels[~mask], outside)


@given(images, images, st.integers(0, 255))
def test_excess_is_that_of_the_worst_channel(image, other, epsilon) -> None:
    levels = np.full(SHAPE, epsilon, np.float32)
    worst = max(abs(int(a) - int(b)) for a, b in zip(image.flat, other.flat, strict=True))
    assert excess(image, other, levels) == worst - epsilon


def test_a_fractional_budget_allows_whole_levels_only() -> None:
    image = np.full((1, 1, 3), 100, np.uint8)
    levels = np.full((1, 1), 2.9, np.float32)
    assert excess(image, image + np.uint8(2), levels) == 0
    assert excess(image, image + np.uint8(3), levels) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_noise_that_is_not_finite_is_refused(value: float) -> None:
    noise = np.zeros((2, 2, 3))
    noise[1, 1, 2] = value
    with pytest.raises(ContractViolation, match="NaN or infinity"):
        add_noise(np.zeros((2, 2, 3), np.uint8), noise, np.ones((2, 2)))


@pytest.mark.parametrize("shape", [(2, 2), (1, 1, 3), (2, 3, 3), (2, 2, 1)])
def test_noise_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ContractViolation, match="shape"):
        add_noise(np.zeros((2, 2, 3), np.uint8), np.zeros(shape), np.ones((2, 2)))


@pytest.mark.parametrize(
    "protected",
    [np.zeros((1, 1, 3), np.uint8), np.zeros((2, 3, 3), np.uint8), np.zeros((2, 2, 3))],
    ids=["broadcasts", "wider", "float"],
)
def test_excess_refuses_what_it_cannot_compare(protected: np.ndarray) -> None:
    with pytest.raises(ContractViolation):
        excess(np.zeros((2, 2, 3), np.uint8), protected, np.ones((2, 2)))


@pytest.mark.parametrize(
    "options", [{"epsilon": -1}, {"epsilon": 256}, {"epsilon_background": np.nan}, {"kind": "l2"}, {"eps": 8}]
)
def test_impossible_budgets_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        Budget(**options)


def test_the_default_is_the_papers() -> None:
    assert Budget().model_dump() == {"kind": "mask", "epsilon": 8.0, "epsilon_background": 2.0}
