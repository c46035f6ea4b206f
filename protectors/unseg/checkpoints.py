"""Pretrained weights that the networks may start from, by name or by the sha256 of the file.

An option never holds a path: a name stands for the file's sha256, and a file that is given by path is
imported into the user's cache and from then on known by its sha256. So the key of a stage depends on the
content of the weights alone. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench import cache
from bench.downloads import RemoteFile, Report, fetch
from bench.errors import EnvironmentFault, SpecError
from bench.registry import unknown

RANDOM = "random"
"""The option's value for weights that are drawn from the seed."""

Network = Literal["generator", "surrogate"]


@dataclass(frozen=True)
class Checkpoint:
    """A published file of weights.

    Attributes:
        name: What the user types.
        file: Where it lies, with the hash on which several independent public sources agree.
        network: The network that may start from it.
        geometry: Fields of `Geometry` in which it differs from SAM's ViT-B at 1024 pixels.
        fixed: Fields of `Geometry` that the weights leave no choice about; None: all.
        licence: Under which terms its owners publish it.
    """

    name: str
    file: RemoteFile
    network: Network
    geometry: Mapping[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] | None = None
    licence: str = "Apache-2.0"

    @property
    def reference(self) -> str:
        """`sha256:` and the hash."""
        return cache.PREFIX + self.file.sha256


_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
_CHECKPOINTS = (
    Checkpoint(
        "sam_vit_b",
        RemoteFile(
            _SAM + "sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375_042_383,
        ),
        "generator",
    ),
    Checkpoint(
        "sam_vit_l",
        RemoteFile(
            _SAM + "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1_249_524_607,
        ),
        "generator",
        {"embed_dim": 1024, "depth": 24, "num_heads": 16, "global_blocks": (5, 11, 17, 23)},
    ),
    Checkpoint(
        "sam_vit_h",
        RemoteFile(
            _SAM + "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2_564_550_879,
        ),
        "generator",
        {"embed_dim": 1280, "depth": 32, "num_heads": 16, "global_blocks": (7, 15, 23, 31)},
    ),
    Checkpoint(
        "mobile_sam",
        RemoteFile(
            "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/"
            "f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt",
            "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            40_728_226,
        ),
        "generator",
        {"encoder": "tiny_vit"},
    ),
    Checkpoint(
        "mae_vit_b",
        RemoteFile(
            "https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth",
            "aec5f0b68e5f3193a00b07bc65a37440db549c15b36b8bea242606cc40c4bc5d",
            343_249_461,
        ),
        "surrogate",
        {"image_size": 512},
        # Its position embeddings are interpolated to any image size, and the rest starts at random anyway.
        fixed=("encoder", "patch_size", "embed_dim", "depth", "num_heads"),
        licence="CC-BY-NC-4.0",
    ),
)
CATALOGUE: dict[str, Checkpoint] = {checkpoint.name: checkpoint for checkpoint in _CHECKPOINTS}


def known(reference: str) -> Checkpoint | None:
    """The catalogue's entry for `sha256:<hex>`, if there is one."""
    return next((c for c in _CHECKPOINTS if c.reference == reference), None)


def named(value: str, network: Network) -> str:
    """An option's value with a catalogue's name replaced by its hash.

    Raises:
        ValueError: It is neither `random`, nor a name for this network, nor a `sha256:` reference.
    """
    checkpoint = CATALOGUE.get(value) or known(value)
    if checkpoint is not None and checkpoint.network != network:
        raise ValueError(f"{checkpoint.name} is for the {checkpoint.network}, not for the {network}")
    if checkpoint is not None:
        return checkpoint.reference
    if value == RANDOM or cache.is_reference(value):
        return value
    raise ValueError(unknown("weights", value, choices(network)))


def choices(network: Network) -> list[str]:
    """What may be named in place of a file."""
    return [RANDOM, *(c.name for c in _CHECKPOINTS if c.network == network)]


def resolve(value: str, network: Network) -> str:
    """As `named`, and a path is imported into the cache.

    Raises:
        SpecError: There is no such name and no such file.
    """
    try:
        return named(value, network)
    except ValueError as error:
        path = Path(value).expanduser()
        if value not in CATALOGUE and path.is_file():
            return cache.PREFIX + cache.import_file(path)
        hint = "" if value in CATALOGUE else " (and there is no such file)"
        raise SpecError(f"protector 'unseg': {network}_init: {error}{hint}") from error


def obtain(reference: str, report: Report = lambda done, total, note: None) -> Path:
    """The file behind `sha256:<hex>`, downloaded if it is in the catalogue and not yet in the cache.

    Raises:
        EnvironmentFault: It is not there and cannot be fetched; the message says how to get it.
        ArtifactCorrupt: The cached file is damaged.
    """
    checkpoint = known(reference)
    if checkpoint is not None:
        return fetch(checkpoint.file, report)
    return locate(reference)


def locate(reference: str) -> Path:
    """The file behind `sha256:<hex>` in the cache. Downloads nothing.

    Raises:
        EnvironmentFault: It is not there; the message says how to get it.
        ArtifactCorrupt: The cached file is damaged.
    """
    digest = reference.removeprefix(cache.PREFIX)
    path = cache.find(digest)
    if path is not None:
        return path
    checkpoint = known(reference)
    if checkpoint is not None:
        how = f"get {checkpoint.file.url} and save it as {cache.place_of(digest)}"
    else:
        how = f"give the path of the file again, or save it as {cache.place_of(digest)}"
    name = f"{checkpoint.name} ({reference})" if checkpoint else reference
    raise EnvironmentFault(f"unseg: the weights {name} are not in the cache: {how}")
