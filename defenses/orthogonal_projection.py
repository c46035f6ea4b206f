"""`orthogonal_projection`: what tells the classes apart linearly is projected out of the training images.

Sandoval-Segura et al., "What Can We Learn from Unlearnable Datasets?" (NeurIPS 2023), fit a linear classifier to whole
images and project the data onto the complement of its weight vectors: perturbations that hardly differ between the
images of a class are linearly separable, and photographs are not. Adapted to segmentation: the classifier sees blocks
of pixels on the image's grid, its target is the class of most of a block's pixels, and each block is projected.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from pydantic import Field

from bench.datasets.base import VOID, Annotation
from bench.defense import Defense, DefenseOptions, PreprocessingOptions
from bench.errors import ContractViolation

LABELS = 256


class OrthogonalProjectionOptions(PreprocessingOptions):
    """Options of `orthogonal_projection`.

    Attributes:
        block: Side of a block in pixels.
        images: Training images that the classifier is fitted to, the first ones.
        ridge: Weight of the ridge penalty, as a share of the mean variance of a block's values.
    """

    block: int = Field(default=8, ge=2, le=64)
    images: int = Field(default=1000, ge=1)
    ridge: float = Field(default=1e-3, gt=0, allow_inf_nan=False)


class OrthogonalProjection(Defense):
    """Takes the directions of a linear classifier of blocks out of every block.

    The classifier is fitted by ridge regression to the one-hot classes, which has a closed form, where the original
    trains logistic regression by SGD. There is one direction fewer than there are classes.
    """

    name: ClassVar[str] = "orthogonal_projection"
    summary: ClassVar[str] = "projects out of blocks of pixels what tells their classes apart linearly"
    paper: ClassVar[str] = "Sandoval-Segura et al., NeurIPS 2023, arXiv 2305.19254"
    clean_drop: ClassVar[float | None] = 3.0
    time_factor: ClassVar[float] = 1.05
    Options: ClassVar[type[DefenseOptions]] = OrthogonalProjectionOptions
    options: OrthogonalProjectionOptions

    _mean: np.ndarray | None = None
    _basis: np.ndarray | None = None

    def adapt(self, samples: Iterable[tuple[np.ndarray, Annotation]]) -> OrthogonalProjection:
        """A copy whose directions are those of `samples`; see `Defense.adapt`."""
        block = self.options.block
        size = 3 * block * block
        # Statistics of all blocks, so that no more than one image is held.
        count, total = 0, np.zeros(size)
        squares, by_class, of_class = np.zeros((size, size)), np.zeros((LABELS, size)), np.zeros(LABELS)
        for number, (image, annotation) in enumerate(samples):
            if number == self.options.images:
                break
            values = blocks(image.astype(np.float64), block).reshape(-1, size)
            labels = majority(annotation.semantic, block)
            values, labels = values[labels != VOID], labels[labels != VOID]
            count += len(values)
            total += values.sum(0)
            squares += values.T @ values
            np.add.at(by_class, labels, values)
            of_class += np.bincount(labels, minlength=LABELS)
        fitted = copy.copy(self)
        known = np.flatnonzero(of_class)
        mean = total / max(count, 1)
        fitted._mean, fitted._basis = mean.astype(np.float32), np.zeros((size, 0), np.float32)
        if len(known) < 2:
            return fitted
        covariance = squares / count - np.outer(mean, mean)
        correlation = (by_class[known] - of_class[known, None] * mean) / count
        penalty = self.options.ridge * np.trace(covariance) / size
        weights = np.linalg.solve(covariance + max(penalty, 1e-9) * np.eye(size), correlation.T)
        directions, strengths, _ = np.linalg.svd(weights, full_matrices=False)
        fitted._basis = directions[:, strengths > 1e-6 * strengths[0]].astype(np.float32)
        return fitted

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The projected image, `(H, W, 3)` uint8. The same at every draw."""
        if self._mean is None or self._basis is None:
            raise ContractViolation("orthogonal_projection was not adapted before it was used")
        side = self.options.block
        tiles = blocks(image.astype(np.float32), side)
        values = tiles.reshape(-1, self._mean.size)
        values = values - (values - self._mean) @ self._basis @ self._basis.T
        whole = values.reshape(tiles.shape).swapaxes(1, 2)
        rows, columns = tiles.shape[:2]
        pixels = whole.reshape(rows * side, columns * side, 3)[: image.shape[0], : image.shape[1]]
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def blocks(image: np.ndarray, side: int) -> np.ndarray:
    """`(rows, columns, side, side, 3)` blocks of `(H, W, 3)`; the last ones are filled with the border's pixels."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    return padded.reshape(rows, side, columns, side, 3).swapaxes(1, 2)


def majority(semantic: np.ndarray, side: int) -> np.ndarray:
    """The label of most pixels of each block, `(rows * columns,)`; what is filled up counts as void."""
    height, width = semantic.shape
    padded = np.pad(semantic, ((0, -height % side), (0, -width % side)), constant_values=VOID)
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    flat = padded.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows * columns, side * side)
    counts = np.zeros((len(flat), LABELS), np.int32)
    np.add.at(counts, (np.repeat(np.arange(len(flat)), side * side), flat.ravel()), 1)
    return counts.argmax(1)
