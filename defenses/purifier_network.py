"""The denoiser of `purifier`: its network, its training, and its use.

Every step draws its randomness from (seed, step) alone, so a resumed training is bitwise the uninterrupted one.
Importing this module imports torch.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.datasets.base import Dataset
from bench.errors import ArtifactCorrupt, DatasetError, TrainingDiverged
from bench.files import atomic_write
from bench.learner import FitContext
from bench.machine import usable_cores
from bench.seeds import derive_seed, generator
from bench.training.checkpoint import load_weights, save_weights
from bench.training.signals import DeferredSignals

if TYPE_CHECKING:
    from defenses.purifier import PurifierOptions

DILATIONS = (1, 2, 3, 4, 3, 2, 1)
REACH = sum(DILATIONS)
"""How far in pixels the network looks to each side."""
CONTRAST = 0.25
"""Spread of an image's colours in [0, 1], which is one unit inside the network."""
BAND_PIXELS = 1 << 20
"""Pixels of a band of rows that is denoised at a time: a large photograph's features are never held whole."""
PATCHES_PER_IMAGE = 4
"""Patches that are cut from an image once it is decoded."""
CHECKPOINT = "training.pt"
CHECKPOINT_SECONDS = 60.0
WEIGHTS = "denoiser.safetensors"
GPU_LOADERS = 8


class Denoiser(nn.Module):
    """Seven 3x3 convolutions with IRCNN's dilations, batch norm between them; they predict the noise.

    Args:
        width: Channels of the hidden layers.
        sigma: Standard deviation of the noise, in levels (0 to 255).
    """

    def __init__(self, width: int, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        channels = (3, *[width] * (len(DILATIONS) - 1), 3)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation)
            for before, after, dilation in zip(channels, channels[1:], DILATIONS, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in DILATIONS[1:])
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        # A fresh network leaves images as they are.
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, image: Tensor) -> Tensor:
        """`(B, 3, H, W)` in [0, 1] to the same without noise, not clipped."""
        features = (image - 0.5) / CONTRAST
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            features = F.relu(norm(layer(features)))
        return image - self.sigma / 255 * self.layers[-1](features)


class PatchBatches(torch.utils.data.Dataset):
    """The batch of every step: noisy and clean patches, `(B, 3, S, S)` float32 each, 1 is full intensity.

    Args:
        datasets: Their train splits are used together.
        options: Size of batch and patch, strength of the noise.
        seed: What is drawn depends on it and on the step.

    Raises:
        DatasetError: There are no images.
    """

    def __init__(self, datasets: Sequence[Dataset], options: PurifierOptions, seed: int) -> None:
        self.images = [(dataset, image_id) for dataset in datasets for image_id in dataset.ids("train")]
        self.options, self.seed = options, seed
        if not self.images:
            raise DatasetError("purifier: the train splits that it is to learn from hold no images")

    def __len__(self) -> int:
        return self.options.iterations

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step."""
        side = self.options.patch
        rng = generator(self.seed, "batch", step)
        clean = np.empty((self.options.batch_size, side, side, 3), np.uint8)
        for number in range(self.options.batch_size):
            if number % PATCHES_PER_IMAGE == 0:
                dataset, image_id = self.images[int(rng.integers(len(self.images)))]
                image = dataset.image("train", image_id)
                short = [(0, max(0, side - length)) for length in image.shape[:2]]
                image = np.pad(image, (*short, (0, 0)), mode="symmetric")
            top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
            patch = image[top : top + side, left : left + side]
            clean[number] = np.rot90(patch[:, :: rng.choice((-1, 1))], int(rng.integers(4)))
        return _tensor(clean + rng.normal(0, self.options.sigma, clean.shape)), _tensor(clean)


def fit(datasets: Sequence[Dataset], options: PurifierOptions, context: FitContext) -> None:
    """Trains a denoiser by the mean squared error and writes `denoiser.safetensors` to `context.state_dir`.

    Args:
        datasets: Clean images; labels are not read.
        options: How to train.
        context: Folders, seed, device and progress. What is in `work_dir` is gone on from.

    Raises:
        DatasetError: There are no images.
        TrainingDiverged: The loss became NaN or infinite.
        ArtifactCorrupt: The checkpoint cannot be read.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(context.seed, "denoiser"))
        network = Denoiser(options.width, options.sigma).to(context.device)
    optimizer = torch.optim.Adam(network.parameters(), options.learning_rate)
    checkpoint = context.work_dir / CHECKPOINT
    begin = _resume(checkpoint, network, optimizer)
    on_gpu = context.device.startswith("cuda")
    workers = context.loader_workers or (min(GPU_LOADERS, usable_cores()) if on_gpu else 0)
    batches = PatchBatches(datasets, options, context.seed)
    steps = torch.utils.data.DataLoader(
        batches,
        batch_size=None,
        sampler=range(begin, options.iterations),
        num_workers=workers,
        pin_memory=on_gpu,
    )
    saved = time.monotonic()
    with DeferredSignals() as signals:
        for step, (noisy, clean) in enumerate(steps, start=begin):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * (1 + math.cos(math.pi * step / options.iterations)) / 2
            found = network(noisy.to(context.device, non_blocking=True))
            # Of the noise before, how much is left: 1 at the beginning.
            loss = F.mse_loss(found, clean.to(context.device, non_blocking=True)) / (options.sigma / 255) ** 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"purifier: the loss is {value} at step {step} of {options.iterations}: lower learning_rate"
                )
            if signals.pending or time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(checkpoint, network, optimizer, step + 1)
                saved = time.monotonic()
            if signals.pending:
                signals.deliver()
                raise KeyboardInterrupt
            note = f"error {options.sigma * math.sqrt(value):.2f} levels"
            context.report(step + 1, options.iterations, note)
    save_weights(context.state_dir / WEIGHTS, network)


