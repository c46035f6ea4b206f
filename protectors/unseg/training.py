"""The alternation of UnSeg: the surrogate learns to segment noised images, the generator learns to help it.

Every step draws its randomness from (seed, step) alone, so a checkpoint holds no state of a random number
generator, and a resumed training is bitwise the uninterrupted one. Importing this module imports torch.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.datasets.base import Dataset
from bench.errors import ArtifactCorrupt, TrainingDiverged
from bench.files import atomic_write, write_json
from bench.learner import FitContext
from bench.machine import usable_cores
from bench.seeds import derive_seed
from bench.training.checkpoint import save_weights
from bench.training.signals import DeferredSignals
from protectors.unseg import loading, parallel
from protectors.unseg.generator import NoiseSam
from protectors.unseg.monitor import LossCurve, Monitor
from protectors.unseg.options import UnSegOptions
from protectors.unseg.pretrained import initialise
from protectors.unseg.samples import SampleStream
from protectors.unseg.step import Learner, batch_loss, draw_batch
from protectors.unseg.surrogate import ScratchSam

CHECKPOINT = "training.pt"
CHECKPOINT_SECONDS = 60.0
"""Least time between two checkpoints."""
CHECKPOINT_SHARE = 0.05
"""Greatest share of the time that is spent on writing them: at full size one has 1.5 GB."""
GPU_LOADERS = 8
"""Threads that make samples for one GPU, where nobody says how many."""
WEIGHTS = "generator.safetensors"
OPTIONS = "options.json"


class Training:
    """Both networks, their optimizers, and the step that has been reached.

    In a `torch.distributed` group every process holds the same networks and works on its share of a batch.

    Args:
        options: How to train.
        seed: Seed of weights, samples, prompts and points.
        device: torch device string.
        steps_per_pass: Steps of a phase if `options.phase_steps` leaves it open.

    Attributes:
        step: Steps done.
        total: Steps in all.
        share: Rows of each batch that this process works on.
        curve: Losses so far.
    """

    def __init__(self, options: UnSegOptions, seed: int, device: str, steps_per_pass: int = 1) -> None:
        self.options = options
        self.seed = seed
        self.device = device
        self.phase_steps = options.phase_steps or steps_per_pass
        self.first_phase_steps = options.first_phase_steps or self.phase_steps
        self.total = self.first_phase_steps + (options.phases - 1) * self.phase_steps
        self.step = 0
        self.share = parallel.own_share(options.batch_size)
        self.curve = LossCurve(self.total)
        self.generator, self.surrogate = build_networks(options, seed, device)
        self.optimizers = {
            "generator": _adam(self.generator, options.generator_learning_rate),
            "surrogate": _adam(self.surrogate, options.surrogate_learning_rate),
        }

    @property
    def phase(self) -> int:
        """The phase of the next step."""
        if self.step < self.first_phase_steps:
            return 0
        return 1 + (self.step - self.first_phase_steps) // self.phase_steps

    @property
    def learner(self) -> Learner:
        """Which network the next step trains: `generator` or `surrogate`."""
        return "generator" if self.phase % self.options.surrogate_every else "surrogate"

    def advance(self, image: Tensor, mask: Tensor) -> float:
        """One optimizer step on a batch.

        Args:
            image: `(B, 3, S, S)` in [0, 1], the rows of `share`; S is the generator's input size.
            mask: `(B, 1, S, S)` of 0 and 1.

        Returns:
            The loss of the whole batch before the step.

        Raises:
            TrainingDiverged: The loss is NaN or infinite.
        """
        learner, options = self.learner, self.options
        optimizer = self.optimizers[learner]
        rate = options.decay_factor ** (self.phase // options.decay_phase)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        # set_to_none, the default: with zeroed gradients the resting network would go on drifting on Adam's
        # momentum, as it did under the torch 1.13 of the authors.
        optimizer.zero_grad()
        value = self._backward(image.to(self.device), mask.to(self.device), learner)
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"unseg: the {learner}'s loss is {value} at step {self.step} of {self.total}; lower its "
                "learning rate"
            )
        parallel.sum_gradients([p for group in optimizer.param_groups for p in group["params"]])
        optimizer.step()
        phase = self.phase
        self.step += 1
        self.curve.add(self.step, phase, learner, value, optimizer.param_groups[0]["lr"])
        return value

    def _backward(self, image: Tensor, mask: Tensor, learner: Learner) -> float:
        """Adds the gradients of this process's rows to the learner's; returns the loss of all rows."""
        self._set_learner(learner)
        rng = torch.Generator().manual_seed(derive_seed(self.seed, "step", self.step))
        value = 0.0
        for part in draw_batch(image, mask, self.options, rng, self.share).parts(self.options.accumulation):
            loss = batch_loss(self.generator, self.surrogate, part, learner, self.options)
            weight = len(part) / self.share.total
            (loss * weight).backward()
            value += loss.item() * weight
        return parallel.total(value)

    def loss(self, image: Tensor, mask: Tensor, learner: Learner, rng: torch.Generator) -> Tensor:
        """The loss of a batch of any size for one of the networks; arguments as for `advance`."""
        self._set_learner(learner)
        batch = draw_batch(image, mask, self.options, rng)
        return batch_loss(self.generator, self.surrogate, batch, learner, self.options)

    def _set_learner(self, learner: Learner) -> None:
        # Which of the generator's parameters are trained never changes: while the surrogate learns, the
        # generator runs without gradients.
        self.surrogate.requires_grad_(learner == "surrogate")

    def save(self, path: Path) -> None:
        """Writes everything that a resumption needs, atomically."""
        state = {
            "identity": self._identity(),
            "step": self.step,
            "generator": self.generator.state_dict(),
            "surrogate": self.surrogate.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "curve": self.curve.state(),
        }
        stream = io.BytesIO()
        torch.save(state, stream)
        atomic_write(path, stream.getvalue())

    def resume(self, path: Path) -> None:
        """Goes on from the checkpoint at `path`, if there is one.

        The number of processes may have changed since it was written.

        Raises:
            ArtifactCorrupt: It cannot be read, or belongs to other options or another seed.
        """
        if not path.exists():
            return
        try:
            # By way of the CPU: there Adam keeps its counts of steps, and would read them from a GPU one by one.
            state = torch.load(path, map_location="cpu", weights_only=True)
            found = state["identity"]
        except Exception as error:
            raise ArtifactCorrupt(
                f"unseg: checkpoint {path} cannot be read; delete it to start over"
            ) from error
        if found != self._identity():
            raise ArtifactCorrupt(
                f"unseg: checkpoint {path} is of other options or another seed; delete it to start over"
            )
        self.generator.load_state_dict(state["generator"])
        self.surrogate.load_state_dict(state["surrogate"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.curve.restore(state["curve"])
        self.step = state["step"]

    def _identity(self) -> str:
        return f"{self.seed} {self.phase_steps} {self.options.model_dump_json()}"


def fit(datasets: Sequence[Dataset], options: UnSegOptions, context: FitContext) -> None:
    """Trains both networks and keeps the generator.

    Writes `generator.safetensors`, `options.json` and the losses, `curve.csv`, to `context.state_dir`, and
    where TensorBoard is installed its event files to the folder `tensorboard` in it.

    In a `torch.distributed` group (see `bench.spread`) all processes call it with the same arguments but for
    the device; the first one writes.

    Args:
        datasets: Their train splits are used together.
        options: How to train.
        context: Folders, seed, device and progress.

    Raises:
        DatasetError: The train splits hold no images or no objects.
        SpecError: There are more processes than images in a batch.
        TrainingDiverged: The loss became NaN or infinite.
    """
    stream = SampleStream(datasets, options, derive_seed(context.seed, "unseg", "data"))
    training = Training(
        options,
        derive_seed(context.seed, "unseg", "training"),
        context.device,
        steps_per_pass=max(1, len(stream) // options.batch_size),
    )
    checkpoints = Checkpoints(training, context.work_dir / CHECKPOINT)
    workers = loader_threads(context)
    with DeferredSignals() as signals, contextlib.ExitStack() as stack:
        batches = loading.batches(stream, training.step, training.total, training.share, workers)
        stack.callback(batches.close)
        monitor = None
        if parallel.is_main():
            monitor = Monitor(training.curve, context.state_dir, training.step, options.batch_size)
            stack.callback(monitor.close)
        for image, mask in batches:
            learner, phase = training.learner, training.phase
            loss = training.advance(image, mask)
            # A signal that reached one process stops all of them after the same step.
            if parallel.total(float(signals.pending)):
                checkpoints.save()
                signals.deliver()
                raise KeyboardInterrupt
            checkpoints.save_if_due()
            if monitor:
                note = f"phase {phase + 1} {learner} loss {loss:.3f}{monitor.step()}"
                context.report(training.step, training.total, note)
    if parallel.is_main():
        save_weights(context.state_dir / WEIGHTS, training.generator)
        write_json(context.state_dir / OPTIONS, options.model_dump(mode="json"))


class Checkpoints:
    """The file from which a training goes on, which it does at once if it is there.

    Args:
        training: What is saved, by the main process alone.
        path: Where to.

    Raises:
        ArtifactCorrupt: The file there cannot be read, or belongs to other options or another seed.
    """

    def __init__(self, training: Training, path: Path) -> None:
        self.training = training
        self.path = path
        training.resume(path)
        if parallel.is_main():
            # A process that was killed while it wrote leaves a part of a checkpoint under another name.
            for part in path.parent.glob(f".{path.name}.*.tmp"):
                part.unlink(missing_ok=True)
        self._due = time.monotonic() + CHECKPOINT_SECONDS

    def save_if_due(self) -> None:
        """Saves if it is time."""
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Replaces the file by the present state, atomically."""
        if not parallel.is_main():
            return
        begun = time.monotonic()
        self.training.save(self.path)
        ended = time.monotonic()
        self._due = ended + max(CHECKPOINT_SECONDS, (ended - begun) * (1 / CHECKPOINT_SHARE - 1))


def loader_threads(context: FitContext) -> int:
    """Threads that make samples: as asked for; else enough for a GPU, and none where the CPU trains."""
    if context.loader_workers or not context.device.startswith("cuda"):
        return context.loader_workers
    return max(1, min(GPU_LOADERS, usable_cores() // parallel.processes()))


def build_networks(options: UnSegOptions, seed: int, device: str) -> tuple[NoiseSam, ScratchSam]:
    """Generator and surrogate with weights from `seed`, and from the files that the options name.

    The global generator is left as it was. What was loaded is printed, which puts it into the stage's log.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "generator"))
        generator = NoiseSam(options.generator, options.token_readout)
        torch.manual_seed(derive_seed(seed, "surrogate"))
        surrogate = ScratchSam(options.surrogate)
    for line in initialise(generator, surrogate, options):
        print(f"unseg: {line}", flush=True)
    if options.trainable == "noise":
        for name, parameter in generator.named_parameters():
            parameter.requires_grad_("noise_" in name)
    return generator.to(device), surrogate.to(device)


def _adam(network: nn.Module, rate: float) -> torch.optim.Adam:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.Adam([{"params": parameters, "base_lr": rate}], lr=rate)
