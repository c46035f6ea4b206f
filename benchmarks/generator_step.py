"""What a step of UnSeg's training costs, beside a plain loop that runs the frozen parts with gradients.

    python benchmarks/generator_step.py [--geometry vit_b] [--image-size 256] [--batch-size 1] [--rounds 7]
                                        [--precision fp32] [--accumulation 1] [--device cpu]

Both take the same networks, batch, prompts and points in turn, in one process and on one CPU thread. The plain
loop computes every gradient of both networks and lets the optimizer take those of the part that learns; in
epochs of the surrogate it detaches the noise. Both give the learner the same gradients, which is checked. CPU
time is printed beside wall time: on a shared machine it is the one to compare. With CUDA peak memory is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from bench.datasets.shapes.scenes import SceneOptions, draw_scene
from protectors.unseg import UnSeg
from protectors.unseg.options import Geometry, UnSegOptions
from protectors.unseg.step import Batch, Learner, batch_loss, draw_batch
from protectors.unseg.training import Training

EPOCHS: dict[Learner, int] = {"generator": 20, "surrogate": 7}
"""Epochs of each kind in the paper."""


def options_of(arguments: argparse.Namespace) -> UnSegOptions:
    fixed = {
        "trainable": "noise",
        "batch_size": arguments.batch_size,
        "precision": arguments.precision,
        "accumulation": arguments.accumulation,
    }
    if arguments.geometry == "compact":
        return UnSeg.resolve_options("cpu", fixed)
    size = arguments.image_size
    return UnSegOptions(
        generator=Geometry(image_size=size), surrogate=Geometry(image_size=size // 2), **fixed
    )


def draw(training: Training, device: str) -> Batch:
    options = training.options
    side = options.generator.image_size
    scenes = [draw_scene(0, i, SceneOptions(size=max(32, side))) for i in range(options.batch_size)]
    image = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255 for scene in scenes])
    mask = torch.stack([torch.from_numpy(scene.semantic > 0)[None].float() for scene in scenes])
    return draw_batch(image.to(device), mask.to(device), options, torch.Generator().manual_seed(0))


def lean_step(training: Training, batch: Batch, learner: Learner) -> None:
    """As `Training.advance` takes it, without the optimizer's own work."""
    training._set_learner(learner)
    for part in batch.parts(training.options.accumulation):
        loss = batch_loss(training.generator, training.surrogate, part, learner, training.options)
        (loss * (len(part) / len(batch))).backward()


class Detached(nn.Module):
    """A generator whose noise takes no gradient back."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, *inputs: object) -> torch.Tensor:
        with torch.enable_grad():
            return self.generator(*inputs).detach()


def plain_step(training: Training, batch: Batch, learner: Learner) -> None:
    """Every parameter of both networks takes part in the graph."""
    frozen = [p for p in training.generator.parameters() if not p.requires_grad]
    generator = training.generator if learner == "generator" else Detached(training.generator)
    for parameter in (*training.generator.parameters(), *training.surrogate.parameters()):
        parameter.requires_grad_(True)
    for part in batch.parts(training.options.accumulation):
        loss = batch_loss(generator, training.surrogate, part, learner, training.options)
        (loss * (len(part) / len(batch))).backward()
    for parameter in frozen:
        parameter.requires_grad_(False)


def gradients(training: Training, learner: Learner) -> dict[str, torch.Tensor]:
    """Of what the optimizer of `learner` trains."""
    trained = {id(p) for group in training.optimizers[learner].param_groups for p in group["params"]}
    network = getattr(training, learner)
    return {
        name: parameter.grad.clone()
        for name, parameter in network.named_parameters()
        if id(parameter) in trained and parameter.grad is not None
    }


def check_same(training: Training, batch: Batch, learner: Learner) -> None:
    found = []
    for step in (lean_step, plain_step):
        clear(training)
        step(training, batch, learner)
        found.append(gradients(training, learner))
    lean, plain = found
    assert lean and lean.keys() == plain.keys()
    # As one vector: single tensors, such as the bias of keys, have gradients that are nothing but rounding.
    gap = sum((lean[name] - plain[name]).square().sum().item() for name in lean)
    whole = sum(gradient.square().sum().item() for gradient in plain.values())
    assert gap < 1e-6 * whole, f"the gradients of the {learner} differ by {(gap / whole) ** 0.5:.1e}"


def clear(training: Training) -> None:
    for network in (training.generator, training.surrogate):
        network.zero_grad()


def timed(step: Callable[[], None], device: str) -> tuple[float, float, float]:
    """Wall and CPU seconds, and peak GPU memory in GiB."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if on_gpu:
        torch.cuda.synchronize()
    memory = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return time.perf_counter() - wall, time.process_time() - cpu, memory


def main() -> None:
    """Prints the medians of the rounds, for each kind of epoch and for the paper's mixture of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--geometry", choices=("vit_b", "compact"), default="vit_b")
    parser.add_argument("--image-size", type=int, default=256, help="Of the generator; vit_b only.")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    training = Training(options_of(arguments), 0, arguments.device)
    batch = draw(training, arguments.device)
    size = training.options.generator.image_size
    print(f"{arguments.geometry} at {size} px, batch {arguments.batch_size}, {arguments.precision}")
    mixture = {"lean": [0.0, 0.0], "plain": [0.0, 0.0]}
    for learner, epochs in EPOCHS.items():
        if arguments.precision == "fp32":
            check_same(training, batch, learner)
        rows: dict[str, list[tuple[float, float, float]]] = {"lean": [], "plain": []}
        for round_number in range(arguments.rounds):
            # Turn about, so that neither is always the one that finds warm caches.
            for name, step in (("plain", plain_step), ("lean", lean_step))[:: 1 - 2 * (round_number % 2)]:
                clear(training)
                rows[name].append(timed(lambda s=step, on=learner: s(training, batch, on), arguments.device))
        medians = {
            name: [statistics.median(column) for column in zip(*rows[name], strict=True)] for name in rows
        }
        for name in mixture:
            for clock in (0, 1):
                mixture[name][clock] += epochs * medians[name][clock] / sum(EPOCHS.values())
        print(f"{learner} epochs: {compared(medians['plain'], medians['lean'])}")
        if arguments.device.startswith("cuda"):
            print(f"  peak memory: plain {medians['plain'][2]:.2f} GiB, here {medians['lean'][2]:.2f} GiB")
    print(f"20 to 7, as in the paper: {compared(mixture['plain'], mixture['lean'])}")


def compared(plain: list[float], lean: list[float]) -> str:
    texts = [
        f"{clock} plain {1000 * plain[i]:.0f} ms, here {1000 * lean[i]:.0f} ms: {plain[i] / lean[i]:.2f} x"
        for i, clock in enumerate(("wall", "cpu"))
    ]
    return "; ".join(texts)


if __name__ == "__main__":
    main()
