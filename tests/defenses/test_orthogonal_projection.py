"""Orthogonal projection: a pattern that follows the classes goes, what does not follow them stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.base import VOID, Annotation
from bench.errors import ContractViolation
from defenses.orthogonal_projection import (
    OrthogonalProjection,
    OrthogonalProjectionOptions,
    blocks,
    majority,
)


def samples(count: int, tile: np.ndarray, seed: int = 0) -> list[tuple[np.ndarray, Annotation]]:
    """Noise images, half of each an object on which a tile is added."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        image = rng.normal(128, 25, (32, 32, 3))
        mask = np.zeros((32, 32), bool)
        mask[:, 16:] = True
        if rng.random() < 0.5:
            mask = ~mask
        image += np.tile(tile, (32 // len(tile), 32 // len(tile), 1)) * mask[..., None]
        annotation = Annotation(mask.astype(np.uint8), (), mask)
        made.append((np.clip(np.rint(image), 0, 255).astype(np.uint8), annotation))
    return made


def response(pairs: list[tuple[np.ndarray, Annotation]], tile: np.ndarray) -> float:
    """How far a tile's response tells the halves apart, in levels."""
    pattern = np.tile(tile, (32 // len(tile), 32 // len(tile), 1)) / np.abs(tile).max()
    inside = np.mean([(image * pattern)[labels.foreground].mean() for image, labels in pairs])
    outside = np.mean([(image * pattern)[~labels.foreground].mean() for image, labels in pairs])
    return float(inside - outside)


def test_a_tile_that_follows_the_objects_is_taken_out_and_little_else() -> None:
    rng = np.random.default_rng(5)
    tile = 8 * rng.choice([-1.0, 1.0], (4, 4, 3))
    pairs = samples(250, tile)
    fitted = OrthogonalProjection().adapt(pairs)
    cleaned = [(fitted.transform(image, rng), labels) for image, labels in pairs]
    assert response(pairs, tile) > 7
    assert abs(response(cleaned, tile)) < 0.15 * response(pairs, tile)
    # One direction of 192: what is left of unrelated noise is nearly all of it.
    change = np.mean(
        [np.square(a[0].astype(float) - b[0]).mean() for a, b in zip(pairs, cleaned, strict=True)]
    )
    assert 0 < change < 0.05 * np.square(25)
    # It holds for images that it was not fitted to.
    others = samples(60, tile, seed=1)
    assert abs(response([(fitted.transform(i, rng), a) for i, a in others], tile)) < 0.25 * response(
        others, tile
    )


def test_nothing_is_taken_where_there_is_one_class() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    annotation = Annotation(np.zeros((20, 30), np.uint8), (), np.zeros((20, 30), bool))
    fitted = OrthogonalProjection().adapt([(image, annotation)])
    assert np.array_equal(fitted.transform(image, np.random.default_rng(0)), image)


def test_the_classifier_is_that_of_the_normal_equations() -> None:
    pairs = samples(8, 6 * np.ones((2, 2, 3)))
    options = OrthogonalProjectionOptions(block=4, ridge=0.1)
    fitted = OrthogonalProjection(options).adapt(pairs)
    x = np.concatenate([blocks(image.astype(float), 4).reshape(-1, 48) for image, _ in pairs])
    y = np.concatenate([np.eye(2)[majority(labels.semantic, 4)] for _, labels in pairs])
    x, y = x - x.mean(0), y - y.mean(0)
    penalty = 0.1 * np.trace(x.T @ x) / 48
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(48), x.T @ y)
    direction = weights[:, 0] / np.linalg.norm(weights[:, 0])
    assert fitted._basis.shape == (48, 1)
    assert abs(abs(fitted._basis[:, 0] @ direction) - 1) < 1e-4


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 30), width=st.integers(1, 30), side=st.integers(2, 9))
def test_blocks_and_majorities_against_loops(height: int, width: int, side: int) -> None:
    rng = np.random.default_rng(height * 31 + width)
    image = rng.integers(0, 256, (height, width, 3)).astype(float)
    semantic = rng.choice(np.array([0, 1, 2, VOID], np.uint8), (height, width))
    tiles, labels = blocks(image, side), majority(semantic, side)
    number = 0
    for row in range(0, height, side):
        for column in range(0, width, side):
            part = image[row : row + side, column : column + side]
            assert np.array_equal(tiles[row // side, column // side][: part.shape[0], : part.shape[1]], part)
            found = semantic[row : row + side, column : column + side].ravel()
            counts = np.bincount(found, minlength=256)
            counts[VOID] += side * side - found.size
            assert labels[number] == counts.argmax()
            number += 1
    assert number == len(labels)


def test_it_must_be_adapted_first() -> None:
    with pytest.raises(ContractViolation, match="not adapted"):
        OrthogonalProjection().transform(np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0))
