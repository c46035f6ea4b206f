"""How visible a protection is: PSNR, SSIM and the real L-infinity distance of two uint8 images.

Photographs are worked on in bands of rows, so that any size needs little memory beside the images themselves. The
size of a band changes no bit of a result. Nothing here imports torch, because protecting must not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bench.errors import ContractViolation

PEAK = 255.0
WINDOW_SIGMA = 1.5
WINDOW_RADIUS = 5
"""Wang et al. 2004: a Gaussian window of 11x11 pixels, sigma 1.5."""
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
"""The paper's constants, of K1 = 0.01 and K2 = 0.03."""
BAND_VALUES = 1 << 15
"""Channel values of a band of rows in which two images are compared."""
TILE_COLUMNS = 512
"""Columns of a tile in which SSIM is computed."""
TILE_PIXELS = 1 << 15
"""Pixels of such a tile: its dozen float32 planes stay in a core's cache."""
SMALL_PIXELS = 1 << 16
"""Up to this size SSIM is computed in float64 and as a whole, as it always was: what was measured on small images
stays the same to the last bit. Larger ones are computed in float32, around middle grey, which changes 1e-8 on
photographs and at the most 2e-6."""
_MIDDLE = np.float32(128)


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
    squares, inside, outside = _distances(image, protected, foreground)
    return {
        "psnr": _decibels(squares, image.size),
        "ssim": ssim(image, protected),
        "linf_foreground": inside,
        "linf_background": outside,
    }


def summary(rows: Iterable[Row]) -> Row:
    """The visibility of a protected split.

    Args:
        rows: What `compare` returned for each image; other keys are left alone.

    Returns:
        `identical`, the number of unchanged images; `psnr`, the mean over the changed ones, None if there is
        none (leaving the infinite ones out can only lower the mean, so it never flatters a protection);
        `ssim`, the mean over all images, None without images; `linf_foreground` and `linf_background`,
        the greatest of all images.
    """
    peaks, similarities, inside, outside = [], [], 0, 0
    for row in rows:
        if row["psnr"] is not None:
            peaks.append(row["psnr"])
        similarities.append(row["ssim"])
        inside, outside = max(inside, row["linf_foreground"]), max(outside, row["linf_background"])
    return {
        "identical": len(similarities) - len(peaks),
        "psnr": float(np.mean(peaks)) if peaks else None,
        "ssim": float(np.mean(similarities)) if similarities else None,
        "linf_foreground": inside,
        "linf_background": outside,
    }


def psnr(image: np.ndarray, other: np.ndarray) -> float | None:
    """10 log10(255^2 / mean squared error) over all pixels and channels, in decibels.

    Returns:
        None for identical images: their PSNR is infinite, which neither JSON nor a mean can hold.
    """
    squares, _, _ = _distances(image, other, np.ones(image.shape[:2], bool))
    return _decibels(squares, image.size)


def linf(image: np.ndarray, protected: np.ndarray, foreground: np.ndarray) -> tuple[int, int]:
    """Greatest change of a channel value inside and outside the mask, in levels.

    A region without pixels has 0: nothing was changed there.
    """
    _, inside, outside = _distances(image, protected, foreground)
    return inside, outside


