"""Augmentations that are fast on small images. They draw from numpy's global generator, as mmcv's do."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomWindow(BaseTransform):
    """Takes a window of fixed size at a random place; outside the image it continues at the other side.

    It is a random crop on larger images, a random roll on images of the window's size, and a tiling of
    smaller ones, so a batch always has one size. Unlike mirroring, it makes no new outlines: an object at
    the border stays cut, and is not joined to its mirror image.

    Args:
        size: `(height, width)` of the window in pixels.
        shift: By how many pixels the window may reach beyond the image.
    """

    def __init__(self, size: tuple[int, int], shift: int = 0) -> None:
        self.size = tuple(size)
        self.shift = shift

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Cuts `img` and `gt_seg_map`."""
        height, width = results["img"].shape[:2]
        rows = self._indices(height, self.size[0])
        columns = self._indices(width, self.size[1])
        for key in ("img", "gt_seg_map"):
            if key in results:
                results[key] = results[key][rows][:, columns]
        results["img_shape"] = results["img"].shape[:2]
        return results

    def _indices(self, length: int, window: int) -> np.ndarray:
        slack = length - window
        low, high = min(slack, 0) - self.shift, max(slack, 0) + self.shift
        start = np.random.randint(low, high + 1)
        return np.arange(start, start + window) % length


@TRANSFORMS.register_module()
class RandomDihedral(BaseTransform):
    """One of the eight symmetries of the square, each with probability 1/8. Needs square images to batch."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Flips and transposes `img` and `gt_seg_map`."""
        vertical, horizontal, transposed = np.random.randint(0, 2, 3)
        for key in ("img", "gt_seg_map"):
            if key in results:
                array = results[key]
                array = array[::-1] if vertical else array
                array = array[:, ::-1] if horizontal else array
                results[key] = np.ascontiguousarray(array.swapaxes(0, 1) if transposed else array)
        results["img_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class RandomBlur(BaseTransform):
    """A Gaussian blur with some probability, part of the default pipeline of the paper's DeepLabV3.

    Args:
        probability: In [0, 1].
        kernel: Side of the kernel in pixels, odd.
    """

    def __init__(self, probability: float = 0.5, kernel: int = 5) -> None:
        self.probability = probability
        self.kernel = kernel

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Blurs `img`."""
        if np.random.random() < self.probability:
            results["img"] = cv2.GaussianBlur(results["img"], (self.kernel, self.kernel), 0)
        return results
