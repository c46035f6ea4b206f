"""Trained generators from outside a store: conversion of a released checkpoint, and what then uses it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from unseg_support import TINY_SAM

from bench import cache
from bench.errors import EXIT_USAGE, ArtifactCorrupt, EnvironmentFault, SpecError, UsageError
from bench.learner import FitContext
from bench.plan import make_fit_plan, make_plan
from bench.spec import DatasetSpec, Matrix, ProtectorSpec
from bench.store import Store
from protectors.unseg import UnSeg, training
from protectors.unseg.deploy import deployed_noise, load_generator
from protectors.unseg.generator import NoiseSam
from protectors.unseg.options import Geometry, UnSegOptions
from protectors.unseg.weights import (
    OPTIONS,
    WEIGHTS,
    convert,
    import_generator,
    resolve_generator,
    stated_options,
)

GIVEN = {"generator": TINY_SAM}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def network() -> NoiseSam:
    torch.manual_seed(0)
    return NoiseSam(Geometry(**TINY_SAM), "official").eval()


@pytest.fixture
def released(network: NoiseSam, tmp_path: Path) -> Path:
    """The state dict of a whole NoiseSam, as its authors save one."""
    path = tmp_path / "Generator_HQSeg_final.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def reference(released: Path) -> str:
    return convert(released, GIVEN).reference


def noise_of(network: NoiseSam) -> np.ndarray:
    image = np.random.default_rng(1).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    mask = np.zeros((20, 31), bool)
    mask[3:12, 5:25] = True
    return deployed_noise(network, image, mask)


# ---- conversion ----------------------------------------------------------------------------------


def test_a_released_checkpoint_makes_the_noise_that_it_made(released: Path, network: NoiseSam) -> None:
    imported = convert(released, GIVEN)
    assert {p.name for p in imported.state_dir.iterdir()} == {WEIGHTS, OPTIONS}
    assert imported.options == {"weights": imported.reference}
    assert imported.notes[0].startswith(f"Generator_HQSeg_final.pth: {len(network.state_dict())} tensors, ")
    loaded = load_generator(imported.state_dir, "cpu")
    assert loaded.mask_decoder.first_read_token == 4
    assert (noise_of(loaded) == noise_of(network)).all()
    stated = json.loads((imported.state_dir / OPTIONS).read_text())
    assert stated["token_readout"] == "official"
    assert Geometry(**stated["generator"]) == Geometry(**TINY_SAM)


@pytest.mark.parametrize("wrap", ["model", "module", "half", "buffers"])
def test_wrappers_prefixes_constants_and_precision_change_nothing_that_counts(
    network: NoiseSam, tmp_path: Path, wrap: str
) -> None:
    state: dict[str, Any] = network.state_dict()
    if wrap == "model":
        state = {"model": state, "epoch": 26}
    elif wrap == "module":
        state = {f"module.{name}": value for name, value in state.items()}
    elif wrap == "half":
        state = {name: value.half() for name, value in state.items()}
    else:
        state = {**state, "pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    torch.save(state, tmp_path / "wrapped.pth")
    imported = convert(tmp_path / "wrapped.pth", GIVEN)
    np.testing.assert_allclose(
        noise_of(load_generator(imported.state_dir, "cpu")), noise_of(network), atol=0.02
    )
    assert ("left out, constants: pixel_mean, pixel_std" in imported.notes) is (wrap == "buffers")


def test_the_same_file_gets_the_same_name_and_another_readout_another(released: Path) -> None:
    first = convert(released, GIVEN)
    assert convert(released, GIVEN) == first
    assert convert(released, {**GIVEN, "token_readout": "intended"}).reference != first.reference


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mask_decoder.noise_token.weight", None, "1 missing: mask_decoder.noise_token.weight"),
        ("image_encoder.pos_embed", torch.zeros(1, 5, 5, 8), "image_encoder.pos_embed is (1, 5, 5, 8) and"),
        ("mask_decoder.hf_token.weight", torch.zeros(1), "1 extra: mask_decoder.hf_token.weight"),
        ("mask_decoder.iou_token.weight", torch.full((1, 16), torch.nan), "values that are not finite"),
    ],
)
def test_what_is_no_generator_is_refused_with_the_names(
    network: NoiseSam, tmp_path: Path, cache_folder: Path, name: str, value: Any, message: str
) -> None:
    state = dict(network.state_dict())
    if value is None:
        del state[name]
    else:
        state[name] = value
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UsageError) as caught:
        convert(tmp_path / "other.pth", GIVEN)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE
    assert not list(cache_folder.glob("generators/*"))


def test_the_geometry_is_sam_s_vit_b_unless_it_is_given(released: Path) -> None:
    with pytest.raises(UsageError, match=r"no generator of the geometry SAM ViT-B, 1024 px: .* misshapen"):
        convert(released, {})
    with pytest.raises(SpecError, match="'phases' says nothing about a generator that is trained"):
        convert(released, {**GIVEN, "phases": 3})
    with pytest.raises(SpecError, match="token_readout"):
        convert(released, {**GIVEN, "token_readout": "both"})


class Payload:
    """Pickled, it runs a command when it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("place", ["whole", "beside tensors"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    network: NoiseSam, tmp_path: Path, place: str
) -> None:
    marker = tmp_path / "it ran"
    payload = Payload(f"touch '{marker}'")
    evil = tmp_path / "evil.pth"
    torch.save(payload if place == "whole" else {"model": network.state_dict(), "args": payload}, evil)
    with pytest.raises(UsageError, match=r"was not loaded: besides tensors it holds posix.system"):
        convert(evil, GIVEN)
    assert not marker.exists()
    torch.load(evil, weights_only=False)
    assert marker.exists(), "the file does what it is meant to do"


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\x80\x02}q\x00.", b"PK\x03\x04broken"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(UsageError, match=r"is no checkpoint that can be read|holds no tensors"):
        convert(tmp_path / "file.pth", GIVEN)


