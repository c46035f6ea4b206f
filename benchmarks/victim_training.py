"""What the trainer costs per iteration, beside mmengine's own Runner on the same mmseg or mmdet config.

    python benchmarks/victim_training.py [--config NAME_OR_FILE] [--image-size 64] [--iterations 40] [--rounds 5]

Both train the same network from the same start, with the same optimizer, schedule, transforms and batch, on the
same files: scenes of `shapes` in Pascal VOC's layout for mmsegmentation, in COCO's for mmdetection. The Runner
reads them as its users' do, with its library's own dataset class, loading transforms and default hooks. The two
take turns in one process on one thread, with a learning rate of 0: the work of a detector depends on what it has
learned, and both would go their own ways. Each pair gives a ratio; CPU time is the one to compare on a shared
machine. Loading happens in the training's own process on both sides, so that nothing hides behind the network.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.datasets.shapes.dataset import VOC_ROOT, Shapes
from bench.defense import Defense
from bench.training.environment import prepare
from bench.training.model import build_initialised_model
from bench.training.trainer import train
from bench.victim import DataInfo, TrainingRecipe
from victims.config_file import ConfigFile

CONFIGS = ("deeplabv3_r50-d8_4xb4-80k_ade20k-512x512", "mask-rcnn_r50_fpn_1x_coco")
SKIPPED = 5
"""Iterations at the start that do not count."""


class Timer:
    """Wall and CPU time of each iteration, from marks at their starts."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def milliseconds(self) -> tuple[float, float]:
        """Wall and CPU milliseconds per iteration, the mean over all but the first."""
        first, last = self.marks[SKIPPED], self.marks[-1]
        steps = len(self.marks) - 1 - SKIPPED
        return (last[0] - first[0]) / steps * 1000, (last[1] - first[1]) / steps * 1000


def time_ours(recipe: TrainingRecipe, dataset: Shapes, folder: Path) -> tuple[float, float]:
    """The trainer as the harness calls it. Its seeding hook marks each iteration's start."""
    from bench.training import hooks

    timer, plain = Timer(), hooks.SeedHook.before_train_iter

    def marking(self: Any, *args: Any, **kwargs: Any) -> None:
        timer.mark()
        plain(self, *args, **kwargs)

    hooks.SeedHook.before_train_iter = marking
    try:
        train(recipe, dataset, Defense(), folder, seed=0, device="cpu")
    finally:
        hooks.SeedHook.before_train_iter = plain
    return timer.milliseconds()


def time_runner(recipe: TrainingRecipe, dataset: Shapes, folder: Path) -> tuple[float, float]:
    """mmengine's Runner with its default hooks, on the library's own dataset class."""
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    timer = Timer()

    class Marks(Hook):
        def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
            timer.mark()

    runner = Runner(
        model=build_initialised_model(replace(recipe, model=own_model(recipe)), "cpu", seed=0),
        work_dir=str(folder),
        train_dataloader={
            "batch_size": recipe.batch_size,
            "num_workers": 0,
            "sampler": {"type": "InfiniteSampler", "shuffle": True},
            "dataset": own_dataset(recipe, dataset),
        },
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": recipe.iterations},
        optim_wrapper=copy.deepcopy(recipe.optim_wrapper),
        param_scheduler=copy.deepcopy(recipe.param_scheduler),
        # Checkpoints are the one part of the defaults that is left out: ours writes one in two minutes.
        default_hooks={"checkpoint": None},
        custom_hooks=[Marks()],
        randomness={"seed": 0},
        default_scope=recipe.scope,
        log_level="ERROR",
        experiment_name=folder.name,
    )
    runner.train()
    return timer.milliseconds()


def own_model(recipe: TrainingRecipe) -> dict[str, Any]:
    """The model for images in BGR, as the libraries load them."""
    model = copy.deepcopy(recipe.model)
    preprocessor = model["data_preprocessor"]
    preprocessor.update(bgr_to_rgb=not preprocessor.get("rgb_to_bgr", False), rgb_to_bgr=False)
    return model


