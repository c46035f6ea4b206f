"""LSP: the noise is linearly separable by class, laid as the options say, and spends what it may."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from bench.budget import Budget
from bench.datasets.base import VOID, Annotation, Segment
from bench.datasets.shapes.scenes import Scene, draw_scene
from bench.protector import Protector
from bench.seeds import generator
from protectors.lsp import LSP, LSPOptions
from protectors.random_noise import RandomNoise

WINDOW = 16
"""Side in pixels of the corner of an object's box from which a class is told."""


def annotate(scene: Scene, with_segments: bool = True) -> Annotation:
    segments = tuple(
        Segment(scene.instances == k, category - 1) for k, category in enumerate(scene.categories, start=1)
    )
    return Annotation(scene.semantic, segments if with_segments else (), scene.instances > 0)


def noise_of(annotation: Annotation, seed: int = 0, image_seed: int = 0, **options: object) -> np.ndarray:
    image = np.full((*annotation.semantic.shape, 3), 128, np.uint8)
    return LSP(LSPOptions(**options)).noise(image, annotation, generator(image_seed), None, seed)


def labelled_noise(protector: Protector, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The noise in the corner of each square object's box, and the class: `(N, D)`, `(N,)`.

    Objects are squares so that the outline, which also differs by class, cannot help.
    """
    features, labels = [], []
    for index in range(count):
        rng = generator("layout", index)
        label = int(rng.integers(1, 6))
        top, left = rng.integers(0, 64 - WINDOW, 2)
        semantic = np.zeros((64, 64), np.uint8)
        semantic[top : top + WINDOW, left : left + WINDOW] = label
        mask = semantic > 0
        annotation = Annotation(semantic, (Segment(mask, label - 1),), mask)
        image = np.full((64, 64, 3), 128, np.uint8)
        protected = protector.protect(image, annotation, Budget(), generator("image", index), None, 0)
        window = protected[top : top + WINDOW, left : left + WINDOW].astype(float) - 128
        features.append(window.reshape(2, 8, 2, 8, 3).mean((1, 3)).ravel())
        labels.append(label - 1)
    return np.array(features), np.array(labels)


def logistic_regression_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on the second half of softmax regression trained on the first, by 500 steps of descent."""
    features = np.c_[(features - features.mean(0)) / (features.std(0) + 1e-9), np.ones(len(features))]
    half = len(features) // 2
    train, targets = features[:half], np.eye(5)[labels[:half]]
    weights = np.zeros((features.shape[1], 5))
    for _ in range(500):
        scores = train @ weights
        odds = np.exp(scores - scores.max(1, keepdims=True))
        weights -= 0.5 * train.T @ (odds / odds.sum(1, keepdims=True) - targets) / half
    return float(((features[half:] @ weights).argmax(1) == labels[half:]).mean())


def test_the_class_is_read_off_the_noise_by_a_linear_model() -> None:
    assert logistic_regression_accuracy(*labelled_noise(LSP(), 400)) > 0.95


def test_the_class_is_not_read_off_random_noise() -> None:
    # 200 guesses among five classes: 0.2, and beyond 0.32 with a probability below 1e-4.
    assert logistic_regression_accuracy(*labelled_noise(RandomNoise(), 400)) < 0.32


def test_classes_anchored_to_the_image_are_separable_too() -> None:
    codes = {}
    for label in (1, 2):
        semantic = np.full((64, 64), label, np.uint8)
        whole = Annotation(semantic, (), semantic > 0)
        codes[label] = [noise_of(whole, image_seed=k, anchor="image") for k in range(5)]
    within = max(np.abs(a - b).max() for runs in codes.values() for a in runs for b in runs)
    between = min(np.abs(a - b).max() for a in codes[1] for b in codes[2])
    assert within < 0.75 < between


def test_each_object_gets_a_fresh_sample_of_its_class() -> None:
    semantic = np.zeros((32, 64), np.uint8)
    semantic[:, :24] = semantic[:, 40:] = 2
    annotation = Annotation(semantic, (), semantic > 0)
    noise = noise_of(annotation)
    left, right = noise[:, :24], noise[:, 40:]
    assert not np.array_equal(left, right)
    assert np.array_equal(np.sign(left), np.sign(right))


def test_the_pattern_moves_with_the_object() -> None:
    signs = []
    for top, left in ((0, 0), (3, 5), (30, 17)):
        semantic = np.zeros((64, 64), np.uint8)
        semantic[top : top + 20, left : left + 20] = 3
        noise = noise_of(Annotation(semantic, (), semantic > 0))
        signs.append(np.sign(noise[top : top + 20, left : left + 20]))
    assert np.array_equal(signs[0], signs[1])
    assert np.array_equal(signs[0], signs[2])


def test_regions_stand_in_for_segments_where_a_dataset_has_none() -> None:
    semantic = np.zeros((64, 64), np.uint8)
    semantic[3:30, 5:25] = 2
    semantic[30:60, 34:60] = semantic[2:20, 40:61] = 4
    masks = [semantic == 2, semantic == 4, semantic == 4]
    masks[1][30:], masks[2][:30] = False, False
    segments = tuple(Segment(mask, 0) for mask in masks)
    with_segments, without = (noise_of(Annotation(semantic, given, semantic > 0)) for given in (segments, ()))
    assert np.array_equal(with_segments, without)


def test_segments_of_one_class_that_touch_are_told_apart() -> None:
    semantic = np.zeros((16, 48), np.uint8)
    semantic[:, 4:44] = 1
    halves = [np.zeros_like(semantic, bool) for _ in range(2)]
    halves[0][:, 4:24], halves[1][:, 24:44] = True, True
    annotation = Annotation(semantic, tuple(Segment(half, 0) for half in halves), semantic > 0)
    noise = np.sign(noise_of(annotation))
    assert np.array_equal(noise[:, 4:24], noise[:, 24:44])


def test_codes_belong_to_the_run_not_to_the_image() -> None:
    annotation = annotate(draw_scene(0, 0))
    assert np.array_equal(*(np.sign(noise_of(annotation, seed=4, image_seed=k)) for k in (0, 1)))
    assert not np.array_equal(*(np.sign(noise_of(annotation, seed=k)) for k in (0, 1)))


def test_void_gets_the_pattern_of_the_background() -> None:
    semantic = np.zeros((24, 24), np.uint8)
    plain = noise_of(Annotation(semantic, (), semantic > 0))
    semantic[4:12, 4:12] = VOID
    with_void = noise_of(Annotation(semantic, (), np.zeros(semantic.shape, bool)))
    assert np.array_equal(plain, with_void)


def test_patches_are_flat_and_the_strength_is_the_papers() -> None:
    semantic = np.ones((64, 64), np.uint8)
    noise = noise_of(Annotation(semantic, (), semantic > 0))
    patches = noise.reshape(8, 8, 8, 8, 3)
    assert (patches == patches[:, :1, :, :1]).all()
    assert np.sqrt((noise**2).mean()) == pytest.approx(0.75, abs=0.005)


@pytest.mark.parametrize(
    ("height", "width", "cells"), [(32, 32, 4), (64, 48, 8), (224, 100, 7), (512, 512, 8), (7, 3, 1)]
)
def test_the_patch_follows_the_paper(height: int, width: int, cells: int) -> None:
    assert LSP().noise_grid(height, width) == cells
    semantic = np.zeros((height, width), np.uint8)
    noise = noise_of(Annotation(semantic, (), semantic > 0))
    values = noise.max(2) if height >= width else noise.max(2).T
    assert len(np.unique(values[:, 0])) == cells


def test_the_version_is_raised_when_the_noise_changes() -> None:
    semantic = np.zeros((40, 40), np.uint8)
    semantic[5:30, 8:33] = 2
    annotation = Annotation(semantic, (), semantic > 0)
    image = np.full((40, 40, 3), 128, np.uint8)
    protected = LSP().protect(image, annotation, Budget(), generator(0), None, 0)
    digest = hashlib.sha256(protected.tobytes()).hexdigest()[:16]
    assert (LSP.version, digest) == (1, "fe223ec7470e6336")
