"""Means with 95 % bootstrap intervals over seeds and test images, and paired differences.

What varies. A cell's score depends on the seed of its trainings and on which images happen to be in the test
split. All seeds are tested on the same images, so the design is crossed, not nested: a hard image is hard for
every seed. One resample therefore draws seeds with replacement and one set of images with replacement
that all drawn seeds share (the pigeonhole bootstrap, Owen 2007). Drawing other images for every seed would
average the images' difficulty away and give intervals that are too narrow.

Dataset-level scores (mIoU, IoU, PQ) are recomputed from the summed counts of each resample, never averaged
over images.

Few seeds. Resampling S seeds has a spread of only sqrt((S - 1) / S) of the true one, and S values have no
tails: a plain percentile interval of three values covers about 75 % instead of 95 %. The seeds' part of each
deviation is therefore widened by sqrt(S / (S - 1)) * t / z, which makes it as wide as a t interval (after
the expanded percentile interval of Hesterberg 2015, "What teachers should know about the bootstrap"). The
images' part is left alone.

Differences to the clean twin are paired: the same seeds and the same images are drawn on both sides, so what
both share cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.errors import ArtifactCorrupt
from bench.keys import canonical
from bench.seeds import generator

LEVEL = 0.95
RESAMPLES = 2000
CHUNK_WEIGHTS = 4_000_000
"""Greatest number of image weights held in memory at once."""

Score = Callable[[np.ndarray], np.ndarray]
"""From `(..., keys, classes)` summed counts to `(...)` scores, NaN where undefined."""
Spread = Literal["seeds and images", "images", "seeds", "none"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval.

    Attributes:
        value: Mean over the seeds whose score is defined; None if none is.
        low: Lower end of the interval; None where nothing can be resampled.
        high: Upper end.
        seeds: Number of seeds with a defined score.
        images: Number of test images; None where only a value per seed was given.
        spread: What the interval speaks for. With one seed it can only be the images: such an interval
            says nothing about another training, and the report marks it `n=1`.
    """

    value: float | None
    low: float | None
    high: float | None
    seeds: int
    images: int | None
    spread: Spread

    @property
    def single_seed(self) -> bool:
        """Whether fewer than two seeds stand behind the number."""
        return self.seeds < 2


def align(
    rows_by_seed: Sequence[Sequence[dict[str, Any]]],
    stack_counts: Callable[[Sequence[dict[str, Any]]], np.ndarray],
) -> np.ndarray:
    """Per-image counts of several seeds as one array, image by image.

    Args:
        rows_by_seed: `Scores.per_image` of each seed, in any order of images.
        stack_counts: `Metric.stack_counts` of the task.

    Returns:
        `(seeds, images, keys, classes)` float64, images sorted by id.

    Raises:
        ArtifactCorrupt: The seeds were not tested on the same images, once each.
    """
    ordered = [sorted(rows, key=lambda row: row["image_id"]) for rows in rows_by_seed]
    ids = [[row["image_id"] for row in rows] for rows in ordered]
    for number, seed_ids in enumerate(ids):
        if seed_ids != ids[0] or len(set(seed_ids)) != len(seed_ids):
            raise ArtifactCorrupt(
                f"records to be averaged were tested on different images ({len(ids[0])} in the first, "
                f"{len(seed_ids)} in number {number + 1}, or one twice); evaluate them again on one split"
            )
    return np.stack([stack_counts(rows) for rows in ordered])


