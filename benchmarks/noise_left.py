"""How much of a protection's noise a filter of the images leaves, beside what it does to the images themselves.

    python benchmarks/noise_left.py SPEC --store STORE [--defense orthogonal_projection --defense jpeg] [--images 200]

For every protection of a matrix that its store has: the energy of the difference between a protected image and its
clean one after both went through the filter, as a share of the noise's own energy, on the objects and outside; and
the PSNR of the filtered clean image against the clean one. A filter that adapts does so to the protected images, as an
attacker's does. A filter that rounds coarsely (`bit_depth`, `jpeg`) can leave far more than 100 %: small differences
become steps, which need not look like the noise any more. Whether a victim learns from what is left is another
question: `bench run` answers that one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bench import registry
from bench.datasets.base import Dataset
from bench.defense import Defense
from bench.plan import make_plan
from bench.seeds import generator
from bench.spec import read_matrices
from bench.stages import open_dataset
from bench.stages.train import adapted
from bench.store import Store

FILTERS = (
    "grayscale",
    "bit_depth",
    "gaussian",
    "median",
    "total_variation",
    "jpeg",
    "resize",
    "orthogonal_projection",
)


def filtered(defense: Defense, image: np.ndarray, name: str) -> np.ndarray:
    """The image as `float64` levels after a defense, with the same randomness for a clean and a protected one."""
    image = defense.purify(image, None, generator(0, name))
    return defense.transform(image, generator(0, name)).astype(np.float64)


def shares(defense: Defense, clean: Dataset, protected: Dataset, images: int) -> tuple[float, float, float]:
    """Energy left on objects and outside as shares, and the mean PSNR in dB of filtered clean images."""
    defense = adapted(defense, protected)
    before, after, psnr = np.zeros(2), np.zeros(2), []
    for name in clean.ids("train")[:images]:
        pair = clean.image("train", name), protected.image("train", name)
        inside = clean.annotation("train", name).foreground
        seen = [filtered(defense, image, name) for image in pair]
        noise = (pair[1].astype(np.float64) - pair[0]) ** 2
        left = (seen[1] - seen[0]) ** 2
        for number, where in enumerate((inside, ~inside)):
            before[number] += noise[where].sum()
            after[number] += left[where].sum()
        error = np.mean((seen[0] - pair[0]) ** 2)
        psnr.append(10 * np.log10(255**2 / max(error, 1e-12)))
    on_objects, outside = after / before
    return float(on_objects), float(outside), float(np.mean(psnr))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--defense", action="append", help=f"default: {', '.join(FILTERS)}")
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    store = Store(arguments.store)
    for stage in make_plan(read_matrices(arguments.spec), store).stages:
        if stage.kind != "protect" or stage.identity["protector"] == "none" or not store.is_done(*stage.id):
            continue
        source = stage.datasets["data"]
        clean = open_dataset(store, source)
        protected = open_dataset(store, {**source, "stage": stage.id, "subfolder": "dataset"})
        print(f"\n{stage.label}, {source['name']} ({stage.key})")
        for name in arguments.defense or FILTERS:
            plugin = registry.load("defense", name)
            on_objects, outside, psnr = shares(
                plugin(plugin.resolve_options("cpu", {})), clean, protected, arguments.images
            )
            print(f"{name:<24} objects {on_objects:6.1%}   outside {outside:6.1%}   clean {psnr:4.1f} dB")


if __name__ == "__main__":
    main()
