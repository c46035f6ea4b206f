"""What is done to every image: protector, budget, codec; and the protector's part of it, batch by batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bench.budget import Budget
from bench.datasets.base import Annotation
from bench.errors import EnvironmentFault
from bench.protect.output import Extras
from bench.protect.prompts import ObjectPrompt, Region, default_region, given_region, mask_annotation
from bench.protector import Protector
from bench.seeds import derive_seed, generator
from bench.spec import Codec

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Loaded:
    """An image as it was read.

    Attributes:
        image: `(H, W, 3)` uint8 RGB.
        annotation: Its labels; None where `objects` point at what is to be protected.
        objects: Prompts; empty with labels.
        extras: What else of the source goes into the protected file.
        notes: What was done to the file to read it.
        hashes: What tells later whether the source is still the same.
    """

    image: np.ndarray
    annotation: Annotation | None
    objects: tuple[ObjectPrompt, ...] = ()
    extras: Extras | None = None
    notes: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Protection:
    """What is done to every image.

    Attributes:
        protector: Who does it.
        state: What its `load` returned.
        budget: The budget.
        codec: How files are stored.
        seed: The user's seed.
        region: What is protected for boxes and points; None takes the default of the prompt.
        precision: `bf16` runs torch's autocast on `device`.
        device: torch device string.
        quick: PNG in half the time; see `bench.protect.output.encode`. The matrix keeps the bytes that it had.
    """

    protector: Protector
    state: Any
    budget: Budget
    codec: Codec
    seed: int = 0
    region: Region | None = None
    precision: Precision = "fp32"
    device: str = "cpu"
    quick: bool = False


@dataclass(frozen=True)
class Result:
    """What the protector made of an image: its noise, or, if it does not add any, the protected image."""

    annotation: Annotation
    noise: np.ndarray | None = None
    protected: Any = None


class Computed:
    """The protector's work on the images of a batch, taken one after the other, in order.

    Args:
        protection: What is done.
        batch: Name and content of each image.
    """

    def __init__(self, protection: Protection, batch: Sequence[tuple[str, Loaded]]) -> None:
        self._protection = protection
        self._run_seed = derive_seed(protection.seed, "protect", protection.protector.name)
        self._batch = list(batch)
        self._noises: Iterator[np.ndarray] | None = None

    def take(self) -> Result | Exception:
        """The result for the next image, or what went wrong with it.

        Raises:
            EnvironmentFault: The device has too little memory.
        """
        try:
            with _precision(self._protection):
                return self._next()
        except EnvironmentFault:
            raise
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":
                raise EnvironmentFault(
                    "the GPU has too little memory: give a smaller --batch-size, or --device cpu"
                ) from error
            return error

    def _next(self) -> Result:
        name, loaded = self._batch[0]
        try:
            return self._result(name, loaded)
        finally:
            del self._batch[0]

    def _result(self, name: str, loaded: Loaded) -> Result:
        protector, state, budget = self._protection.protector, self._protection.state, self._protection.budget
        image, annotation, rng = loaded.image, loaded.annotation, self._rng(name)
        if protector.is_additive and annotation is not None:
            return Result(annotation, self._next_noise())
        if annotation is None:
            region = self._protection.region or default_region(loaded.objects)
            if protector.is_additive:
                noise, annotation = protector.prompted_noise(
                    image, loaded.objects, region, rng, state, self._run_seed
                )
                return Result(annotation, noise)
            annotation = mask_annotation(given_region(*image.shape[:2], loaded.objects, region))
        protected = protector.protect(image, annotation, budget, rng, state, self._run_seed)
        return Result(annotation, protected=protected)

    def _next_noise(self) -> np.ndarray:
        if self._noises is None:
            masked = [(name, loaded) for name, loaded in self._batch if loaded.annotation is not None]
            self._noises = self._protection.protector.noise_batch(
                [loaded.image for _, loaded in masked],
                [loaded.annotation for _, loaded in masked],
                [self._rng(name) for name, _ in masked],
                self._protection.state,
                self._run_seed,
            )
        try:
            return next(self._noises)
        except Exception:
            self._noises = None  # an iterator that failed is at its end: the images after this one begin anew
            raise

    def _rng(self, name: str) -> np.random.Generator:
        return generator(self._protection.seed, "protect", self._protection.protector.name, name)


def _precision(protection: Protection) -> contextlib.AbstractContextManager:
    if protection.precision == "fp32":
        return contextlib.nullcontext()
    import torch

    return torch.autocast(protection.device.partition(":")[0], torch.bfloat16)
