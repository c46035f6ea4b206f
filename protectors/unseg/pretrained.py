"""Puts pretrained weights into the networks, by name and shape, and says what stayed random.

Files are read with `weights_only=True`, which refuses everything but tensors and containers of them: a file
that somebody tampered with cannot run code. Importing this module imports torch.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UsageError
from protectors.unseg.checkpoints import RANDOM, known, locate
from protectors.unseg.generator import NoiseSam
from protectors.unseg.options import UnSegOptions
from protectors.unseg.surrogate import ScratchSam

WRAPPERS = ("model", "state_dict", "module")
"""Keys under which training scripts put a state dict."""
PREFIX = "module."
"""What `DistributedDataParallel` puts before every name."""
HARMLESS = re.compile(r"(^|\.)(pixel_)?(mean|std)$")
"""Constants that other implementations keep in their state dict."""
NAMED = 3
"""Tensors that an error message names; the others are counted."""
MOBILE_SAM_MARK = "image_encoder.patch_embed.seq.0.c.weight"
"""A name that MobileSAM has and SAM has not."""
_ENCODER = "image_encoder."
_MAE_LEFT_OUT = re.compile(r"^(cls_token|mask_token|norm\.|fc_norm\.|head\.|decoder_)")
_MAE_RENAMED = ((".mlp.fc1.", ".mlp.lin1."), (".mlp.fc2.", ".mlp.lin2."))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, on the CPU, out of whatever wraps them.

    Args:
        path: A file of `torch.save`, or of safetensors.

    Raises:
        UsageError: It is no checkpoint, holds more than tensors, or holds none.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(9)
        if head[8:] == b"{":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error), re.IGNORECASE)
        if refused is None:
            raise UsageError(f"{path} is no checkpoint that can be read") from error
        raise UsageError(
            f"{path} was not loaded: besides tensors it holds {refused[1]}, and loading that could run code: "
            "have its state dict saved alone"
        ) from error
    except Exception as error:  # torch, zipfile and safetensors have many ways to say so
        raise UsageError(f"{path} is no checkpoint that can be read ({type(error).__name__})") from error
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds a {type(content).__name__} and no dictionary of tensors")
    tensors = {str(k).removeprefix(PREFIX): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise UsageError(f"{path} holds no tensors")
    return tensors


@dataclass(frozen=True)
class Comparison:
    """How a state dict and a network differ.

    Attributes:
        missing: Names that the network has and the state dict has not.
        extra: Names that only the state dict has.
        misshapen: `name is (shape) and should be (shape)`.
        ignored: Extra names that are harmless constants.
    """

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    misshapen: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether every tensor of the network is there, in its shape, and nothing unknown is."""
        return not (self.missing or self.extra or self.misshapen)

    def __str__(self) -> str:
        parts = []
        for what, names in (("misshapen", self.misshapen), ("missing", self.missing), ("extra", self.extra)):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                parts.append(f"{len(names)} {what}: {', '.join(names[:NAMED])}{more}")
        return "; ".join(parts) or "everything fits"


