"""Trained generators that come from outside a store: the authors' checkpoints, and states that were copied.

A generator is a folder of `generator.safetensors` and `options.json`, as `protectors.unseg.training.fit` leaves
it. In the user's cache it lies under one sha256 of both files: the weights alone do not say which tokens are
read out. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench import cache
from bench.errors import ArtifactCorrupt, EnvironmentFault, SpecError, UsageError
from bench.files import explained, sync_folder
from bench.protector import ImportedState
from bench.spec import validated
from protectors.unseg.options import Geometry, UnSegOptions

WEIGHTS = "generator.safetensors"
OPTIONS = "options.json"
FILES = (WEIGHTS, OPTIONS)


def resolve_generator(reference: str) -> Path:
    """The folder of a trained generator, for `protectors.unseg.deploy.load_generator`.

    Args:
        reference: `sha256:<hex>` of a generator in the user's cache; a folder of `generator.safetensors` and
            `options.json`, or a finished `fit` stage, which has such a folder inside; or a safetensors file
            with `options.json` beside it.

    Raises:
        UsageError: There is no generator at that place.
        EnvironmentFault: It is not in the cache.
        ArtifactCorrupt: The cached one is damaged.
    """
    if reference.startswith(cache.PREFIX):
        return _cached(reference)
    weights, options = _files_of(reference)
    if weights.name == WEIGHTS and options.parent == weights.parent:
        return weights.parent
    return _cached(_import(weights, options))


def import_generator(reference: str) -> str:
    """Copies a generator into the user's cache, if it is not there yet.

    Args:
        reference: As for `resolve_generator`.

    Returns:
        `sha256:<hex>`.

    Raises:
        UsageError: There is no generator at that place.
        EnvironmentFault: It is not in the cache, or the cache cannot be written.
        ArtifactCorrupt: The cached one is damaged.
    """
    if reference.startswith(cache.PREFIX):
        _cached(reference)
        return reference
    return _import(*_files_of(reference))


def stated_options(reference: str) -> UnSegOptions:
    """What `options.json` of a cached generator says.

    Raises:
        ArtifactCorrupt: It says nothing that can be read.
        EnvironmentFault: There is no such generator in the cache.
    """
    return _read_options(_cached(reference) / OPTIONS)


def place_state(reference: str, state_dir: Path) -> None:
    """Puts a cached generator into a stage's state, by hard links where the file systems are one."""
    source = _cached(reference)
    for name in FILES:
        temporary = state_dir / f".{name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        try:
            os.link(source / name, temporary)
        except OSError:
            with explained(state_dir):
                shutil.copyfile(source / name, temporary)
        os.replace(temporary, state_dir / name)
        temporary.unlink(missing_ok=True)  # a rename onto another link of the same file leaves both


def convert(file: Path, given: dict[str, Any]) -> ImportedState:
    """Converts a checkpoint of the authors, or one of the same layout, to a generator in the user's cache.

    It is the state dict of the whole NoiseSam. It is read once, as tensors and nothing else.

    Args:
        file: What `torch.save` wrote.
        given: `generator` (a geometry; SAM's ViT-B at 1024 pixels if left out) and `token_readout`
            (`official` if left out).

    Raises:
        UsageError: The file holds more than tensors, or does not fit the geometry.
        SpecError: Another option was given.
    """
    import torch
    from safetensors.torch import save_file

    from protectors.unseg.generator import NoiseSam
    from protectors.unseg.pretrained import compare, read_state_dict

    others = sorted(set(given) - {"generator", "token_readout"})
    if others:
        raise SpecError(f"option {others[0]!r} says nothing about a generator that is trained already")
    options = validated(UnSegOptions, {"token_readout": "official", **given}, "protector 'unseg'")
    state = read_state_dict(file)
    with torch.device("meta"):
        network = NoiseSam(options.generator, options.token_readout).state_dict()
    comparison = compare(state, network)
    if not comparison.fits:
        raise UsageError(
            f"{file} is no generator of the geometry {_describe(options.generator)}: {comparison}"
        )
    tensors = {name: state[name].to(value.dtype).contiguous().clone() for name, value in network.items()}
    bad = [name for name, value in tensors.items() if not value.isfinite().all()]
    if bad:
        raise UsageError(f"{file} holds values that are not finite, in {bad[0]} ({len(bad)} tensors)")
    above = cache.cache_folder()
    with explained(above, cache.PLACE):
        above.mkdir(parents=True, exist_ok=True)
    with explained(above, cache.PLACE), tempfile.TemporaryDirectory(dir=above, suffix=".tmp") as folder:
        weights, stated = Path(folder) / WEIGHTS, Path(folder) / OPTIONS
        save_file(tensors, weights)
        said = options.model_dump(mode="json", include={"generator", "token_readout"})
        stated.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        reference = _import(weights, stated)
    numbers = sum(value.numel() for value in tensors.values())
    notes = [
        f"{file.name}: {len(tensors)} tensors, {numbers:,} numbers; no name missing, extra or misshapen",
        f"geometry {_describe(options.generator)}, token readout {options.token_readout}",
    ]
    if comparison.ignored:
        notes.append(f"left out, constants: {', '.join(comparison.ignored)}")
    return ImportedState(_cached(reference), reference, {"weights": reference}, tuple(notes))


