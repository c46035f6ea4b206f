"""Boundary IoU: by hand, against brute force, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.metrics.boundary import boundary_band, boundary_iou, boundary_width


def brute_band(mask: np.ndarray, width: int) -> np.ndarray:
    """The definition, pixel by pixel: an object pixel with something else in its (2 width + 1)-window."""
    height, length = mask.shape
    band = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        for v in range(y - width, y + width + 1):
            for u in range(x - width, x + width + 1):
                outside = not (0 <= v < height and 0 <= u < length)
                band[y, x] |= outside or not mask[v, u]
    return band


def test_by_hand():
    truth = np.zeros((9, 9), bool)
    truth[1:8, 1:8] = True
    shifted = np.zeros_like(truth)
    shifted[1:8, 2:9] = True
    # Width 1: each band is the ring of 24 pixels of a 7x7 square. Shifted by one they share 12 of the rows above
    # and below, and no column.
    assert boundary_width(9, 9) == 1
    assert boundary_band(truth, 1).sum() == 24
    assert boundary_iou(shifted, truth) == 12 / 36


def test_the_width_is_two_percent_of_the_diagonal_and_at_least_one():
    assert boundary_width(300, 400) == 10
    assert boundary_width(4, 4) == 1


@settings(deadline=None, max_examples=40)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(1, 4))
def test_the_band_against_brute_force(mask, width):
    assert (boundary_band(mask, width) == brute_band(mask, width)).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (60, 80)])
def test_the_score_against_brute_force(shape):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for _ in range(4):
        first, second = (
            np.hypot(y - rng.random() * shape[0], x - rng.random() * shape[1]) <= shape[0] * rng.random()
            for _ in range(2)
        )
        bands = [brute_band(mask, boundary_width(*shape)) for mask in (first, second)]
        union = (bands[0] | bands[1]).sum()
        expected = (bands[0] & bands[1]).sum() / union if union else 1.0
        assert boundary_iou(first, second) == pytest.approx(expected)


def test_two_empty_masks_agree_and_one_does_not():
    empty = np.zeros((5, 5), bool)
    assert boundary_iou(empty, empty) == 1
    assert boundary_iou(~empty, empty) == 0
