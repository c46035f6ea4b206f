"""The alternation of UnSeg: the surrogate learns to segment noised images, the generator learns to help it.

Every step draws its randomness from (seed, step) alone, so a checkpoint holds no state of a random number
generator, and a resumed training is bitwise the uninterrupted one. Importing this module imports torch.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.datasets.base import Dataset
from bench.errors import ArtifactCorrupt, TrainingDiverged
from bench.files import atomic_write, write_json
from bench.protector import FitContext
from bench.seeds import derive_seed
from bench.training.checkpoint import save_weights
from bench.training.signals import DeferredSignals
from protectors.unseg.generator import NoiseSam
from protectors.unseg.losses import dense_loss, point_loss
from protectors.unseg.options import UnSegOptions
from protectors.unseg.prompts import draw_kinds, make_prompts, resize
from protectors.unseg.samples import SampleStream
from protectors.unseg.surrogate import ScratchSam, apply_noise

CHECKPOINT = "training.pt"
CHECKPOINT_SECONDS = 60.0
WEIGHTS = "generator.safetensors"
OPTIONS = "options.json"


class Training:
    """Both networks, their optimizers, and the step that has been reached.

    Args:
        options: How to train.
        seed: Seed of weights, samples, prompts and points.
        device: torch device string.
        steps_per_pass: Steps of a phase if `options.phase_steps` leaves it open.

    Attributes:
        step: Steps done.
        total: Steps in all.
    """

    def __init__(self, options: UnSegOptions, seed: int, device: str, steps_per_pass: int = 1) -> None:
        self.options = options
        self.seed = seed
        self.device = device
        self.phase_steps = options.phase_steps or steps_per_pass
        self.first_phase_steps = options.first_phase_steps or self.phase_steps
        self.total = self.first_phase_steps + (options.phases - 1) * self.phase_steps
        self.step = 0
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
    def learner(self) -> str:
        """Which network the next step trains: `generator` or `surrogate`."""
        return "generator" if self.phase % self.options.surrogate_every else "surrogate"

    def advance(self, image: Tensor, mask: Tensor) -> float:
        """One optimizer step on a batch.

        Args:
            image: `(B, 3, S, S)` in [0, 1], S is the generator's input size.
            mask: `(B, 1, S, S)` of 0 and 1.

        Returns:
            The loss before the step.

        Raises:
            TrainingDiverged: The loss is NaN or infinite.
        """
        learner = self.learner
        rng = torch.Generator().manual_seed(derive_seed(self.seed, "step", self.step))
        loss = self.loss(image.to(self.device), mask.to(self.device), learner, rng)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"unseg: the {learner}'s loss is {value} at step {self.step} of {self.total}; lower its "
                "learning rate"
            )
        optimizer = self.optimizers[learner]
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.options.decay_factor ** (
                self.phase // self.options.decay_phase
            )
        # set_to_none, the default: with zeroed gradients the resting network would go on drifting on Adam's
        # momentum, as it did under the torch 1.13 of the authors.
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        self.step += 1
        return value

    def loss(self, image: Tensor, mask: Tensor, learner: str, rng: torch.Generator) -> Tensor:
        """The surrogate's loss on noised images, for the network that learns.

        The surrogate is held to the true mask, the generator to it or, with label modification, to all ones.
        """
        options = self.options
        _set_learning(self.surrogate, learner == "surrogate")
        kinds = draw_kinds(options.generator_prompts, mask, several=True, rng=rng)
        prompts = make_prompts(kinds, mask, options.generator.output_size, rng)
        with torch.set_grad_enabled(learner == "generator"):
            noise = self.generator(image, prompts)
        side = options.surrogate.image_size
        small_image, small_mask = _resize_image(image, side), resize(mask, side).round()
        kinds = draw_kinds(options.surrogate_prompts, small_mask, several=False, rng=rng)
        prompts = make_prompts(kinds, small_mask, options.surrogate.output_size, rng)
        noised = apply_noise(
            small_image, noise, small_mask, options.train_epsilon, options.train_epsilon_background
        )
        logits = self.surrogate(noised, prompts)
        modified = learner == "generator" and options.label_modification
        target = torch.ones_like(small_mask) if modified else small_mask
        if options.loss == "dense":
            return dense_loss(logits, target)
        return point_loss(
            logits, target, options.loss_points, rng, options.loss_oversample, options.loss_importance
        )

    def save(self, path: Path) -> None:
        """Writes everything that a resumption needs, atomically."""
        state = {
            "identity": self._identity(),
            "step": self.step,
            "generator": self.generator.state_dict(),
            "surrogate": self.surrogate.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }
        stream = io.BytesIO()
        torch.save(state, stream)
        atomic_write(path, stream.getvalue())

    def resume(self, path: Path) -> None:
        """Goes on from the checkpoint at `path`, if there is one.

        Raises:
            ArtifactCorrupt: It cannot be read, or belongs to other options or another seed.
        """
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
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
        self.step = state["step"]

    def _identity(self) -> str:
        return f"{self.seed} {self.phase_steps} {self.options.model_dump_json()}"


def fit(datasets: Sequence[Dataset], options: UnSegOptions, context: FitContext) -> None:
    """Trains both networks and keeps the generator.

    Writes `generator.safetensors` and `options.json` to `context.state_dir`.

    Args:
        datasets: Their train splits are used together.
        options: How to train.
        context: Folders, seed, device and progress.

    Raises:
        DatasetError: The train splits hold no images or no objects.
        TrainingDiverged: The loss became NaN or infinite.
    """
    stream = SampleStream(datasets, options, derive_seed(context.seed, "unseg", "data"))
    training = Training(
        options,
        derive_seed(context.seed, "unseg", "training"),
        context.device,
        steps_per_pass=max(1, len(stream) // options.batch_size),
    )
    checkpoint = context.work_dir / CHECKPOINT
    training.resume(checkpoint)
    with DeferredSignals() as signals:
        saved = time.monotonic()
        while training.step < training.total:
            learner, phase = training.learner, training.phase
            loss = training.advance(*stream.batch(training.step))
            if signals.pending or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                training.save(checkpoint)
                saved = time.monotonic()
                signals.deliver()
            context.report(training.step, training.total, f"phase {phase + 1} {learner} loss {loss:.3f}")
    save_weights(context.state_dir / WEIGHTS, training.generator)
    write_json(context.state_dir / OPTIONS, options.model_dump(mode="json"))


def build_networks(options: UnSegOptions, seed: int, device: str) -> tuple[NoiseSam, ScratchSam]:
    """Generator and surrogate with random weights from `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "generator"))
        generator = NoiseSam(options.generator, options.token_readout)
        torch.manual_seed(derive_seed(seed, "surrogate"))
        surrogate = ScratchSam(options.surrogate)
    if options.trainable == "noise":
        for name, parameter in generator.named_parameters():
            parameter.requires_grad_("noise_" in name)
    return generator.to(device), surrogate.to(device)


def _adam(network: nn.Module, rate: float) -> torch.optim.Adam:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.Adam([{"params": parameters, "base_lr": rate}], lr=rate)


def _set_learning(network: nn.Module, learns: bool) -> None:
    for parameter in network.parameters():
        parameter.requires_grad_(learns)


def _resize_image(image: Tensor, side: int) -> Tensor:
    if image.shape[-1] == side:
        return image
    return F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)