# ---- what names a generator ----------------------------------------------------------------------


def test_a_generator_is_named_by_its_hash_its_folder_its_stage_or_its_weights(
    reference: str, network: NoiseSam, tmp_path: Path
) -> None:
    cached = resolve_generator(reference)
    stage = tmp_path / "stage"
    (stage / "state").mkdir(parents=True)
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in (WEIGHTS, OPTIONS):
        (stage / "state" / name).write_bytes((cached / name).read_bytes())
    (alone / "mine.safetensors").write_bytes((cached / WEIGHTS).read_bytes())
    (alone / OPTIONS).write_bytes((cached / OPTIONS).read_bytes())
    assert resolve_generator(str(stage)) == resolve_generator(str(stage / "state")) == stage / "state"
    assert resolve_generator(str(stage / "state" / WEIGHTS)) == stage / "state"
    assert resolve_generator(str(alone / "mine.safetensors")) == cached
    for named in (str(stage), str(stage / "state"), str(alone / "mine.safetensors"), reference):
        assert import_generator(named) == reference
        assert (noise_of(load_generator(resolve_generator(named), "cpu")) == noise_of(network)).all()


def test_what_names_no_generator_is_said(
    tmp_path: Path, released: Path, reference: str, cache_folder: Path
) -> None:
    for missing in (str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(UsageError, match="no generator at"):
            resolve_generator(missing)
    with pytest.raises(UsageError, match=r"is no safetensors file: convert it with bench fit --from"):
        resolve_generator(str(released))
    with pytest.raises(EnvironmentFault, match=r"no generator sha256:1.* in the cache: convert it again"):
        resolve_generator(f"sha256:{'1' * 64}")
    with pytest.raises(UsageError, match="64 lower-case hex digits"):
        resolve_generator("sha256:../../etc")
    lonely = tmp_path / "lonely.safetensors"
    lonely.write_bytes((resolve_generator(reference) / WEIGHTS).read_bytes())
    with pytest.raises(UsageError, match=r"options.json is missing"):
        resolve_generator(str(lonely))


@pytest.mark.parametrize("name", [WEIGHTS, OPTIONS])
def test_a_changed_cached_generator_is_not_used(reference: str, name: str) -> None:
    path = resolve_generator(reference) / name
    path.write_bytes(path.read_bytes().replace(b"official", b"intended") + b" ")
    with pytest.raises(ArtifactCorrupt, match="damaged: delete the folder"):
        resolve_generator(reference)


def test_the_files_are_called_as_training_calls_them() -> None:
    assert (WEIGHTS, OPTIONS) == (training.WEIGHTS, training.OPTIONS)


# ---- what uses it --------------------------------------------------------------------------------


def test_a_protector_with_weights_trains_nothing_and_protects_with_them(
    reference: str, network: NoiseSam, tmp_path: Path
) -> None:
    options = UnSeg.resolve_options("cpu", {"weights": reference})
    protector = UnSeg(options)
    assert not protector.trains
    assert UnSeg(UnSegOptions()).trains
    assert protector.noise_grid(100, 80) == 16
    state = tmp_path / "state"
    state.mkdir()
    (state / WEIGHTS).write_bytes(b"of an interrupted attempt")
    for _ in range(2):
        protector.fit([], FitContext(tmp_path, state, 0, "cpu"))
        assert {path.name for path in state.iterdir()} == {WEIGHTS, OPTIONS}
    assert (noise_of(protector.load(state, "cpu")) == noise_of(network)).all()


def test_weights_settle_every_other_option(reference: str) -> None:
    options = UnSeg.resolve_options("cpu", {"weights": reference})
    assert (options.generator, options.token_readout) == (Geometry(**TINY_SAM), "official")
    assert options == UnSeg.resolve_options("paper", {"weights": reference})
    assert UnSeg.resolve_options("ci", options.model_dump(mode="json")) == options
    assert UnSeg.resolve_options("ci", {"weights": reference, "generator": {"depth": 2}}) == options
    for other in ({"phases": 3}, {"generator": {"depth": 3}}, {"token_readout": "intended"}):
        with pytest.raises(SpecError, match=f"leave {next(iter(other))} out"):
            UnSeg.resolve_options("ci", {"weights": reference, **other})
    with pytest.raises(ValidationError):
        UnSeg.resolve_options("ci", {"weights": reference, "phasse": 3})


def test_a_path_is_imported_and_becomes_a_hash(reference: str, tmp_path: Path) -> None:
    cached = resolve_generator(reference)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (WEIGHTS, OPTIONS):
        (copy / name).write_bytes((cached / name).read_bytes())
    assert UnSeg.resolve_options("ci", {"weights": str(copy)}).weights == reference
    assert stated_options(reference).generator == Geometry(**TINY_SAM)


def test_a_state_that_was_trained_here_is_deployed_by_its_folder(tmp_path: Path) -> None:
    options = UnSeg.resolve_options("ci", {"generator": TINY_SAM, "surrogate": TINY_SAM})
    folder = tmp_path / "state"
    folder.mkdir()
    trained = training.Training(options, 0, "cpu").generator.eval()
    training.save_weights(folder / WEIGHTS, trained)
    (folder / OPTIONS).write_text(options.model_dump_json())
    deployed = UnSeg.resolve_options("ci", {"weights": str(folder)})
    assert deployed.token_readout == "intended"
    assert cache.is_reference(deployed.weights or "")
    loaded = load_generator(resolve_generator(deployed.weights or ""), "cpu")
    assert (noise_of(loaded) == noise_of(trained)).all()


def test_seeds_share_one_generator_and_what_it_protected(reference: str, tmp_path: Path) -> None:
    spec = ProtectorSpec(name="unseg", options={"weights": reference})
    matrix = Matrix(protectors=(spec,), victims=("unetplusplus",), seeds=(0, 1), profile="ci", controls=False)
    stages = make_plan(matrix, Store(tmp_path)).stages
    assert sorted(s.kind for s in stages) == [
        *["data"],
        *["evaluate"] * 2,
        *["fit"],
        *["protect"],
        *["train"] * 2,
    ]
    (fit,) = (s for s in stages if s.kind == "fit")
    alone = make_fit_plan(spec, DatasetSpec(), "cpu", 7, Store(tmp_path)).stages
    assert [s.id for s in alone] == [fit.id]
    with pytest.raises(SpecError, match="it takes no --fit-on"):
        fitted_on = spec.model_copy(update={"fit_on": (DatasetSpec(),)})
        make_fit_plan(fitted_on, DatasetSpec(), "ci", 0, Store(tmp_path))
