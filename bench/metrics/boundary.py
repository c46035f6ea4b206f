"""Boundary IoU (Cheng et al., CVPR 2021): the overlap of two masks near their contours.

Only the pixels of each mask that lie within d = max(1, round(0.02 * diagonal)) of its contour are compared, in
Chebyshev distance; the image edge is a contour. Large objects, whose IoU hardly sees their outline, are judged
by it here.
"""

from __future__ import annotations

import numpy as np

BOUNDARY_DILATION = 0.02
"""Width of the boundary band as a share of the image diagonal."""


def boundary_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """IoU of the boundary bands of two masks; 1 if both masks are empty.

    Args:
        predicted: `(H, W)` bool.
        truth: `(H, W)` bool.
    """
    width = boundary_width(*truth.shape)
    bands = [boundary_band(mask, width) for mask in (predicted, truth)]
    union = np.count_nonzero(bands[0] | bands[1])
    return float(np.count_nonzero(bands[0] & bands[1]) / union) if union else 1.0


def boundary_width(height: int, width: int) -> int:
    """Width d in pixels of the boundary band of an image."""
    return max(1, round(BOUNDARY_DILATION * float(np.hypot(height, width))))


def boundary_band(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of `mask` within Chebyshev distance `width` of a pixel outside it, the outside included.

    Args:
        mask: `(H, W)` bool.
        width: Pixels, at least 1.
    """
    from scipy.ndimage import minimum_filter

    eroded = minimum_filter(mask.astype(np.uint8), size=2 * width + 1, mode="constant", cval=0)
    return mask & (eroded == 0)