def load(options: PurifierOptions, state_dir: Path, device: str) -> Denoiser:
    """The trained denoiser.

    Raises:
        ArtifactCorrupt: Its file is missing, or of another width.
    """
    network = Denoiser(options.width, options.sigma)
    load_weights(state_dir / WEIGHTS, network)
    return network.to(device).eval()


@torch.no_grad()
def denoise(network: Denoiser, image: np.ndarray) -> np.ndarray:
    """What the network makes of an image, in bands of rows, each with what it sees above and below.

    Args:
        network: A trained one.
        image: `(H, W, 3)` of levels, uint8 or float.

    Returns:
        `(H, W, 3)` uint8.
    """
    device = next(network.parameters()).device
    height, width = image.shape[:2]
    rows = max(1, BAND_PIXELS // width)
    result = np.empty(image.shape, np.uint8)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        top, bottom = max(0, start - REACH), min(height, stop + REACH)
        found = network(_tensor(image[None, top:bottom]).to(device))
        inner = found[0, :, start - top : stop - top].clamp(0, 1).mul(255).round()
        result[start:stop] = inner.permute(1, 2, 0).to("cpu", torch.uint8).numpy()
    return result


def _tensor(images: np.ndarray) -> Tensor:
    """`(B, H, W, 3)` of levels to `(B, 3, H, W)` float32 in [0, 1]."""
    return torch.from_numpy(images.astype(np.float32) / 255).permute(0, 3, 1, 2).contiguous()


def _save(path: Path, network: Denoiser, optimizer: torch.optim.Optimizer, step: int) -> None:
    stream = io.BytesIO()
    torch.save({"step": step, "network": network.state_dict(), "optimizer": optimizer.state_dict()}, stream)
    atomic_write(path, stream.getvalue())


def _resume(path: Path, network: Denoiser, optimizer: torch.optim.Optimizer) -> int:
    """Puts the checkpoint into both, if there is one; the next step."""
    if not path.exists():
        return 0
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(content["network"])
        optimizer.load_state_dict(content["optimizer"])
        return int(content["step"])
    except Exception as error:
        raise ArtifactCorrupt(f"{path} cannot be read: delete it to train from the start") from error
