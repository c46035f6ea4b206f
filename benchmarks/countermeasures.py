"""What an iteration costs under each defense, beside the plain one's, and beside what the defense declares.

    python benchmarks/countermeasures.py [--victim unetplusplus] [--defense at --defense ddc_at] [--rounds 3]

Drawn scenes, profile `cpu`, one thread, CPU time. Defenses take turns in one process. Two trainings of different
lengths give an iteration without the start: what a defense learns before the training is not in it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from bench import registry
from bench.datasets.shapes.dataset import Shapes
from bench.plan import choose_task
from bench.spec import VictimSpec
from bench.stages.train import build_recipe
from bench.training.trainer import train

SHORT, LONG = 4, 16


def seconds(identity: dict, dataset: Shapes, name: str, iterations: int, folder: Path) -> float:
    """CPU seconds of a training under a defense with its default options."""
    identity = {**identity, "victim": {**identity["victim"], "options": dict(identity["victim"]["options"])}}
    identity["victim"]["options"]["iterations"] = iterations
    plugin = registry.load("defense", name)
    defense = plugin(plugin.resolve_options("cpu", {}))
    ids = dataset.ids("train")[:64]
    defense = defense.adapt((dataset.image("train", i), dataset.annotation("train", i)) for i in ids)
    recipe = build_recipe(identity, dataset)
    start = time.process_time()
    with tempfile.TemporaryDirectory(dir=folder) as work:
        train(recipe, dataset, defense, Path(work), seed=0, device="cpu")
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--victim", default="unetplusplus")
    parser.add_argument("--defense", action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plugin = registry.load("victim", arguments.victim)
    options = plugin.resolve_options("cpu", {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = Shapes(
            folder / "data", Shapes.resolve_options("cpu", {"train_images": 200, "val_images": 10})
        )
        dataset.generate()
        task = choose_task(plugin(options), VictimSpec(name=arguments.victim), dataset)
        victim = {
            "name": arguments.victim,
            "task": task,
            "init": "scratch",
            "options": options.model_dump(mode="json"),
        }
        identity = {"victim": victim, "profile": "cpu", "seed": 0}
        asked = [d for d in arguments.defense or registry.names("defense") if d != "none"]
        names = [
            "none",
            *(d for d in asked if not registry.load("defense", d)().refusal(plugin(options), task)),
        ]
        ratios: dict[str, list[float]] = {name: [] for name in names}
        seconds(identity, dataset, "none", SHORT, folder)  # the first training imports
        for _ in range(arguments.rounds):
            costs = {}
            for name in names:
                times = [seconds(identity, dataset, name, n, folder) for n in (SHORT, LONG)]
                costs[name] = (times[1] - times[0]) / (LONG - SHORT)
                ratios[name].append(costs[name] / costs["none"])
            print(f"plain iteration: {1000 * costs['none']:.0f} ms", flush=True)
    for name, values in ratios.items():
        declared = registry.load("defense", name).time_factor
        middle = statistics.median(values)
        mark = "" if middle <= declared else "   MORE THAN DECLARED"
        print(f"{name:<22} {middle:5.2f} [{min(values):.2f}, {max(values):.2f}]  declared {declared:g}{mark}")


if __name__ == "__main__":
    main()
