"""The JPEG defense goes once through the codec that its options name."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from bench.seeds import generator
from bench.testing import samples
from defenses.jpeg import JPEGCompression, JPEGOptions


def compress(image: np.ndarray, **options: object) -> np.ndarray:
    return JPEGCompression(JPEGOptions(**options)).transform(image, generator(0))


def test_lower_quality_is_farther_from_the_image() -> None:
    image = samples()[0].image
    errors = [
        np.square(compress(image, quality=q).astype(float) - image).mean() for q in (10, 30, 50, 75, 95)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 4 * errors[-1] > 0


def test_the_default_halves_the_colour_channels() -> None:
    """Red and green columns of one pixel keep their colours only without subsampling."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, ::2, 0] = image[:, 1::2, 1] = 200
    contrast = {
        mode: np.abs(
            np.diff(compress(image, quality=95, subsampling=mode).astype(int), axis=1)[..., 0]
        ).mean()
        for mode in ("4:4:4", "4:2:0")
    }
    assert contrast["4:4:4"] > 2 * contrast["4:2:0"]
    assert JPEGOptions().subsampling == "4:2:0"
    assert JPEGOptions().quality == 10


def test_it_is_pillows_round_trip() -> None:
    image = samples()[1].image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=10, subsampling=2)
    assert np.array_equal(compress(image), np.array(Image.open(buffer)))


def test_quality_ten_removes_noise_of_the_usual_budget() -> None:
    rng = generator(1)
    noise = 8 * (rng.integers(0, 2, (64, 64, 3)) * 2 - 1)
    grey = np.full((64, 64, 3), 128)
    left = compress((grey + noise).astype(np.uint8)).astype(float) - 128
    assert np.square(left).mean() < 0.1 * np.square(noise).mean()


@pytest.mark.parametrize("options", [{"quality": 9}, {"quality": 96}, {"subsampling": "4:1:1"}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        JPEGOptions(**options)
