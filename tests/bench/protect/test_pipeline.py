"""The pipeline by itself: order, batches, bounds, and images that fail among others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protect_support import mask_of, photo

from bench.budget import Budget
from bench.errors import ContractViolation, DatasetError, EnvironmentFault
from bench.protect import pipeline
from bench.protect.pipeline import Source, protect_items
from bench.protect.prompts import ObjectPrompt, mask_annotation
from bench.protect.protection import Loaded, Protection
from bench.protector import Protector, within_budget
from bench.seeds import derive_seed, generator
from protectors.random_noise import RandomNoise, RandomNoiseOptions


@dataclass(frozen=True)
class Thing:
    index: int
    target: Path

    @property
    def name(self) -> str:
        return f"image {self.index}"


class Batches(Protector):
    """Remembers with whom each image was seen, and lets the batch decide the noise."""

    name = "batches"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def noise_batch(self, images, annotations, rngs, state, run_seed) -> Iterator[np.ndarray]:
        batch = [int(image[0, 0, 0]) for image in images]
        self.seen.append(batch)
        for image in images:
            yield np.full(image.shape, (sum(batch) % 7 - 3) / 3, np.float32)


def load(thing: Thing) -> Loaded:
    image = photo(thing.index)
    image[0, 0, 0] = thing.index
    return Loaded(image, mask_annotation(mask_of(image) > 0))


def things(folder: Path, count: int) -> list[Thing]:
    folder.mkdir(parents=True, exist_ok=True)
    return [Thing(index, folder / f"{index}.png") for index in range(count)]


def source(**changes: Any) -> Source[Thing]:
    return Source(**{"load": load, "pixels": lambda thing: 40 * 56, **changes})


def protection(protector: Protector | None = None, **changes: Any) -> Protection:
    protector = protector or RandomNoise(RandomNoiseOptions(grid=9))
    return Protection(
        **{"protector": protector, "state": None, "budget": Budget(), "codec": "png", **changes}
    )


def read(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_outcomes_come_in_order_and_workers_change_no_byte(tmp_path: Path, workers: int) -> None:
    def unevenly(thing: Thing) -> Loaded:
        time.sleep(0.01 if thing.index % 3 == 0 else 0)
        return load(thing)

    outcomes = list(
        protect_items(protection(), things(tmp_path / "a", 12), source(load=unevenly), workers=workers)
    )
    assert [outcome.item.index for outcome in outcomes] == list(range(12))
    list(protect_items(protection(), things(tmp_path / "b", 12), source()))
    assert read(tmp_path / "a") == read(tmp_path / "b")
    assert len(read(tmp_path / "a")) == 12


def test_a_protected_file_is_what_the_protector_makes_of_the_image(tmp_path: Path) -> None:
    plan = protection(seed=3)
    outcome = next(protect_items(plan, things(tmp_path, 1), source()))
    loaded = load(outcome.item)
    rng = generator(3, "protect", "random", "image 0")
    run_seed = derive_seed(3, "protect", "random")
    expected = plan.protector.protect(loaded.image, loaded.annotation, plan.budget, rng, None, run_seed)
    from bench.datasets.imageio import read_rgb

    assert np.array_equal(read_rgb(outcome.item.target), expected)
    assert outcome.row["linf_foreground"] <= 8
    assert outcome.row["linf_background"] <= 2
    assert outcome.protected_share == pytest.approx(loaded.annotation.foreground.mean())
    assert outcome.row["image"] == "image 0"


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_are_consecutive_files_whatever_is_done_already(tmp_path: Path, workers: int) -> None:
    whole, resumed = Batches(), Batches()
    list(
        protect_items(protection(whole), things(tmp_path / "a", 11), source(), workers=workers, batch_size=4)
    )
    assert whole.seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    items = things(tmp_path / "b", 11)
    done = {0, 1, 2, 3, 4, 6}  # one batch whole, one in part
    outcomes = list(
        protect_items(
            protection(resumed),
            items,
            source(is_done=lambda thing: thing.index in done),
            workers=workers,
            batch_size=4,
        )
    )
    assert resumed.seen == [[4, 5, 6, 7], [8, 9, 10]]
    assert [outcome.item.index for outcome in outcomes if outcome.row is None] == sorted(done)
    for item in items:
        assert item.target.exists() == (item.index not in done)
        if item.index not in done:
            assert item.target.read_bytes() == (tmp_path / "a" / item.target.name).read_bytes()


def test_a_batch_has_no_more_pixels_than_allowed(tmp_path: Path) -> None:
    protector = Batches()
    sizes = {3: pipeline.BATCH_PIXELS}
    list(
        protect_items(
            protection(protector),
            things(tmp_path, 6),
            source(pixels=lambda thing: sizes.get(thing.index, 1)),
            batch_size=4,
        )
    )
    assert protector.seen == [[0, 1, 2], [3], [4, 5]]


def test_what_is_under_way_is_bounded_by_files_and_by_pixels(tmp_path: Path) -> None:
    lock, alive, most = threading.Lock(), set(), []

    def counted(thing: Thing) -> Loaded:
        with lock:
            alive.add(thing.index)
            most.append(len(alive))
        return load(thing)

    def run(pixels: int) -> int:
        alive.clear(), most.clear()
        outcomes = protect_items(
            protection(), things(tmp_path, 60), source(load=counted, pixels=lambda t: pixels), workers=2
        )
        for outcome in outcomes:
            with lock:
                alive.discard(outcome.item.index)
        return max(most)

    assert 2 <= run(1) <= pipeline.FILES_AHEAD * 2
    assert run(pipeline.PIXELS_UNDER_WAY // 3) <= 3
    assert run(pipeline.PIXELS_UNDER_WAY * 2) == 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_image_that_fails_stops_no_other(tmp_path: Path, workers: int, batch_size: int) -> None:
    class Picky(Protector):
        name = "picky"

        def noise(self, image, annotation, rng, state, run_seed):
            index = int(image[0, 0, 0])
            if index == 4:
                raise ValueError("not this one")
            if index == 5:
                return np.zeros((1, 1, 3))
            if index == 6:
                return np.full(image.shape, np.nan)
            if index == 7:
                image[3, 3] += 1
            return np.ones(image.shape)

    def sometimes(thing: Thing) -> Loaded:
        if thing.index == 1:
            raise DatasetError("cannot be read")
        if thing.index == 2:
            raise ZeroDivisionError
        return load(thing)

    outcomes = list(
        protect_items(
            protection(Picky()),
            things(tmp_path, 10),
            source(load=sometimes),
            workers=workers,
            batch_size=batch_size,
        )
    )
    failed = {outcome.item.index: outcome.error for outcome in outcomes if outcome.error}
    assert sorted(failed) == [1, 2, 4, 5, 6, 7]
    assert isinstance(failed[1], DatasetError)
    assert isinstance(failed[4], ValueError)
    assert all(isinstance(failed[index], ContractViolation) for index in (5, 6, 7))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "3.png", "8.png", "9.png"]


def test_a_prompt_that_fails_does_not_break_up_the_batch_around_it(tmp_path: Path) -> None:
    protector = Batches()

    def load_some_pointed_at(thing: Thing) -> Loaded:
        loaded = load(thing)
        box = (900, 900, 910, 910) if thing.index == 1 else (2, 2, 9, 9)
        return Loaded(loaded.image, None, (ObjectPrompt(box=box),)) if thing.index in (1, 2) else loaded

    class Both(Batches):
        def noise(self, image, annotation, rng, state, run_seed):
            return np.ones(image.shape)

    protector = Both()
    outcomes = list(
        protect_items(
            protection(protector), things(tmp_path, 5), source(load=load_some_pointed_at), batch_size=5
        )
    )
    assert protector.seen == [[0, 3, 4]]
    assert [outcome.item.index for outcome in outcomes if outcome.error] == [1]
    assert outcomes[2].row["linf_foreground"] == 8
    assert outcomes[2].protected_share == 64 / (40 * 56)


def test_a_method_that_adds_no_noise_protects_by_itself(tmp_path: Path) -> None:
    class Inverted(Protector):
        name = "inverted"
        bounded = False

        def protect(self, image, annotation, budget, rng, state, run_seed):
            return np.where(annotation.foreground[..., None], 255 - image, image)

    def pointed_at(thing: Thing) -> Loaded:
        return Loaded(load(thing).image, None, (ObjectPrompt(box=(0, 0, 3, 3)),))

    for how in (load, pointed_at):
        outcome = next(protect_items(protection(Inverted()), things(tmp_path, 1), source(load=how)))
        assert outcome.error is None
        assert outcome.row["linf_foreground"] > 8
        assert outcome.row["over_budget_levels"] == outcome.row["linf_foreground"] - 8


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.protect.output.encode", full)
    for workers in (0, 2):
        with pytest.raises(OSError, match="No space"):
            list(protect_items(protection(), things(tmp_path, 5), source(), workers=workers))
    assert not list(tmp_path.iterdir())


def test_a_gpu_without_memory_ends_the_run_with_advice(tmp_path: Path) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    class Large(Protector):
        name = "large"

        def noise(self, *arguments):
            raise OutOfMemoryError("CUDA out of memory")

    with pytest.raises(EnvironmentFault, match="--batch-size"):
        list(protect_items(protection(Large()), things(tmp_path, 2), source()))


@pytest.mark.parametrize("workers", [0, 3])
def test_closing_early_leaves_whole_files_only(tmp_path: Path, workers: int) -> None:
    outcomes = protect_items(protection(), things(tmp_path, 40), source(), workers=workers)
    for _ in range(3):
        next(outcomes)
    outcomes.close()
    assert not list(tmp_path.glob(".*"))
    assert 3 <= len(list(tmp_path.iterdir())) < 40
    before = threading.active_count()
    time.sleep(0.05)
    assert threading.active_count() == before


@pytest.mark.parametrize("budget", [Budget(), Budget(kind="uniform", epsilon=3.5), Budget(epsilon=0)])
def test_noise_is_added_in_bands_as_it_would_be_at_once(
    monkeypatch: pytest.MonkeyPatch, budget: Budget
) -> None:
    from bench.budget import add_noise

    image, rng = photo(1), np.random.default_rng(0)
    noise = rng.uniform(-1.2, 1.2, image.shape).astype(np.float32)
    foreground = mask_of(image) > 0
    whole = add_noise(image, noise, budget.levels(foreground))
    for pixels in (1, 200, 10**9):
        monkeypatch.setattr("bench.protector.BAND_PIXELS", pixels)
        assert np.array_equal(within_budget(image, noise, budget, foreground), whole)
