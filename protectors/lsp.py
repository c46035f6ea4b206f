"""`lsp`: linearly separable perturbations (Yu et al., KDD 2022), composed from the label map.

The original draws one point per image from Gaussian blobs, one blob per class at a corner of a hypercube, and
paints it over the image in square patches. A segmentation image holds many classes, so here each object is
painted with a point of the blob of its class, and what is no object with one of the background's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.datasets.base import Annotation
from bench.protector import Protector, ProtectorOptions
from bench.seeds import generator

_BACKGROUND = -1
"""Stands for background and void in the place of a class index."""

_SMALL = 64
"""Longer side in pixels up to which the paper's patch for small images is used."""


class LSPOptions(ProtectorOptions):
    """Options of `lsp`.

    Attributes:
        anchor: `instance`: each object gets a fresh point of its class's blob, laid from the corner of its
            box, so that the pattern moves with the object; `image`: one point per class and image, laid from
            the corner of the image.
        patch: Side of a patch in pixels. None follows the paper: 8 in images of up to 64 pixels, a seventh of
            the longer side (32 at 224) in larger ones.
        cells: Patches along a side of a class's pattern. Larger objects see it repeated.
        class_separation: Distance of the hypercube's faces from its centre, in standard deviations of a blob.
        strength: Root mean square of the noise in units of the budget. 0.75 is the paper's 6/255 at 8/255.
    """

    anchor: Literal["instance", "image"] = "instance"
    patch: int | None = Field(default=None, ge=1)
    cells: int = Field(default=8, ge=1, le=64)
    class_separation: float = Field(default=10.0, gt=0)
    strength: float = Field(default=0.75, gt=0, le=1)


class LSP(Protector):
    """Patches whose colours are linearly separable by class; needs no training.

    The paper's noise is bounded in L2 alone. This one is also clipped to the L-infinity budget, and its blobs
    are isotropic Gaussians at random corners, in place of scikit-learn's `make_classification`.
    """

    name: ClassVar[str] = "lsp"
    summary: ClassVar[str] = "linearly separable patches per class, without training"
    paper: ClassVar[str] = "Yu et al., Availability Attacks Create Shortcuts, KDD 2022, arXiv 2111.00898"
    Options: ClassVar[type[ProtectorOptions]] = LSPOptions
    options: LSPOptions

    def noise_grid(self, height: int, width: int) -> int:
        """The patches along the longer side."""
        return -(-max(height, width) // self._patch(height, width))

    def noise(
        self,
        image: np.ndarray,
        annotation: Annotation,
        rng: np.random.Generator,
        state: Any,
        run_seed: int,
    ) -> np.ndarray:
        """`(H, W, 3)` float32 in [-1, 1], from the label map alone.

        Void pixels get the background's pattern. Of overlapping objects the last one is painted.
        """
        height, width = image.shape[:2]
        patch = self._patch(height, width)
        background = self._point(_BACKGROUND, rng, run_seed)
        noise = _lay(background, patch, height, width)
        regions = _instances(annotation) if self.options.anchor == "instance" else _classes(annotation)
        for mask, label in regions:
            top, left, bottom, right = (
                _box(mask) if self.options.anchor == "instance" else (0, 0, height, width)
            )
            inside = mask[top:bottom, left:right]
            pattern = _lay(self._point(label, rng, run_seed), patch, *inside.shape)
            noise[top:bottom, left:right][inside] = pattern[inside]
        return noise

    def _patch(self, height: int, width: int) -> int:
        if self.options.patch is not None:
            return self.options.patch
        side = max(height, width)
        return 8 if side <= _SMALL else max(8, round(side / 7))

    def _point(self, label: int, rng: np.random.Generator, run_seed: int) -> np.ndarray:
        """A point of a class's blob as `(cells, cells, 3)` colours. Its corner is the run's."""
        shape = (self.options.cells, self.options.cells, 3)
        corner = generator(run_seed, "lsp", "class", label).integers(0, 2, shape) * 2 - 1
        point = self.options.class_separation * corner + rng.normal(size=shape)
        point *= self.options.strength / np.sqrt((point**2).mean())
        return point.clip(-1, 1).astype(np.float32)


def _lay(point: np.ndarray, patch: int, height: int, width: int) -> np.ndarray:
    """Patches of `point` from the top left corner of a `(height, width)` field, repeated where it ends."""
    rows, columns = (np.arange(size) // patch % len(point) for size in (height, width))
    return point[rows[:, None], columns]


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom (exclusive) and right (exclusive) of a mask with at least one pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


def _classes(annotation: Annotation) -> Iterator[tuple[np.ndarray, int]]:
    """Each foreground class with its pixels."""
    for label in np.unique(annotation.semantic[annotation.foreground]):
        yield annotation.foreground & (annotation.semantic == label), int(label)


def _instances(annotation: Annotation) -> Iterator[tuple[np.ndarray, int]]:
    """Each object with its class; where a dataset has no instances, each connected region of a class."""
    left = annotation.foreground.copy()
    for segment in annotation.segments:
        mask = segment.mask & annotation.foreground
        if mask.any():
            left &= ~mask
            yield mask, int(np.bincount(annotation.semantic[mask]).argmax())
    if left.any():
        from scipy.ndimage import label as connected_regions

        for label in np.unique(annotation.semantic[left]):
            regions, count = connected_regions(left & (annotation.semantic == label))
            for index in range(1, count + 1):
                yield regions == index, int(label)
