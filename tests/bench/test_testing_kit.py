"""The contract kit refuses each kind of bad plugin, and names the rule that it breaks."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, field_serializer

from bench.budget import Budget, add_noise
from bench.datasets.base import VOID
from bench.defense import Defense
from bench.errors import ContractViolation
from bench.protector import Protector, ProtectorOptions
from bench.testing import check_defense, check_protector, samples

ENTROPY = np.random.default_rng()


class GoodProtector(Protector):
    name = "good"
    summary = "independent noise"

    def noise(self, image, annotation, rng, state, run_seed):
        return rng.uniform(-1, 1, image.shape)


class Additive(GoodProtector):
    """Base of bad protectors that replace `protect`."""

    name = "bad"

    def change(self, image: np.ndarray, levels: np.ndarray) -> Any:
        raise NotImplementedError

    def protect(self, image, annotation, budget, rng, state, run_seed):
        return self.change(image, budget.levels(annotation.foreground))


class ExceedsBudget(Additive):
    def change(self, image, levels):
        return np.where(image < 128, image + 20, image - 20).astype(np.uint8)


class RoundsBudgetUp(Additive):
    def change(self, image, levels):
        step = np.ceil(levels)[..., None]
        return np.where(image < 128, image + np.minimum(step, 100), image - np.minimum(step, 100)).astype(
            np.uint8
        )


class IgnoresZeroBudget(Additive):
    def change(self, image, levels):
        limit = np.maximum(np.floor(levels), 1)[..., None]
        return np.where(image < 128, image + np.minimum(limit, 100), image).astype(np.uint8)


class WrapsAround(Additive):
    def change(self, image, levels):
        return image + np.floor(levels)[..., None].astype(np.uint8)


class Resizes(Additive):
    def change(self, image, levels):
        return image[: max(1, len(image) // 2)]


class Floats(Additive):
    def change(self, image, levels):
        return image.astype(np.float32)


class ReturnsNothing(Additive):
    def change(self, image, levels):
        return None


class MutatesImage(Additive):
    def change(self, image, levels):
        image[0, 0] ^= 1
        return image


class NaNNoise(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        noise = np.zeros(image.shape)
        noise[-1, -1] = np.nan
        return noise


class LoudNoise(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        return rng.normal(size=image.shape) * 3


class FlatNoise(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        return np.zeros(image.shape[:2])


class MutatesLabels(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        annotation.semantic[0, 0] = 3
        return np.zeros(image.shape)


class MutatesSegment(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        for segment in annotation.segments:
            segment.mask[:] = ~segment.mask
        return np.zeros(image.shape)


class GlobalNumpy(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        return np.random.uniform(-1, 1, image.shape)


class SeedsGlobalNumpy(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        np.random.seed(run_seed)
        return np.zeros(image.shape)


class GlobalPython(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        return np.full(image.shape, random.random())


class GlobalTorch(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        import torch

        return torch.rand(image.shape).numpy()


class DependsOnOrder(GoodProtector):
    def __init__(self, options=None):
        super().__init__(options)
        self.seen = 0

    def noise(self, image, annotation, rng, state, run_seed):
        self.seen += 1
        return np.full(image.shape, 1 / self.seen)


class RemembersTheFirst(GoodProtector):
    """Gives the same on a second pass, but another worker would start with another image."""

    def __init__(self, options=None):
        super().__init__(options)
        self.first = None

    def noise(self, image, annotation, rng, state, run_seed):
        if self.first is None:
            self.first = float(image.mean()) / 255
        return np.full(image.shape, self.first)


class Entropy(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        return ENTROPY.uniform(-1, 1, image.shape)


class IgnoresItsDraw(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        rng.random()
        return np.ones(image.shape)


class ClaimsToBeUnseeded(GoodProtector):
    seeded = False


class UnseededWithCodesOfTheRun(GoodProtector):
    seeded = False

    def noise(self, image, annotation, rng, state, run_seed):
        return np.full(image.shape, 1.0 if run_seed % 2 else -1.0)


class NeedsAnObject(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        rows = np.flatnonzero(annotation.foreground.any(1))
        return np.full(image.shape, rows[0] / 1000)


class NeedsManyPixels(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        return np.gradient(image.astype(float), axis=0) / 255


class TakesVoidForAClass(GoodProtector):
    def noise(self, image, annotation, rng, state, run_seed):
        return np.linspace(-1, 1, 6)[annotation.semantic][..., None].repeat(3, -1)


class NoName(GoodProtector):
    name = ""


class VersionZero(GoodProtector):
    version = 0


class VersionIsABool(GoodProtector):
    version = True


class NoSummary(GoodProtector):
    summary = ""


class ThawedOptions(GoodProtector):
    class Options(ProtectorOptions):
        model_config = ConfigDict(frozen=False, extra="forbid")


class LaxOptions(GoodProtector):
    class Options(ProtectorOptions):
        model_config = ConfigDict(frozen=True, extra="ignore")


class ForeignOptions(GoodProtector):
    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")


class LossyOptions(GoodProtector):
    class Options(ProtectorOptions):
        scale: float = 0.123456

        @field_serializer("scale")
        def _rounded(self, value: float) -> float:
            return round(value, 2)


class UnreadableOptions(GoodProtector):
    class Options(ProtectorOptions):
        folder: Any = object()


BAD_PROTECTORS = {
    NoName: "attributes",
    VersionZero: "attributes",
    VersionIsABool: "attributes",
    NoSummary: "attributes",
    ForeignOptions: "options",
    ThawedOptions: "options",
    LaxOptions: "options",
    LossyOptions: "options",
    UnreadableOptions: "options",
    NaNNoise: "noise",
    LoudNoise: "noise",
    FlatNoise: "noise",
    Resizes: "shape",
    Floats: "shape",
    ReturnsNothing: "shape",
    MutatesImage: "no-mutation",
    MutatesLabels: "no-mutation",
    MutatesSegment: "no-mutation",
    GlobalNumpy: "global-random-state",
    SeedsGlobalNumpy: "global-random-state",
    GlobalPython: "global-random-state",
    GlobalTorch: "global-random-state",
    ExceedsBudget: "budget",
    RoundsBudgetUp: "budget",
    IgnoresZeroBudget: "budget",
    WrapsAround: "budget",
    DependsOnOrder: "repeatable",
    RemembersTheFirst: "repeatable",
    Entropy: "repeatable",
    IgnoresItsDraw: "seed",
    ClaimsToBeUnseeded: "seed",
    UnseededWithCodesOfTheRun: "seed",
    NeedsAnObject: "no-errors",
    NeedsManyPixels: "no-errors",
    TakesVoidForAClass: "no-errors",
}


@pytest.mark.parametrize("bad", BAD_PROTECTORS, ids=lambda plugin: plugin.__name__)
def test_a_bad_protector_is_refused_by_its_rule(bad: type[Protector]) -> None:
    with pytest.raises(ContractViolation, match=f"breaks the rule '{BAD_PROTECTORS[bad]}'"):
        check_protector(bad)


def test_a_good_protector_passes_as_class_and_as_instance() -> None:
    check_protector(GoodProtector)
    check_protector(GoodProtector(ProtectorOptions()))


def test_an_unbounded_protector_may_leave_the_budget() -> None:
    class Negative(Additive):
        bounded = False

        def change(self, image, levels):
            return 255 - image

    check_protector(Negative)


def test_the_state_of_a_learning_protector_is_handed_on() -> None:
    class Learned(GoodProtector):
        learns = True

        def noise(self, image, annotation, rng, state, run_seed):
            return np.full(image.shape, state["noise"])

    check_protector(Learned, state={"noise": 0.5})
    with pytest.raises(ContractViolation, match="no-errors"):
        check_protector(Learned)


def write_plugin(folder: Path, header: str) -> None:
    (folder / "some_plugin.py").write_text(
        f"{header}\n"
        "from bench.protector import Protector\n"
        "class Plugin(Protector):\n"
        "    name = 'plugin'\n"
        "    summary = 'noise'\n"
        "    def noise(self, image, annotation, rng, state, run_seed):\n"
        "        return rng.uniform(-1, 1, image.shape)\n"
    )


def test_a_module_that_imports_a_heavy_library_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(tmp_path, "import matplotlib")
    monkeypatch.syspath_prepend(tmp_path)
    import some_plugin

    try:
        with pytest.raises(ContractViolation, match=r"'imports'.*matplotlib"):
            check_protector(some_plugin.Plugin)
    finally:
        del sys.modules["some_plugin"]


class GoodDefense(Defense):
    name = "good"
    summary = "inverts"

    def transform(self, image, rng):
        return 255 - image


class Identity(GoodDefense):
    def transform(self, image, rng):
        return image


class DefenseResizes(GoodDefense):
    def transform(self, image, rng):
        return image[::2, ::2].copy()


class Grays(GoodDefense):
    def transform(self, image, rng):
        return image.mean(-1).astype(np.uint8)


class DefenseFloats(GoodDefense):
    def transform(self, image, rng):
        return 1 - image / 255


class DefenseMutates(GoodDefense):
    def transform(self, image, rng):
        np.subtract(255, image, out=image)
        return image


class DefenseGlobalRandom(GoodDefense):
    def transform(self, image, rng):
        return np.roll(image, np.random.randint(5), 0)


class DefenseDependsOnOrder(GoodDefense):
    def __init__(self, options=None):
        super().__init__(options)
        self.last = np.zeros(3, np.uint8)

    def transform(self, image, rng):
        self.last, last = image[0, 0].copy(), self.last
        return image ^ last


class DefenseCrashes(GoodDefense):
    def transform(self, image, rng):
        return np.gradient(image.astype(float), axis=1).astype(np.uint8)


class DefenseIgnoresItsDraw(GoodDefense):
    def transform(self, image, rng):
        rng.random()
        return 255 - image


BAD_DEFENSES = {
    Identity: "not-identity",
    DefenseResizes: "shape",
    Grays: "shape",
    DefenseFloats: "shape",
    DefenseMutates: "no-mutation",
    DefenseGlobalRandom: "global-random-state",
    DefenseDependsOnOrder: "repeatable",
    DefenseCrashes: "no-errors",
    DefenseIgnoresItsDraw: "seed",
}


@pytest.mark.parametrize("bad", BAD_DEFENSES, ids=lambda plugin: plugin.__name__)
def test_a_bad_defense_is_refused_by_its_rule(bad: type[Defense]) -> None:
    with pytest.raises(ContractViolation, match=f"breaks the rule '{BAD_DEFENSES[bad]}'"):
        check_defense(bad)


def test_a_good_defense_passes() -> None:
    check_defense(GoodDefense)


def test_the_samples_cover_what_the_rules_speak_of() -> None:
    images = {sample.image_id: sample for sample in samples()}
    assert len(images) == len(samples())
    for sample in images.values():
        assert (
            sample.annotation.semantic.shape == sample.annotation.foreground.shape == sample.image.shape[:2]
        )
        assert all(segment.mask.any() for segment in sample.annotation.segments)
    assert {sample.image.shape[:2] for sample in images.values()} >= {(1, 1), (33, 47), (7, 64)}
    assert (images["all-void"].annotation.semantic == VOID).all()
    assert not images["no-objects"].annotation.foreground.any()
    assert images["all-object"].annotation.foreground.all()
    assert all(images[f"scene-{i}"].annotation.foreground.any() for i in range(3))


def test_the_helper_of_this_file_keeps_the_budget() -> None:
    """Otherwise a bad protector above might be refused for a fault of the harness."""
    sample = samples()[0]
    noise = np.ones(sample.image.shape)
    levels = Budget().levels(sample.annotation.foreground)
    assert (add_noise(sample.image, noise, levels).astype(int) - sample.image <= levels[..., None]).all()