def ssim(image: np.ndarray, other: np.ndarray, band_rows: int | None = None) -> float:
    """Mean structural similarity (Wang et al. 2004, eq. 13) of each channel, averaged over channels.

    Local statistics are weighted by the paper's 11x11 Gaussian, sigma 1.5, with K1 = 0.01, K2 = 0.03 and
    L = 255. The window is centred on every pixel and the image mirrored at its edges (as torchmetrics
    does; the paper's own code keeps only windows that fit, and works on luminance). An image smaller than
    the window is mirrored as often as it takes, so images of any size down to 1x1 have a score.

    Args:
        image: `(H, W, 3)` uint8.
        other: `(H, W, 3)` uint8.
        band_rows: Rows of a larger image that are worked on at a time; None chooses. They change time and
            memory, not the score.

    Returns:
        A number in [-1, 1].
    """
    _require_pair(image, other)
    height, width, _ = image.shape
    if height * width <= SMALL_PIXELS:
        similarity = _similarity(image.astype(np.float64), other.astype(np.float64))
        return float(np.mean(similarity))
    band_rows = band_rows or max(1, TILE_PIXELS // min(width, TILE_COLUMNS))
    sums: list[float] = []
    for band_x, band_y in _bands(image, other, band_rows):
        for left in range(0, width, TILE_COLUMNS):
            right = min(left + TILE_COLUMNS, width)
            tile = slice(max(0, left - WINDOW_RADIUS), min(width, right + WINDOW_RADIUS))
            similarity = _tile_similarity(band_x[:, tile], band_y[:, tile])
            similarity = similarity[:, left - tile.start : right - tile.start]
            # Sums of rows, and then their exact sum: the same however many rows are worked on at a time.
            sums.extend(similarity.reshape(len(similarity), -1).sum(1, dtype=np.float64))
    return math.fsum(sums) / image.size


def _bands(image: np.ndarray, other: np.ndarray, band_rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Bands of rows of both images with five rows more on each side, mirrored at the images' ends."""
    lines = np.pad(np.arange(len(image)), WINDOW_RADIUS, mode="reflect")
    for top in range(0, len(image), band_rows):
        rows = lines[top : min(top + band_rows, len(image)) + 2 * WINDOW_RADIUS]
        yield image[rows], other[rows]


def _similarity(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Structural similarity at each pixel and channel of `(H, W, 3)` float64 images."""
    from scipy.ndimage import correlate1d

    weights = _window()

    def mean(values: np.ndarray) -> np.ndarray:
        return correlate1d(
            correlate1d(values, weights, axis=0, mode="mirror"), weights, axis=1, mode="mirror"
        )

    mean_x, mean_y = mean(x), mean(y)
    variance_x = np.maximum(mean(x * x) - mean_x**2, 0)
    variance_y = np.maximum(mean(y * y) - mean_y**2, 0)
    covariance = mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return luminance * structure


def _tile_similarity(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The same in float32 for uint8 tiles with a margin of five rows, which is cut off.

    Written by the difference d = y - x, which is small: 2 mx my = mx^2 + my^2 - md^2, and twice the covariance is
    vx + vy - vd. So float32 is enough, and a window less is filtered.
    """
    import cv2

    weights = _window()

    def mean(values: np.ndarray) -> np.ndarray:
        means = cv2.sepFilter2D(values, -1, weights, weights, borderType=cv2.BORDER_REFLECT_101)
        return means[WINDOW_RADIUS:-WINDOW_RADIUS]

    x = np.subtract(image, _MIDDLE, dtype=np.float32)
    d = np.subtract(other, image, dtype=np.float32)
    y = x + d
    mean_x, mean_d = mean(x), mean(d)
    mean_y = mean_x + mean_d
    variance_d = np.maximum(mean(d * d) - mean_d * mean_d, 0)
    variances = np.maximum(mean(x * x + y * y) - (mean_x * mean_x + mean_y * mean_y), 0)
    mean_x += _MIDDLE
    mean_y += _MIDDLE
    luminance = 1 - mean_d * mean_d / (mean_x * mean_x + mean_y * mean_y + C1)
    return luminance * (1 - variance_d / (variances + C2))


def _window() -> np.ndarray:
    offsets = np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    return weights / weights.sum()


def _distances(image: np.ndarray, other: np.ndarray, foreground: np.ndarray) -> tuple[int, int, int]:
    """The sum of squared differences, and the greatest difference inside and outside the mask."""
    _require_pair(image, other)
    if foreground.shape != image.shape[:2]:
        raise ContractViolation(
            f"the mask has shape {foreground.shape}, its image {image.shape}; both need one height and width"
        )
    count = max(1, BAND_VALUES // (3 * image.shape[1]))
    squares = inside = outside = 0
    for start in range(0, len(image), count):
        rows = slice(start, start + count)
        difference = np.subtract(other[rows], image[rows], dtype=np.int16)
        squares += int(np.square(difference, dtype=np.int32).sum(dtype=np.int64))
        np.abs(difference, out=difference)
        greatest = np.maximum(np.maximum(difference[..., 0], difference[..., 1]), difference[..., 2])
        inside = max(inside, int((greatest * foreground[rows]).max()))
        outside = max(outside, int((greatest * ~foreground[rows]).max()))
    return squares, inside, outside


def _decibels(squares: int, count: int) -> float | None:
    return float(10 * np.log10(PEAK**2 / (squares / count))) if squares else None


def _require_pair(image: np.ndarray, other: np.ndarray) -> None:
    if image.shape != other.shape or image.ndim != 3 or image.dtype != np.uint8 or other.dtype != np.uint8:
        raise ContractViolation(
            f"an image of {image.dtype} {image.shape} was compared with one of {other.dtype} {other.shape}; "
            "both must be uint8 (H, W, 3) of one size"
        )
