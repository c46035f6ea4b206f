"""Draws the scenes of `shapes`, one image at a time, from `(seed, index)` alone.

Every scene is a textured background with two to four textured objects. What makes it hard, and why:

* a class is decided by the global outline only. Colours and textures are drawn from one distribution for
  background, objects and distractors, so no local statistic gives a class away;
* edges are crisp. With soft edges a small network learns next to nothing in minutes, and an unlearnable
  example cannot be told from an untrainable one;
* a share of the objects are unlabelled distractors of other outlines, so "textured patch" is no class either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = ("disc", "square", "triangle", "star", "ring")
"""The labelled outlines. Class index in a label map is position + 1; 0 is background."""

DISTRACTORS = ("ellipse", "cross", "bar", "trefoil")
"""Outlines that are drawn and never labelled."""


@dataclass(frozen=True)
class SceneOptions:
    """How a scene is drawn. Every field changes pixels.

    Attributes:
        size: Side of the square image in pixels.
        min_objects: Least number of objects, distractors included.
        max_objects: Greatest number of objects.
        distractor_share: Probability in [0, 1] that an object is an unlabelled distractor.
        min_radius: Least object radius as a share of `size`.
        max_radius: Greatest object radius as a share of `size`.
        pixel_noise: Standard deviation of the sensor noise, image range [0, 1].
    """

    size: int = 64
    min_objects: int = 2
    max_objects: int = 4
    distractor_share: float = 0.3
    min_radius: float = 0.14
    max_radius: float = 0.28
    pixel_noise: float = 0.02


@dataclass(frozen=True)
class Scene:
    """One drawn scene.

    Attributes:
        image: `(H, W, 3)` uint8 RGB.
        instances: `(H, W)` uint8; 0 is background or distractor, k is the k-th visible object.
        categories: Class index (1 to 5) of instance 1, 2, ...
    """

    image: np.ndarray
    instances: np.ndarray
    categories: tuple[int, ...]

    @property
    def semantic(self) -> np.ndarray:
        """`(H, W)` uint8 class indices, 0 is background."""
        return np.array((0, *self.categories), np.uint8)[self.instances]


def draw_scene(seed: int, index: int, options: SceneOptions | None = None) -> Scene:
    """Draws scene number `index` of the series `seed`.

    Scenes do not depend on one another, so any subset can be drawn in any order. An object that later
    objects cover completely is dropped, so every instance has at least one pixel.
    """
    options = options or SceneOptions()
    rng = np.random.default_rng([seed, index])
    size = options.size
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32)
    image = _texture(rng, size)
    layers = np.zeros((size, size), np.uint8)
    kinds = [0]
    for _ in range(rng.integers(options.min_objects, options.max_objects + 1)):
        is_distractor = rng.random() < options.distractor_share
        radius = rng.uniform(options.min_radius, options.max_radius) * size
        cy, cx = rng.uniform(0.12, 0.88, 2) * size
        angle = rng.uniform(0, 2 * np.pi)
        u = (np.cos(angle) * (xx - cx) + np.sin(angle) * (yy - cy)) / radius
        v = (-np.sin(angle) * (xx - cx) + np.cos(angle) * (yy - cy)) / radius
        if is_distractor:
            outline = _distractor_outline(DISTRACTORS[rng.integers(len(DISTRACTORS))], u, v)
            layer = 0
        else:
            kind = int(rng.integers(len(CLASSES)))
            outline = _class_outline(CLASSES[kind], u, v)
            kinds.append(kind + 1)
            layer = len(kinds) - 1
        image[outline] = _texture(rng, size)[outline]
        layers[outline] = layer
    image += rng.normal(size=image.shape).astype(np.float32) * options.pixel_noise
    visible = [k for k in range(1, len(kinds)) if (layers == k).any()]
    renumber = np.zeros(len(kinds), np.uint8)
    renumber[visible] = np.arange(1, len(visible) + 1)
    return Scene(
        image=np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8),
        instances=renumber[layers],
        categories=tuple(kinds[k] for k in visible),
    )


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A random colour with a few plane waves and smooth noise, `(H, W, 3)` float32 in [0, 1]."""
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32) / size
    texture = np.zeros((size, size, 3), np.float32) + rng.uniform(0.15, 0.85, 3).astype(np.float32)
    for _ in range(rng.integers(1, 4)):
        frequency, angle, phase = rng.uniform(2, 14), rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
        wave = np.sin(2 * np.pi * frequency * (np.cos(angle) * xx + np.sin(angle) * yy) + phase)
        texture += 0.12 * rng.normal(size=3).astype(np.float32) * wave[..., None]
    coarse = rng.normal(size=(9, 9, 3)).astype(np.float32)
    return np.clip(texture + 0.1 * _upsample(coarse, size), 0, 1)


def _upsample(grid: np.ndarray, size: int) -> np.ndarray:
    """Smooth (cosine) interpolation of an `(n, n, C)` grid to `(size, size, C)`."""
    position = np.linspace(0, len(grid) - 1, size, dtype=np.float32)
    low = np.minimum(position.astype(int), len(grid) - 2)
    weight = (1 - np.cos((position - low) * np.pi)) / 2
    rows = grid[low] * (1 - weight)[:, None, None] + grid[low + 1] * weight[:, None, None]
    return rows[:, low] * (1 - weight)[None, :, None] + rows[:, low + 1] * weight[None, :, None]


def _class_outline(kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    radius = np.hypot(u, v)
    if kind == "disc":
        return radius < 1
    if kind == "square":
        return (np.abs(u) < 0.8) & (np.abs(v) < 0.8)
    if kind == "triangle":
        return (v > -0.6) & (v < 1 - 1.8 * np.abs(u))
    if kind == "star":
        return radius < 0.55 + 0.45 * np.cos(5 * np.arctan2(v, u))
    return (radius < 1) & (radius > 0.55)


def _distractor_outline(kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    if kind == "ellipse":
        return u * u / 0.25 + v * v / 1.4 < 1
    if kind == "cross":
        return ((np.abs(u) < 0.28) & (np.abs(v) < 1)) | ((np.abs(v) < 0.28) & (np.abs(u) < 1))
    if kind == "bar":
        return (np.abs(u) < 1) & (np.abs(v) < 0.4)
    return np.hypot(u, v) < 0.6 + 0.3 * np.cos(3 * np.arctan2(v, u))
