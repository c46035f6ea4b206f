"""How visible a protection is: PSNR, SSIM and the real L-infinity distance of two uint8 images.

numpy and scipy only, because protecting must not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.errors import ContractViolation

PEAK = 255.0
WINDOW_SIGMA = 1.5
WINDOW_RADIUS = 5
"""Wang et al. 2004: a Gaussian window of 11x11 pixels, sigma 1.5."""
K1, K2 = 0.01, 0.03


Row = dict[str, Any]


def compare(image: np.ndarray, protected: np.ndarray, foreground: np.ndarray) -> Row:
    """The visibility of a protected image.

    Args:
        image: `(H, W, 3)` uint8 source.
        protected: `(H, W, 3)` uint8, as decoded from disk.
        foreground: `(H, W)` bool, the protected mask.

    Returns:
        `psnr` in decibels, None for identical images; `ssim` in [-1, 1]; `linf_foreground` and
        `linf_background`, the greatest change in integer levels inside and outside the mask.

    Raises:
        ContractViolation: Sizes or types differ.
    """
    inside, outside = linf(image, protected, foreground)
    return {
        "psnr": psnr(image, protected),
        "ssim": ssim(image, protected),
        "linf_foreground": inside,
        "linf_background": outside,
    }


def summary(rows: Sequence[Row]) -> Row:
    """The visibility of a protected split.

    Args:
        rows: What `compare` returned for each image; other keys are left alone.

    Returns:
        `identical`, the number of unchanged images; `psnr`, the mean over the changed ones, None if there is
        none (leaving the infinite ones out can only lower the mean, so it never flatters a protection);
        `ssim`, the mean over all images, None without images; `linf_foreground` and `linf_background`,
        the greatest of all images.
    """
    finite = [row["psnr"] for row in rows if row["psnr"] is not None]
    return {
        "identical": len(rows) - len(finite),
        "psnr": float(np.mean(finite)) if finite else None,
        "ssim": float(np.mean([row["ssim"] for row in rows])) if rows else None,
        "linf_foreground": max((row["linf_foreground"] for row in rows), default=0),
        "linf_background": max((row["linf_background"] for row in rows), default=0),
    }


def psnr(image: np.ndarray, other: np.ndarray) -> float | None:
    """10 log10(255^2 / mean squared error) over all pixels and channels, in decibels.

    Returns:
        None for identical images: their PSNR is infinite, which neither JSON nor a mean can hold.
    """
    _require_pair(image, other)
    error = np.mean((image.astype(np.float64) - other.astype(np.float64)) ** 2)
    return float(10 * np.log10(PEAK**2 / error)) if error else None


def ssim(image: np.ndarray, other: np.ndarray) -> float:
    """Mean structural similarity (Wang et al. 2004, eq. 13) of each channel, averaged over channels.

    Local statistics are weighted by the paper's 11x11 Gaussian, sigma 1.5, with K1 = 0.01, K2 = 0.03 and
    L = 255. The window is centred on every pixel and the image mirrored at its edges (as torchmetrics
    does; the paper's own code keeps only windows that fit, and works on luminance). An image smaller than
    the window is mirrored as often as it takes, so images of any size down to 1x1 have a score.

    Args:
        image: `(H, W, 3)` uint8.
        other: `(H, W, 3)` uint8.

    Returns:
        A number in [-1, 1].
    """
    _require_pair(image, other)
    x, y = image.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = np.maximum(_window_mean(x * x) - mean_x**2, 0)
    variance_y = np.maximum(_window_mean(y * y) - mean_y**2, 0)
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float(np.mean(luminance * structure))


def linf(image: np.ndarray, protected: np.ndarray, foreground: np.ndarray) -> tuple[int, int]:
    """Greatest change of a channel value inside and outside the mask, in levels.

    A region without pixels has 0: nothing was changed there.
    """
    _require_pair(image, protected)
    if foreground.shape != image.shape[:2]:
        raise ContractViolation(
            f"the mask has shape {foreground.shape}, its image {image.shape}; both need one height and width"
        )
    distance = np.abs(protected.astype(np.int16) - image.astype(np.int16)).max(-1)
    return int(distance[foreground].max(initial=0)), int(distance[~foreground].max(initial=0))


def _window_mean(values: np.ndarray) -> np.ndarray:
    """Gaussian-weighted local means of each channel of `(H, W, 3)` float64."""
    from scipy.ndimage import correlate1d

    offsets = np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    weights /= weights.sum()
    return correlate1d(correlate1d(values, weights, axis=0, mode="mirror"), weights, axis=1, mode="mirror")


def _require_pair(image: np.ndarray, other: np.ndarray) -> None:
    if image.shape != other.shape or image.ndim != 3 or image.dtype != np.uint8 or other.dtype != np.uint8:
        raise ContractViolation(
            f"an image of {image.dtype} {image.shape} was compared with one of {other.dtype} {other.shape}; "
            "both must be uint8 (H, W, 3) of one size"
        )