def bootstrap(counts: np.ndarray, score: Score, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """A dataset-level score with its interval over seeds and images.

    Args:
        counts: `(seeds, images, keys, classes)` from `align`; at least one seed and one image.
        score: `Metric.from_counts` of the task.
        resamples: Number of resamples.
        seed: Same seed, same interval.
    """
    rng = generator("bootstrap", seed)
    point = score(counts.sum(1))
    (replicates,) = _image_replicates([counts], score, resamples, rng)
    return _estimate(point, replicates, counts.shape[1], rng, limits=(0.0, 1.0))


def bootstrap_difference(
    protected: np.ndarray, clean: np.ndarray, score: Score, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """`score(protected) - score(clean)`, paired by seed and by image.

    Args:
        protected: `(seeds, images, keys, classes)` from `align`.
        clean: The same of the clean twins: seed s and image i are those of `protected`.
        score: `Metric.from_counts` of the task.
        resamples: Number of resamples.
        seed: Same seed, same interval.

    Raises:
        ArtifactCorrupt: The shapes differ, so the cells are no twins.
    """
    _require_twins(protected.shape, clean.shape)
    rng = generator("bootstrap", seed)
    point = score(protected.sum(1)) - score(clean.sum(1))
    of_protected, of_clean = _image_replicates([protected, clean], score, resamples, rng)
    return _estimate(point, of_protected - of_clean, protected.shape[1], rng, limits=(-1.0, 1.0))


def bootstrap_seeds(values: Sequence[float | None], resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean of one score per seed, for scores that are no function of per-image counts (AP).

    Args:
        values: One score per seed; None where undefined.
        resamples: Number of resamples.
        seed: Same seed, same interval.
    """
    point = np.array([np.nan if value is None else value for value in values], np.float64)
    replicates = np.broadcast_to(point, (resamples, len(point)))
    return _estimate(point, replicates, None, generator("bootstrap", seed), limits=(0.0, 1.0))


def bootstrap_seeds_difference(
    protected: Sequence[float | None],
    clean: Sequence[float | None],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The mean of `protected - clean`, paired by seed; a pair with an undefined score is left out.

    Raises:
        ArtifactCorrupt: The numbers of seeds differ.
    """
    _require_twins((len(protected),), (len(clean),))
    point = np.array(
        [np.nan if None in pair else pair[0] - pair[1] for pair in zip(protected, clean, strict=True)],
        np.float64,
    )
    replicates = np.broadcast_to(point, (resamples, len(point)))
    return _estimate(point, replicates, None, generator("bootstrap", seed), limits=(-1.0, 1.0))


def _require_twins(protected: tuple[int, ...], clean: tuple[int, ...]) -> None:
    if protected != clean:
        raise ArtifactCorrupt(
            f"protected and clean records of shapes {protected} and {clean} are no twins; "
            "pair cells of the same seeds, test images and classes"
        )


def _image_replicates(
    arrays: Sequence[np.ndarray], score: Score, resamples: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Scores of each array and seed on resampled images, the same images for all of them.

    Returns:
        One `(resamples, seeds)` array per given array.
    """
    images = arrays[0].shape[1]
    chunk = max(1, CHUNK_WEIGHTS // images)
    parts: list[list[np.ndarray]] = [[] for _ in arrays]
    for start in range(0, resamples, chunk):
        times = _multinomial(rng, images, min(chunk, resamples - start))
        for part, counts in zip(parts, arrays, strict=True):
            # Not `optimize`: a BLAS product's last bits depend on its number of threads.
            part.append(score(np.einsum("bi,sikc->bskc", times, counts)))
    return [np.concatenate(part) for part in parts]


def _multinomial(rng: np.random.Generator, images: int, size: int) -> np.ndarray:
    """How often each image is drawn in each of `size` resamples, `(size, images)`.

    All rows of a table draw from the same state: what was drawn last is kept, with the state that it leaves.
    """
    before = canonical(rng.bit_generator.state)
    if _drawn.get("key") != (before, images, size):
        times = rng.multinomial(images, np.full(images, 1 / images), size=size)
        times.flags.writeable = False
        _drawn.update(key=(before, images, size), times=times, after=rng.bit_generator.state)
    rng.bit_generator.state = _drawn["after"]
    return _drawn["times"]


_drawn: dict[str, Any] = {}


def _estimate(
    point: np.ndarray,
    replicates: np.ndarray,
    images: int | None,
    rng: np.random.Generator,
    limits: tuple[float, float],
) -> Estimate:
    """Mean and interval from `(seeds,)` scores and `(resamples, seeds)` scores on resampled images."""
    defined = ~np.isnan(point)
    point, replicates = point[defined], replicates[:, defined]
    seeds = len(point)
    spread = _spread(seeds, images)
    if not seeds:
        return Estimate(None, None, None, 0, images, spread)
    value = float(point.mean())
    if spread == "none":
        return Estimate(value, None, None, seeds, images, spread)
    times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(replicates))
    seed_part = times @ point / seeds - value
    # A resample in which a seed's score is undefined (all its classes drawn away) speaks for the other seeds.
    usable = ~np.isnan(replicates)
    weight = (times * usable).sum(1)
    kept = weight > 0
    means = (times * np.where(usable, replicates, 0.0)).sum(1)[kept] / weight[kept]
    deviations = means - value + (_widening(seeds) - 1) * seed_part[kept]
    tail = (1 - LEVEL) / 2
    low, high = np.clip(value + np.quantile(deviations, [tail, 1 - tail]), *limits)
    return Estimate(value, float(low), float(high), seeds, images, spread)


def _spread(seeds: int, images: int | None) -> Spread:
    over_images = images is not None and images > 1
    if seeds > 1:
        return "seeds and images" if over_images else "seeds"
    return "images" if seeds and over_images else "none"


def _widening(seeds: int) -> float:
    """sqrt(S / (S - 1)) * t / z for the spread of S seeds; 1 for one seed, which has no spread."""
    if seeds < 2:
        return 1.0
    from scipy.special import ndtri, stdtrit

    upper = (1 + LEVEL) / 2
    return math.sqrt(seeds / (seeds - 1)) * float(stdtrit(seeds - 1, upper) / ndtri(upper))
