"""What `bench protect` is asked for, and whether it fits together."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench import registry
from bench.budget import Budget
from bench.errors import EnvironmentFault, UsageError
from bench.protect.output import file_sha256
from bench.protect.prompts import ObjectPrompt, Region
from bench.protect.protection import Precision, Protection
from bench.protector import Protector
from bench.spec import Codec, spec_error


@dataclass(frozen=True)
class Request:
    """What `bench protect` is asked for. One of `images`, `image` and `dataset` is given.

    Attributes:
        output: Folder for everything that is written.
        images: Folder of photographs.
        masks: Folder of their masks.
        prompts: JSON file of boxes and points by name.
        image: One photograph.
        mask: Its mask.
        objects: Or its boxes and points.
        dataset: Name of a dataset adapter.
        data_root: Where the dataset lies.
        dataset_options: Options of the adapter.
        protector: Registered name.
        protector_options: Options of a protector that does not learn.
        generator: The state of one that does: a folder, or what else it finds its states by.
        budget: The budget.
        codec: How files are stored.
        region: What is protected for boxes and points; None: boxes themselves, for points what is predicted.
        seed: Seed of a protector that draws random numbers.
        precision: `bf16` runs the network in torch's autocast.
        device: torch device string.
        batch_size: Images that the network sees at once; 0: 1 on a CPU, 8 on a GPU.
        workers: Threads for reading and writing.
        threads: torch's threads; 0 leaves them as they are.
        force: Do everything again, whatever lies in `output`.
        strict: Stop at the first image that fails.
    """

    output: Path
    images: Path | None = None
    masks: Path | None = None
    prompts: Path | None = None
    image: Path | None = None
    mask: Path | None = None
    objects: tuple[ObjectPrompt, ...] = ()
    dataset: str | None = None
    data_root: Path | None = None
    dataset_options: dict[str, Any] = field(default_factory=dict)
    protector: str = "unseg"
    protector_options: dict[str, Any] = field(default_factory=dict)
    generator: str | None = None
    budget: Budget = field(default_factory=Budget)
    codec: Codec = "png"
    region: Region | None = None
    seed: int = 0
    precision: Precision = "fp32"
    device: str = "cpu"
    batch_size: int = 0
    workers: int = 0
    threads: int = 0
    force: bool = False
    strict: bool = False


def require_one_source(request: Request) -> None:
    """Refuses flags that do not go together, before anything is opened."""
    given = [name for name in ("images", "image", "dataset") if getattr(request, name) is not None]
    if len(given) != 1:
        raise UsageError("give one of --images DIR, --image FILE and --dataset NAME")
    kind = given[0]
    belongs = {
        "images": ("masks", "prompts"),
        "image": ("mask", "objects"),
        "dataset": ("data_root", "dataset_options"),
    }
    flags = {"objects": "--box and --point", "dataset_options": "--dataset-option"}
    for other, names in belongs.items():
        for name in names:
            if other != kind and getattr(request, name):
                flag = flags.get(name, f"--{name.replace('_', '-')}")
                raise UsageError(f"{flag} belongs to --{other}, not to --{kind}")
    if kind == "images" and request.masks is None and request.prompts is None:
        raise UsageError("say what is to be protected: --masks DIR, --prompts FILE.json, or both")
    if kind == "image" and (request.mask is None) == (not request.objects):
        raise UsageError("say what is to be protected: --mask FILE, or --box and --point")
    pointed = request.prompts is not None or bool(request.objects)
    if request.region is not None and not pointed:
        raise UsageError("--region is for boxes and points: a mask is its own region")


def find_protector(request: Request) -> tuple[Protector, Path | None]:
    """The protector, and the folder of its state if it has one."""
    plugin: type[Protector] = registry.load("protector", request.protector)
    if not plugin.learns:
        if request.generator is not None:
            raise UsageError(f"protector {plugin.name!r} learns nothing: it takes no --generator")
        try:
            return plugin(plugin.Options(**request.protector_options)), None
        except ValidationError as error:
            raise spec_error(error, plugin.Options, f"protector {plugin.name!r}") from error
    if request.generator is None:
        raise UsageError(
            f"protector {plugin.name!r} needs a trained generator: make one with bench fit, or give one with "
            "--generator"
        )
    if request.protector_options:
        raise UsageError(
            "--protector-option says how a generator is trained: the one given is trained already"
        )
    return plugin(), plugin.find_state(request.generator)


def identity_of_request(request: Request, protector: Protector, state_dir: Path | None) -> dict[str, Any]:
    """Everything that can change a protected file, besides the files themselves."""
    dataset = {"name": request.dataset, "options": request.dataset_options} if request.dataset else None
    return {
        "dataset": dataset,
        "protector": protector.name,
        "version": protector.version,
        "options": protector.options.model_dump(mode="json") if state_dir is None else {},
        "generator": None if state_dir is None else _state_sha256(state_dir),
        "budget": request.budget.model_dump(mode="json"),
        "codec": request.codec,
        "region": request.region,
        "seed": request.seed if protector.seeded else None,
        "precision": request.precision,
    }


def _state_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def load_protection(request: Request, protector: Protector, state_dir: Path | None) -> Protection:
    """What is to be done, with the protector's state loaded.

    Raises:
        ArtifactCorrupt: The state cannot be read.
        EnvironmentFault: There is no such device.
    """
    state = None
    if state_dir is not None:
        _prepare_torch(request)
        state = protector.load(state_dir, request.device)
    return Protection(
        protector,
        state,
        request.budget,
        request.codec,
        seed=request.seed,
        region=request.region,
        precision=request.precision,
        device=request.device,
        quick=True,
    )


def _prepare_torch(request: Request) -> None:
    # Threads of OpenMP that wait for each other by spinning take the cores from those that read and write files.
    # Read when torch is loaded; where it is loaded already, this changes nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    if request.threads:
        torch.set_num_threads(request.threads)
    torch.set_flush_denormal(True)  # arithmetic on denormal numbers is many times slower on most CPUs
    if request.device.startswith("cuda") and not torch.cuda.is_available():
        raise EnvironmentFault(
            f"device {request.device} was asked for and CUDA is not available: use --device cpu"
        )
