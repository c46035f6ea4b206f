"""The ImageNet weights of ResNet38 that its authors published, read from MXNet's file format without MXNet.

The format (little-endian), as MXNet's `NDArray::Save` has written it since 2015:

    list    u64 0x112, u64 0, u64 number of arrays, arrays, u64 number of names, names
    name    u64 length, bytes
    array   [u32 magic, [i32 storage type]], u32 dimensions, sizes, i32 device type, i32 device, i32 dtype, data

The oldest arrays have no magic and 32-bit sizes; those of version 1 (magic 0xF993FAC8) have 64-bit sizes, those of
version 2 (0xF993FAC9) a storage type too. There is no code in it, so reading it is safe.
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor

from bench.errors import ArtifactCorrupt
from victims.pretrained import file_by_hand, renamed

NAME = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"
MD5 = "ff21f45d6bf03284100dcbec571edfad"
"""From `models/checksum.md5` of the authors' repository, github.com/itijyou/ademxapp."""
URL = "https://www.dropbox.com/s/n2eewzy7bn7lhk0/ilsvrc-cls_rna-a1_cls1000_ep-0001.params?dl=1"
"""A copy that later work links to. The authors' own server (cloudstor.aarnet.edu.au) was shut down."""

LIST_MAGIC = 0x112
VERSION_1, VERSION_2 = 0xF993FAC8, 0xF993FAC9
DENSE = (-1, 0)
DTYPES = {0: np.dtype("<f4"), 1: np.dtype("<f8"), 2: np.dtype("<f2")}

PARTS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
BRANCHES = {"2a": 1, "2b1": 2, "2b2": 3}


@WEIGHT_INITIALIZERS.register_module()
class ResNet38ImageNet:
    """Initialises a `ResNet38` of full width by its authors' weights."""

    def __call__(self, module: torch.nn.Module) -> None:
        """Loads the weights; the classifier is left out.

        Raises:
            EnvironmentFault: The file is not there; the message says where to get it and where to put it.
            ArtifactCorrupt: It is damaged, or does not fit.
        """
        path = file_by_hand(NAME, MD5, URL)
        state = renamed(read_params(path), torch_name, module.state_dict(), f"the weights in {path}")
        module.load_state_dict(state, strict=False)


def torch_name(name: str) -> str | None:
    """The name in `ResNet38` of an array of the authors' file; None for the classifier.

    Theirs are like `arg:res4b2_branch2b1_weight` and `aux:bn4a_branch2a_moving_var`: level 4, third and first
    unit, second and first convolution.
    """
    plain = name.removeprefix("arg:").removeprefix("aux:")
    if plain.startswith("linear1000"):
        return None
    if plain == "conv1a_weight":
        return "conv1a.weight"
    last = re.fullmatch(r"bn7_(gamma|beta|moving_mean|moving_var)", plain)
    if last:
        return f"norm.{PARTS[last[1]]}"
    found = re.fullmatch(r"(res|bn)(\d)(?:a|b(\d+))_branch(1|2a|2b1|2b2)_(\w+)", plain)
    if found is None:
        return f"unknown:{name}"
    kind, level, unit, branch, part = found.groups()
    prefix = f"level{level}.{unit or 0}"
    if branch == "1":
        return f"{prefix}.shortcut.weight"
    number = BRANCHES[branch]
    return f"{prefix}.conv{number}.weight" if kind == "res" else f"{prefix}.norm{number}.{PARTS.get(part)}"


def read_params(path: Path) -> dict[str, Tensor]:
    """The arrays of an MXNet file by name, as float32.

    Raises:
        ArtifactCorrupt: It is no such file, or is cut off.
    """
    reader = _Reader(path)
    if reader.numbers("<Q") != (LIST_MAGIC,):
        raise reader.broken("it does not start as one")
    reader.numbers("<Q")
    arrays = [_read_array(reader) for _ in range(reader.count())]
    names = [reader.take(reader.count()).decode("utf-8", "replace") for _ in range(reader.count())]
    if len(names) != len(arrays) or len(set(names)) != len(names):
        raise reader.broken(f"it has {len(arrays)} arrays and {len(set(names))} names")
    return dict(zip(names, arrays, strict=True))


def _read_array(reader: _Reader) -> Tensor:
    (first,) = reader.numbers("<I")
    size = "I"
    if first in (VERSION_1, VERSION_2):
        if first == VERSION_2 and reader.numbers("<i")[0] not in DENSE:
            raise reader.broken("it holds a sparse array")
        (first,) = reader.numbers("<I")
        size = "Q"
    if not 1 <= first <= 8:
        raise reader.broken(f"it holds an array of {first} dimensions")
    shape = reader.numbers(f"<{first}{size}")
    *_, number = reader.numbers("<3i")
    if number not in DTYPES:
        raise reader.broken(f"it holds numbers of kind {number}")
    content = reader.take(math.prod(shape) * DTYPES[number].itemsize)
    return torch.from_numpy(np.frombuffer(content, DTYPES[number]).astype(np.float32).reshape(shape))


class _Reader:
    """The bytes of a file, taken from its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = memoryview(path.read_bytes())
        self._place = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > len(self._content) - self._place:
            raise self.broken("it is cut off")
        self._place += count
        return bytes(self._content[self._place - count : self._place])

    def numbers(self, layout: str) -> tuple[int, ...]:
        """The next numbers, by `struct`'s layout."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def count(self) -> int:
        """A length; one that is longer than the file is an error, not an allocation."""
        (number,) = self.numbers("<Q")
        if number > len(self._content):
            raise self.broken("it is cut off or damaged")
        return number

    def broken(self, reason: str) -> ArtifactCorrupt:
        """The error of an unreadable file."""
        return ArtifactCorrupt(f"{self._path} is no readable MXNet parameter file: {reason}")
