from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ArtifactCorrupt
from bench.metrics.semantic import SemanticMetric
from bench.report import statistics
from bench.report.statistics import (
    Estimate,
    align,
    bootstrap,
    bootstrap_difference,
    bootstrap_seeds,
    bootstrap_seeds_difference,
)
from bench.seeds import generator


def mean_score(counts: np.ndarray) -> np.ndarray:
    """Sum over sum: with ones below, the mean over images, whose distribution is known in closed form."""
    below = counts[..., 1, 0]
    return np.divide(counts[..., 0, 0], below, out=np.full(below.shape, np.nan), where=below > 0)


def as_counts(values: np.ndarray) -> np.ndarray:
    """`(seeds, images)` values as counts whose `mean_score` is their mean over images."""
    values = np.asarray(values, np.float64)
    return np.stack([values, np.ones_like(values)], axis=-1)[..., None]


def covers(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def test_one_seed_gives_an_interval_over_images_only_and_says_so():
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.1, (1, 400))
    estimate = bootstrap(as_counts(values), mean_score, resamples=8000)
    assert estimate.spread == "images"
    assert estimate.single_seed
    assert (estimate.seeds, estimate.images) == (1, 400)
    half = 1.96 * values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=6e-4
    )


def test_many_seeds_without_image_differences_give_the_t_interval():
    half_of_them = np.random.default_rng(1).normal(0.5, 0.02, 15)
    values = np.concatenate([half_of_them, 1 - half_of_them])
    seeds_only = bootstrap_seeds(values.tolist(), resamples=8000)
    assert (seeds_only.spread, seeds_only.images) == ("seeds", None)
    half = 2.045 * values.std(ddof=1) / np.sqrt(30)
    assert (seeds_only.low, seeds_only.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=6e-4
    )
    both = bootstrap(as_counts(np.tile(values[:, None], (1, 7))), mean_score, resamples=8000)
    assert both.spread == "seeds and images"
    assert (both.low, both.high) == pytest.approx((seeds_only.low, seeds_only.high), abs=1e-3)


def test_no_variation_gives_an_interval_of_no_width():
    estimate = bootstrap(as_counts(np.full((3, 10), 0.25)), mean_score)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.25, 0.25, 0.25))
    assert bootstrap_seeds([0.25] * 3).high == pytest.approx(0.25)


def test_a_single_value_has_no_interval():
    assert bootstrap_seeds([0.4]) == Estimate(0.4, None, None, 1, None, "none")
    single = bootstrap(as_counts([[0.4]]), mean_score)
    assert (single.value, single.low, single.spread) == (0.4, None, "none")


def test_undefined_scores_are_left_out():
    assert bootstrap_seeds([None, None]) == Estimate(None, None, None, 0, None, "none")
    estimate = bootstrap_seeds([0.4, None, 0.6])
    assert (estimate.value, estimate.seeds) == (pytest.approx(0.5), 2)
    difference = bootstrap_seeds_difference([0.4, None, 0.6], [0.5, 0.5, None])
    assert (difference.value, difference.seeds) == (pytest.approx(-0.1), 1)
    nothing = np.zeros((2, 5, 2, 1))
    assert bootstrap(nothing, mean_score).value is None


def test_resamples_without_a_defined_score_are_left_out():
    counts = as_counts(np.full((2, 4), 0.5))
    counts[:, 1:] = 0
    estimate = bootstrap(counts, mean_score)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.5, 0.5)


def test_differences_are_paired_by_image_and_by_seed():
    rng = np.random.default_rng(2)
    clean = 0.6 + 0.2 * rng.standard_normal((3, 1)) + 0.2 * rng.standard_normal((3, 50))
    protected = clean - 0.1
    paired = bootstrap_difference(as_counts(protected), as_counts(clean), mean_score)
    assert (paired.value, paired.low, paired.high) == pytest.approx((-0.1, -0.1, -0.1))
    unpaired = bootstrap(as_counts(clean), mean_score)
    assert unpaired.high - unpaired.low > 0.1
    by_seed = bootstrap_seeds_difference(protected.mean(1).tolist(), clean.mean(1).tolist())
    assert (by_seed.low, by_seed.high) == pytest.approx((-0.1, -0.1))


def test_twins_must_match():
    with pytest.raises(ArtifactCorrupt, match="no twins"):
        bootstrap_difference(np.zeros((2, 3, 2, 1)), np.zeros((2, 4, 2, 1)), mean_score)
    with pytest.raises(ArtifactCorrupt, match="no twins"):
        bootstrap_seeds_difference([0.1], [0.1, 0.2])