def _describe(geometry: Geometry) -> str:
    """What a geometry is called: SAM's ViT-B, or how it differs from that."""
    fields = geometry.model_fields
    changed = [f"{n} {getattr(geometry, n)}" for n in fields if getattr(geometry, n) != fields[n].default]
    return f"SAM ViT-B with {', '.join(changed)}" if changed else "SAM ViT-B, 1024 px"


def _files_of(reference: str) -> tuple[Path, Path]:
    """Weights and options of a generator that is named by a path."""
    path = Path(reference).expanduser()
    if path.is_dir():
        folder = path / "state" if (path / "state" / WEIGHTS).is_file() else path
        weights, options = folder / WEIGHTS, folder / OPTIONS
    else:
        weights, options = path, path.with_name(OPTIONS)
    if not weights.is_file():
        raise UsageError(
            f"no generator at {reference}: name a folder of {WEIGHTS} and {OPTIONS}, or sha256:<hex>"
        )
    if path.is_file() and not _is_safetensors(path):
        raise UsageError(f"{reference} is no safetensors file: convert it with bench fit --from {reference}")
    if not options.is_file():
        raise UsageError(f"{options} is missing: it says how the generator {weights.name} is built")
    return weights, options


def _is_safetensors(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(9)[8:] == b"{"


def _digest(weights: Path, options: Path) -> str:
    """The sha256 of the sha256s of weights and options, in hex, a line each."""
    lines = f"{cache.file_digest(weights)}\n{cache.file_digest(options)}\n"
    return hashlib.sha256(lines.encode()).hexdigest()


def _folder(digest: str) -> Path:
    return cache.cache_folder() / "generators" / digest


def _cached(reference: str) -> Path:
    digest = reference.removeprefix(cache.PREFIX)
    folder = _folder(digest)
    if not cache.is_reference(reference):
        raise UsageError(f"{reference} is no sha256: with 64 lower-case hex digits")
    if not all((folder / name).is_file() for name in FILES):
        raise EnvironmentFault(
            f"no generator {reference} in the cache: convert it again with bench fit --from FILE, or copy its "
            f"folder to {folder}"
        )
    if _digest(folder / WEIGHTS, folder / OPTIONS) != digest:
        raise ArtifactCorrupt(f"the generator in {folder} is damaged: delete the folder and convert it again")
    return folder


def _import(weights: Path, options: Path) -> str:
    """Copies a generator's two files into the cache; returns `sha256:<hex>`."""
    _read_options(options)
    digest = _digest(weights, options)
    folder = _folder(digest)
    if not folder.is_dir():
        with explained(folder, cache.PLACE):
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f"{digest[:16]}.", suffix=".tmp", dir=folder.parent))
            try:
                os.chmod(temporary, 0o777 & ~cache.umask())
                shutil.copyfile(weights, temporary / WEIGHTS)
                shutil.copyfile(options, temporary / OPTIONS)
                sync_folder(temporary)
                try:
                    os.rename(temporary, folder)
                except OSError:
                    if not folder.is_dir():  # if it is, another process was as quick
                        raise
                sync_folder(folder.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return cache.PREFIX + digest


def _read_options(path: Path) -> UnSegOptions:
    try:
        return UnSegOptions(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, ValidationError) as error:
        raise ArtifactCorrupt(f"{path} does not hold the options of a generator") from error
