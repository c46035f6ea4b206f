"""What the trainer costs per iteration, beside a bare PyTorch loop on the same model and ready batches.

    python benchmarks/victim_training.py [--victim deeplabv3] [--iterations 60] [--rounds 3]

Both are timed in turn in the same process, on one thread, at the size of the `cpu` profile (64 px). CPU time
is printed beside wall time: on a shared machine it is the one to compare.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from bench.datasets.base import Annotation, Dataset, Split
from bench.datasets.shapes.scenes import CLASSES, draw_scene
from bench.defense import Defense
from bench.training.model import build_initialised_model
from bench.training.samples import TrainingSamples, collate
from bench.training.trainer import train
from bench.victim import DataInfo, TrainingRecipe
from victims.deeplab import DeepLabV3
from victims.unetplusplus import UNetPlusPlus

IMAGES = 64
VICTIMS = {victim.name: victim for victim in (UNetPlusPlus, DeepLabV3)}


class Scenes(Dataset):
    """Scenes of `shapes`, drawn in memory."""

    name: ClassVar[str] = "scenes"

    def __init__(self) -> None:
        super().__init__(Path("memory"))
        self.tasks = frozenset({"semantic"})
        self.classes = ("background", *CLASSES)

    def check(self) -> None:
        pass

    def ids(self, split: Split) -> tuple[str, ...]:
        return tuple(str(index) for index in range(IMAGES))

    def image_path(self, split: Split, image_id: str) -> Path:
        return self.root / image_id

    def files(self) -> Iterator[Path]:
        return iter(())

    def write_copy(self, destination: Path, write_image: Callable[[str, Path, Path], Path]) -> None:
        raise NotImplementedError

    def image(self, split: Split, image_id: str) -> np.ndarray:
        return draw_scene(0, int(image_id)).image

    def annotation(self, split: Split, image_id: str) -> Annotation:
        semantic = draw_scene(0, int(image_id)).semantic
        return Annotation(semantic, (), semantic > 0)


class Timer:
    """Wall and CPU milliseconds per iteration between two calls, start-up excluded."""

    def __init__(self, skipped: int) -> None:
        self.skipped = skipped
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def milliseconds(self) -> tuple[float, float]:
        """Median over the iterations after the first `skipped`."""
        steps = zip(self.marks[self.skipped :], self.marks[self.skipped + 1 :], strict=False)
        differences = [(after[0] - before[0], after[1] - before[1]) for before, after in steps]
        wall, cpu = (statistics.median(column) * 1000 for column in zip(*differences, strict=True))
        return wall, cpu


def time_trainer(recipe: TrainingRecipe, skipped: int) -> tuple[float, float]:
    """The trainer as the harness calls it. Its seeding hook marks each iteration's start."""
    from bench.training import hooks

    timer, plain = Timer(skipped), hooks.SeedHook.before_train_iter

    def marking(self: Any, *args: Any, **kwargs: Any) -> None:
        timer.mark()
        plain(self, *args, **kwargs)

    hooks.SeedHook.before_train_iter = marking
    try:
        with tempfile.TemporaryDirectory() as folder:
            train(recipe, Scenes(), Defense(), Path(folder), seed=0, device="cpu")
    finally:
        hooks.SeedHook.before_train_iter = plain
    return timer.milliseconds()


def time_bare_loop(recipe: TrainingRecipe, skipped: int) -> tuple[float, float]:
    """Forward, backward and optimizer step on batches that are loaded, augmented and normalised already."""
    model = build_initialised_model(recipe, "cpu", seed=0).train()
    samples = TrainingSamples(Scenes(), Defense(), recipe, seed=0)
    batches = []
    for start in range(0, IMAGES, recipe.batch_size):
        loaded = collate(
            [samples[index % IMAGES, index] for index in range(start, start + recipe.batch_size)]
        )
        batches.append(model.data_preprocessor(loaded, True))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    timer = Timer(skipped)
    for iteration in range(recipe.iterations):
        timer.mark()
        loss, _ = model.parse_losses(model(**batches[iteration % len(batches)], mode="loss"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return timer.milliseconds()


def main() -> None:
    """Prints the medians of the rounds and the trainer's overhead."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--victim", choices=VICTIMS, default="unetplusplus")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    victim = VICTIMS[arguments.victim]
    options = victim.resolve_options("cpu", {"iterations": arguments.iterations})
    info = DataInfo(Scenes().classes, (), 64, IMAGES)
    recipe = victim(options).recipe(info, "semantic", "scratch", "cpu")
    skipped = min(10, arguments.iterations // 3)
    rows = []
    for _ in range(arguments.rounds):
        rows.append((time_bare_loop(recipe, skipped), time_trainer(recipe, skipped)))
    for index, clock in enumerate(("wall", "cpu")):
        bare = statistics.median(row[0][index] for row in rows)
        trainer = statistics.median(row[1][index] for row in rows)
        print(
            f"{arguments.victim} batch {recipe.batch_size} {clock}: bare {bare:.1f} ms, "
            f"trainer {trainer:.1f} ms per iteration, {100 * (trainer / bare - 1):+.1f} %"
        )


if __name__ == "__main__":
    main()