def test_same_seed_same_interval_whatever_the_chunks(monkeypatch):
    counts = as_counts(np.random.default_rng(3).random((3, 20)))
    first = bootstrap(counts, mean_score, seed=5)
    assert bootstrap(counts, mean_score, seed=5) == first
    assert bootstrap(counts, mean_score, seed=6) != first
    monkeypatch.setattr("bench.report.statistics.CHUNK_WEIGHTS", 100)
    assert bootstrap(counts, mean_score, seed=5) == first


def rows(counts: np.ndarray, ids: list[str]) -> list[dict]:
    return [
        {"image_id": name, "intersection": i.tolist(), "union": u.tolist()}
        for name, (i, u) in zip(ids, counts, strict=True)
    ]


def test_the_value_is_the_dataset_score_and_not_a_mean_over_images():
    rng = np.random.default_rng(4)
    union = rng.integers(1, 100, (2, 6, 3))
    intersection = rng.integers(0, union + 1)
    ids = list("abcdef")
    per_seed = [rows(np.stack(pair, 1), ids) for pair in zip(intersection, union, strict=True)]
    per_seed[1] = per_seed[1][::-1]
    counts = align(per_seed, SemanticMetric.stack_counts)
    assert counts.shape == (2, 6, 2, 3)
    estimate = bootstrap(counts, SemanticMetric.from_counts)
    expected = np.mean([SemanticMetric.rescore(seed_rows) for seed_rows in per_seed])
    assert estimate.value == pytest.approx(expected)
    assert 0 <= estimate.low < expected < estimate.high <= 1


def test_seeds_must_have_been_tested_on_the_same_images():
    counts = np.ones((2, 2, 1))
    stack = SemanticMetric.stack_counts
    with pytest.raises(ArtifactCorrupt, match="different images"):
        align([rows(counts, ["a", "b"]), rows(counts, ["a", "c"])], stack)
    with pytest.raises(ArtifactCorrupt, match="different images"):
        align([rows(counts, ["a", "a"])], stack)


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "image_sd"), [(1, 0.0, 0.1), (3, 0.0, 0.1), (3, 0.02, 0.1), (3, 0.05, 0.02)]
)
def test_intervals_cover_what_they_claim(seeds, seed_sd, image_sd):
    """Scores with a seed effect, an image effect that the seeds share, and noise; 300 simulated studies."""
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        effects = seed_sd * rng.standard_normal((seeds, 1)) + image_sd * rng.standard_normal((1, 40))
        values = 0.5 + effects + 0.02 * rng.standard_normal((seeds, 40))
        hits += covers(bootstrap(as_counts(values), mean_score, resamples=400, seed=trial), 0.5)
    assert 0.90 <= hits / 300 <= 0.99


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_over_few_seeds_cover_what_they_claim(seeds):
    rng = np.random.default_rng(6)
    studies = 0.5 + 0.02 * rng.standard_normal((500, seeds))
    hits = sum(
        covers(bootstrap_seeds(study.tolist(), resamples=400, seed=trial), 0.5)
        for trial, study in enumerate(studies)
    )
    assert 0.90 <= hits / 500 <= 0.99


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_properties(seeds, images, seed):
    rng = np.random.default_rng(seed)
    union = rng.integers(0, 20, (seeds, images, 1, 3))
    counts = np.concatenate([rng.integers(0, union + 1), union], axis=2).astype(float)
    estimate = bootstrap(counts, SemanticMetric.from_counts, resamples=100)
    if estimate.low is not None:
        assert 0 <= estimate.low <= estimate.high <= 1
    assert estimate.spread in ("seeds and images", "images", "seeds", "none")
    assert (estimate.low is None) == (estimate.spread == "none")
    difference = bootstrap_difference(counts, counts, SemanticMetric.from_counts, resamples=100)
    if difference.value is not None:
        assert difference.value == 0
        assert difference.low in (None, 0) and difference.high in (None, 0)


def test_resamples_that_are_kept_are_those_that_would_be_drawn() -> None:
    for seed, images, size in ((0, 5, 7), (0, 5, 7), (1, 5, 7), (0, 6, 7), (0, 5, 8), (0, 5, 7)):
        rng, plain = generator("bootstrap", seed), generator("bootstrap", seed)
        for _ in range(2):  # the second draws from the state that the first one left
            drawn = statistics._multinomial(rng, images, size)
            assert np.array_equal(drawn, plain.multinomial(images, np.full(images, 1 / images), size=size))
        assert rng.random() == plain.random()