def compare(state: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> Comparison:
    """Compares the names and shapes of a state dict with those of a network's."""
    extra = sorted(state.keys() - network.keys())
    return Comparison(
        missing=tuple(sorted(network.keys() - state.keys())),
        extra=tuple(name for name in extra if not HARMLESS.search(name)),
        misshapen=tuple(
            f"{name} is {tuple(state[name].shape)} and should be {tuple(value.shape)}"
            for name, value in sorted(network.items())
            if name in state and state[name].shape != value.shape
        ),
        ignored=tuple(name for name in extra if HARMLESS.search(name)),
    )


def initialise(generator: NoiseSam, surrogate: ScratchSam, options: UnSegOptions) -> list[str]:
    """Puts the pretrained weights that `options` name into freshly built networks.

    The files have to be in the cache: `protectors.unseg.checkpoints.obtain` fetches them.

    Returns:
        A line per network that did not stay random: what was loaded, and what stayed random.

    Raises:
        UsageError: A file does not fit its network.
        EnvironmentFault: A file is not in the cache.
    """
    lines = []
    if options.generator_init != RANDOM:
        reference = options.generator_init
        lines.append(load_sam(generator, locate(reference), _label(reference)))
    if options.surrogate_init != RANDOM:
        reference = options.surrogate_init
        lines.append(load_mae(surrogate, locate(reference), _label(reference)))
    return lines


def _label(reference: str) -> str:
    checkpoint = known(reference)
    return checkpoint.name if checkpoint else reference


def load_sam(generator: NoiseSam, path: Path, label: str) -> str:
    """Loads SAM's or MobileSAM's weights into all of a generator but its noise parts.

    Args:
        generator: A freshly built generator.
        path: The file.
        label: What messages call it.

    Returns:
        What was loaded, in one line.

    Raises:
        UsageError: The file is none, or of another geometry.
    """
    state = read_state_dict(path)
    if MOBILE_SAM_MARK in state:
        from protectors.unseg.tiny_vit import from_mobile_sam

        encoder = {k.removeprefix(_ENCODER): v for k, v in state.items() if k.startswith(_ENCODER)}
        rest = {k: v for k, v in state.items() if not k.startswith(_ENCODER)}
        state = {**{_ENCODER + k: v for k, v in from_mobile_sam(encoder).items()}, **rest}
    own = {name: value for name, value in generator.state_dict().items() if "noise_" not in name}
    comparison = compare(state, own)
    if not comparison.fits:
        raise UsageError(f"generator_init: {label} does not fit the generator's geometry: {comparison}")
    generator.load_state_dict({name: state[name] for name in own}, strict=False)
    drawn = len(generator.state_dict()) - len(own)
    return f"generator: {len(own)} tensors from {label}; {drawn} of the noise parts as drawn"


def load_mae(surrogate: ScratchSam, path: Path, label: str) -> str:
    """Loads the vision transformer of MAE (He et al., arXiv 2111.06377) into a surrogate's image encoder.

    The class token and the last normalisation have no place in it and are dropped. Position embeddings are
    interpolated to its grid. MAE has no relative positions, neck, prompt encoder or decoder: they stay as drawn.

    Args:
        surrogate: A freshly built surrogate.
        path: The file.
        label: What messages call it.

    Returns:
        What was loaded, in one line.

    Raises:
        UsageError: The file is none, or of another geometry.
    """
    geometry = surrogate.geometry
    state = read_state_dict(path)
    if geometry.encoder != "vit" or "pos_embed" not in state:
        raise UsageError(
            f"surrogate_init: {label} is no vision transformer of MAE's, or the surrogate has none"
        )
    renamed = {}
    for name, value in state.items():
        if not _MAE_LEFT_OUT.match(name):
            for theirs, ours in _MAE_RENAMED:
                name = name.replace(theirs, ours)
            renamed[name] = value
    renamed["pos_embed"] = resize_positions(state["pos_embed"], geometry.tokens)
    encoder = surrogate.image_encoder.state_dict()
    stays = [name for name in encoder if name.startswith("neck.") or ".attn.rel_pos_" in name]
    comparison = compare(renamed, {k: v for k, v in encoder.items() if k not in stays})
    if not comparison.fits:
        raise UsageError(f"surrogate_init: {label} does not fit the surrogate's geometry: {comparison}")
    loaded = {name: value for name, value in renamed.items() if name in encoder}
    surrogate.image_encoder.load_state_dict(loaded, strict=False)
    grid = f"{geometry.tokens}x{geometry.tokens}"
    return (
        f"surrogate: {len(loaded)} tensors from {label}, positions on a {grid} grid; neck, relative positions, "
        "prompt encoder and decoder as drawn"
    )


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings of a square grid, with or without one of a class token, on another grid.

    Args:
        positions: `(1, n, C)`, n a square number, or one more.
        side: Cells along a side of the result.

    Returns:
        `(1, side, side, C)`, interpolated bicubically.

    Raises:
        UsageError: n is neither, or the tensor has another form.
    """
    count = positions.shape[1] if positions.ndim == 3 else -1
    old = math.isqrt(max(count, 0))
    if count < 1 or count - old * old not in (0, 1):
        raise UsageError(f"position embeddings {tuple(positions.shape)} are of no square grid")
    grid = positions[:, count - old * old :].reshape(1, old, old, -1)
    if old == side:
        return grid
    planes = grid.permute(0, 3, 1, 2).float()
    resized = F.interpolate(planes, size=(side, side), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).to(positions.dtype)