def own_dataset(recipe: TrainingRecipe, dataset: Shapes) -> dict[str, Any]:
    """The library's dataset class on the same files, with its own loading transforms."""
    transforms = [step for step in copy.deepcopy(recipe.train_pipeline) if step["type"] != "SwapColours"]
    loading: list[dict[str, Any]] = [{"type": "LoadImageFromFile"}]
    if recipe.scope == "mmseg":
        voc = str(dataset.root / VOC_ROOT)
        return {
            "type": "BaseSegDataset",
            "data_root": voc,
            "ann_file": "ImageSets/Segmentation/train.txt",
            "data_prefix": {"img_path": "JPEGImages", "seg_map_path": "SegmentationClass"},
            "img_suffix": ".png",
            "metainfo": {"classes": dataset.classes},
            "pipeline": [*loading, {"type": "LoadAnnotations"}, *transforms],
        }
    things = tuple(category.name for category in dataset.categories if category.is_thing)
    return {
        "type": "CocoDataset",
        "data_root": str(dataset.root),
        "ann_file": "annotations/instances_train.json",
        "data_prefix": {"img": "images/train/"},
        "metainfo": {"classes": things},
        "pipeline": [
            *loading,
            {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
            *transforms,
        ],
    }


def compare(config: str, image_size: int, iterations: int, rounds: int, dataset: Shapes) -> None:
    """Prints both times of each round, and the median ratio."""
    given = ConfigFile.options_of(config)
    if given is None:
        raise SystemExit(f"{config} names no config of mmseg or mmdet")
    given |= {"iterations": iterations, "batch_size": 4, "image_size": image_size}
    victim = ConfigFile(ConfigFile.resolve_options("cpu", given))
    info = DataInfo(dataset.classes, dataset.categories, 64, len(dataset.ids("train")))
    recipe = victim.recipe(info, victim.tasks[0], "scratch", "cpu")
    recipe.optim_wrapper["optimizer"]["lr"] = 0.0
    prepare(recipe.scope, recipe.custom_imports)
    ratios: list[tuple[float, float]] = []
    for index in range(rounds):
        times = []
        order = (time_runner, time_ours) if index % 2 else (time_ours, time_runner)
        for measure in order:
            with tempfile.TemporaryDirectory() as folder:
                times.append(measure(recipe, dataset, Path(folder)))
        theirs, ours = times if index % 2 else times[::-1]
        ratios.append((ours[0] / theirs[0], ours[1] / theirs[1]))
        print(
            f"  Runner {theirs[0]:.0f} ms (CPU {theirs[1]:.0f}), trainer {ours[0]:.0f} ms (CPU {ours[1]:.0f}) "
            f"per iteration: CPU {100 * (ratios[-1][1] - 1):+.1f} %",
            flush=True,
        )
    for index, clock in enumerate(("wall", "CPU")):
        values = sorted(100 * (ratio[index] - 1) for ratio in ratios)
        print(
            f"  {clock}: {statistics.median(values):+.1f} % (rounds {values[0]:+.1f} to {values[-1]:+.1f} %)"
        )


def main() -> None:
    """Compares each config that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", action="append", help="default: one of mmseg's and one of mmdet's")
    parser.add_argument("--image-size", type=int, default=64, help="short side in pixels")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the harness's workers do
    with tempfile.TemporaryDirectory() as folder:
        options = Shapes.resolve_options("cpu", {"train_images": 64, "val_images": 1})
        Shapes(Path(folder), options).generate()
        dataset = Shapes(Path(folder), options)
        for config in arguments.config or CONFIGS:
            print(f"{config}, {arguments.image_size} px, batch 4")
            compare(config, arguments.image_size, arguments.iterations, arguments.rounds, dataset)


if __name__ == "__main__":
    main()
