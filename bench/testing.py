"""Checks that a protector or a defense keeps its contract, for the tests of whoever writes one.

    from bench.testing import check_protector

    def test_my_protector():
        check_protector(MyProtector)

Both checks raise `ContractViolation` at the first rule that is broken, and name the rule.
"""

from __future__ import annotations

import inspect
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel

from bench.budget import Budget, excess
from bench.datasets.base import VOID, Annotation, Segment
from bench.datasets.shapes.scenes import draw_scene
from bench.defense import Defense, DefenseOptions
from bench.errors import ContractViolation
from bench.protector import Protector, ProtectorOptions
from bench.seeds import generator

_HEAVY = ("torch", "torchvision", "mmengine", "mmcv", "mmdet", "mmseg", "pandas", "matplotlib")

_BUDGETS = (
    Budget(),
    Budget(kind="uniform"),
    Budget(epsilon=2.5, epsilon_background=0.5),
    Budget(kind="uniform", epsilon=255),
)
_NO_BUDGET = Budget(epsilon=0, epsilon_background=0)


@dataclass(frozen=True)
class Sample:
    """An image with its labels, as a plugin sees it.

    Attributes:
        image_id: What its randomness is derived from.
        image: `(H, W, 3)` uint8 RGB.
        annotation: Its labels.
    """

    image_id: str
    image: np.ndarray
    annotation: Annotation


def samples() -> tuple[Sample, ...]:
    """The images of the checks: scenes of `shapes`, odd sizes, no objects, nothing but void."""
    scenes = [_sample(f"scene-{index}", index, 64, 64) for index in range(3)]
    odd = [
        _sample(f"{height}x{width}", 3, height, width)
        for height, width in ((33, 47), (47, 33), (7, 64), (64, 7), (1, 1))
    ]
    image = scenes[0].image
    nothing = np.zeros(image.shape[:2], bool)
    bare = [
        Sample(name, image, Annotation(np.full(image.shape[:2], label, np.uint8), (), nothing))
        for name, label in (("no-objects", 0), ("all-void", VOID))
    ]
    whole = np.ones(image.shape[:2], bool)
    filled = Annotation(np.ones(image.shape[:2], np.uint8), (Segment(whole, 0),), whole)
    return (*scenes, *odd, *bare, Sample("all-object", image, filled))


def _sample(image_id: str, index: int, height: int, width: int) -> Sample:
    """The top left corner of a scene, of which objects may be cut off."""
    scene = draw_scene(0, index)
    instances = scene.instances[:height, :width]
    segments = tuple(
        Segment(instances == k, category - 1)
        for k, category in enumerate(scene.categories, start=1)
        if (instances == k).any()
    )
    annotation = Annotation(scene.semantic[:height, :width], segments, instances > 0)
    return Sample(image_id, scene.image[:height, :width].copy(), annotation)


def _rng(seed: int, sample: Sample) -> np.random.Generator:
    return generator(seed, "contract", sample.image_id)


def check_protector(protector: type[Protector] | Protector, state: Any = None) -> None:
    """Checks a protector on a dozen small images.

    The rules, in order:

    * `attributes`: `name` is a word, `version` an integer of 1 or more, `summary` not empty;
    * `options`: a frozen model that refuses unknown fields and survives JSON;
    * `no-errors`: no image is answered with an exception;
    * `noise`: `noise`, where it is overridden, gives finite numbers in [-1, 1] of the image's shape;
    * `shape`: the result has the size of the image and is uint8;
    * `no-mutation`: image and labels are as before;
    * `global-random-state`: the global generators of Python, numpy and torch are as before;
    * `budget`: after a PNG round trip no pixel differs by more than its budget, unless the method is
      unbounded; with a budget of zero nothing differs;
    * `repeatable`: the same seed gives the same image, in any order, from an instance that saw no other;
    * `seed`: if randomness is drawn, another seed gives another image; if `seeded` is False, the same;
    * `imports`: importing its module imports none of torch, mmengine, pandas, matplotlib and the like.

    Args:
        protector: A class with usable default options, or an instance.
        state: What `load` returned, for one that learns.

    Raises:
        ContractViolation: A rule is broken.
    """
    _check_attributes(protector, ProtectorOptions)
    instance = protector() if isinstance(protector, type) else protector
    _check_options(instance.name, instance.options)
    images = samples()
    run = _protector_run(state)
    for sample in images:
        _check_noise(instance, sample, state)
        for budget in (*_BUDGETS, _NO_BUDGET):
            with _unchanged(instance.name, sample):
                protected = run(instance, sample, 0, budget)
            _check_image(instance.name, sample, protected)
            if instance.bounded:
                _check_budget(instance.name, sample, protected, budget)
    _check_repeatable(instance, images, run)
    _check_seed(instance, images, run)
    _check_imports(instance)


def check_defense(defense: type[Defense] | Defense, state: Any = None) -> None:
    """Checks a defense on a dozen small images.

    The rules are those of `check_protector` without `noise` and `budget`, and

    * `labels`: labels that it changes are uint8 and keep the size of the image;
    * `not-identity`: at least one image or label is changed, unless the defense is called `none`, changes how a
      training step goes, or holds images out.

    Args:
        defense: A class with usable default options, or an instance.
        state: What `load` returned, for one that learns.

    Raises:
        ContractViolation: A rule is broken.
    """
    _check_attributes(defense, DefenseOptions)
    instance = defense() if isinstance(defense, type) else defense
    _check_options(instance.name, instance.options)
    images = samples()
    changed = False
    for sample in images:
        with _unchanged(instance.name, sample):
            result, labels = _transform_sample(instance, sample, _rng(0, sample), state)
        _check_image(instance.name, sample, result)
        if labels.semantic.shape != sample.image.shape[:2] or labels.semantic.dtype != np.uint8:
            found = f"{labels.semantic.shape} {labels.semantic.dtype}"
            raise _violation(instance.name, "labels", f"turns labels of {sample.image_id} into {found}")
        changed |= not np.array_equal(result, sample.image)
        changed |= not np.array_equal(labels.semantic, sample.annotation.semantic)
    does_else = type(instance).procedure is not Defense.procedure or instance.held_out
    if not changed and instance.name != "none" and not does_else:
        raise _violation(instance.name, "not-identity", "leaves every image as it is")
    run = _defense_run(state)
    _check_repeatable(instance, images, run)
    _check_seed(instance, images, run)
    _check_imports(instance)


_Run = Callable[..., np.ndarray]


def _protector_run(state: Any) -> _Run:
    def run(
        protector: Protector,
        sample: Sample,
        seed: int,
        budget: Budget = _BUDGETS[0],
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        rng = rng or _rng(seed, sample)
        with _no_errors(protector.name, sample):
            return protector.protect(sample.image, sample.annotation, budget, rng, state, seed)

    return run


def _defense_run(state: Any) -> _Run:
    def run(
        defense: Defense, sample: Sample, seed: int, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        return _transform_sample(defense, sample, rng or _rng(seed, sample), state)[0]

    return run


def _transform_sample(
    defense: Defense, sample: Sample, rng: np.random.Generator, state: Any
) -> tuple[np.ndarray, Annotation]:
    others = samples()

    def other() -> tuple[np.ndarray, Annotation]:
        drawn = others[int(rng.integers(len(others)))]
        return drawn.image, drawn.annotation

    with _no_errors(defense.name, sample):
        adapted = defense.adapt((one.image, one.annotation) for one in others)
        image = defense.purify(sample.image, state, rng)
        return adapted.transform_sample(image, sample.annotation, rng, other)


def _violation(name: str, rule: str, what: str) -> ContractViolation:
    return ContractViolation(f"{name} breaks the rule '{rule}': {what}")


@contextmanager
def _no_errors(name: str, sample: Sample) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        what = f"{type(error).__name__} on image {sample.image_id}: {error}"
        raise _violation(name, "no-errors", what) from error


@contextmanager
def _unchanged(name: str, sample: Sample) -> Iterator[None]:
    """Fails if the body changes the sample or a global random state."""
    arrays_before, random_before = _arrays(sample), _random_states()
    yield
    arrays_after, random_after = _arrays(sample), _random_states()
    for part, before in arrays_before.items():
        if not np.array_equal(before, arrays_after[part]):
            raise _violation(name, "no-mutation", f"changes the {part} of {sample.image_id}")
    for library, state in random_before.items():
        if state != random_after[library]:
            raise _violation(name, "global-random-state", f"draws from {library} in place of its rng")


def _arrays(sample: Sample) -> dict[str, np.ndarray]:
    annotation = sample.annotation
    segments = {f"mask of segment {i}": s.mask.copy() for i, s in enumerate(annotation.segments)}
    return {
        "image": sample.image.copy(),
        "label map": annotation.semantic.copy(),
        "foreground": annotation.foreground.copy(),
        **segments,
    }


def _random_states() -> dict[str, Any]:
    import random

    legacy = np.random.get_state(legacy=False)
    position = (legacy["state"]["key"].tobytes(), legacy["state"]["pos"], legacy["has_gauss"])
    states: dict[str, Any] = {"random": random.getstate(), "numpy.random": position}
    if "torch" in sys.modules:
        import torch

        states["torch"] = torch.get_rng_state().numpy().tobytes()
    return states


def _check_attributes(plugin: Any, options_base: type[BaseModel]) -> None:
    owner = plugin if isinstance(plugin, type) else type(plugin)
    name = getattr(owner, "name", None)
    if not isinstance(name, str) or not name or name != name.strip():
        raise _violation(owner.__name__, "attributes", f"`name` is {name!r}, not a word")
    version = owner.version
    if type(version) is not int or version < 1:
        raise _violation(name, "attributes", f"`version` is {version!r}, not an integer of 1 or more")
    if not isinstance(owner.summary, str) or not owner.summary:
        raise _violation(name, "attributes", "`summary` is empty")
    if not issubclass(owner.Options, options_base):
        raise _violation(name, "options", f"`Options` is no subclass of {options_base.__name__}")


def _check_options(name: str, options: BaseModel) -> None:
    config = type(options).model_config
    if not config.get("frozen") or config.get("extra") != "forbid":
        raise _violation(name, "options", "`Options` has to be frozen and refuse unknown fields")
    try:
        again = type(options).model_validate_json(options.model_dump_json())
    except Exception as error:
        raise _violation(name, "options", f"does not survive JSON: {error}") from error
    if again != options:
        raise _violation(name, "options", f"JSON turns {options} into {again}")


def _check_noise(protector: Protector, sample: Sample, state: Any) -> None:
    if type(protector).noise is Protector.noise:
        return
    rng = _rng(0, sample)
    with _unchanged(protector.name, sample), _no_errors(protector.name, sample):
        noise = np.asarray(protector.noise(sample.image, sample.annotation, rng, state, 0))
    where = f"for image {sample.image_id}"
    if noise.shape != sample.image.shape:
        raise _violation(protector.name, "noise", f"shape {noise.shape} {where}, not {sample.image.shape}")
    if not np.isfinite(noise).all():
        raise _violation(protector.name, "noise", f"NaN or infinity {where}")
    if np.abs(noise).max() > 1 + 1e-6:
        raise _violation(protector.name, "noise", f"{np.abs(noise).max():.3g} {where}, outside [-1, 1]")


def _check_image(name: str, sample: Sample, result: Any) -> None:
    if not isinstance(result, np.ndarray) or result.dtype != np.uint8:
        kind = result.dtype if isinstance(result, np.ndarray) else type(result).__name__
        raise _violation(name, "shape", f"gives {kind} for image {sample.image_id}, not a uint8 array")
    if result.shape != sample.image.shape:
        raise _violation(name, "shape", f"turns {sample.image.shape} into {result.shape}")


def _check_budget(name: str, sample: Sample, protected: np.ndarray, budget: Budget) -> None:
    buffer = io.BytesIO()
    Image.fromarray(protected).save(buffer, "PNG")
    with Image.open(buffer) as file:
        decoded = np.array(file)
    over = excess(sample.image, decoded, budget.levels(sample.annotation.foreground))
    if over > 0:
        raise _violation(
            name, "budget", f"image {sample.image_id} is {over} levels outside of {budget.model_dump()}"
        )


def _check_repeatable(instance: Any, images: Sequence[Sample], run: _Run) -> None:
    first = {sample.image_id: run(instance, sample, 0) for sample in images}
    for sample in reversed(images):
        if not np.array_equal(run(instance, sample, 0), first[sample.image_id]):
            raise _violation(
                instance.name,
                "repeatable",
                f"image {sample.image_id} differs the second time, in another order",
            )
    for sample in images:
        alone = type(instance)(instance.options)
        if not np.array_equal(run(alone, sample, 0), first[sample.image_id]):
            raise _violation(
                instance.name, "repeatable", f"image {sample.image_id} differs in a worker that saw no other"
            )


def _check_seed(instance: Any, images: Sequence[Sample], run: _Run) -> None:
    draws = differs = False
    for sample in images:
        rng, untouched = _rng(1, sample), _rng(1, sample)
        other = run(instance, sample, 1, rng=rng)
        draws |= repr(rng.bit_generator.state) != repr(untouched.bit_generator.state)
        differs |= not np.array_equal(other, run(instance, sample, 0))
    if draws and not differs:
        raise _violation(instance.name, "seed", "draws random numbers, and another seed changes nothing")
    if differs and not getattr(instance, "seeded", True):
        raise _violation(instance.name, "seed", "`seeded` is False, and another seed changes the image")


_IMPORT = """
import importlib, runpy, sys
module, path, *heavy = sys.argv[1:]
try:
    importlib.import_module(module)
except ModuleNotFoundError as error:
    if not f"{module}.".startswith(f"{error.name}."):
        raise
    runpy.run_path(path, run_name="plugin")  # for example a test's file, which is in no package
print(*(name for name in heavy if name in sys.modules))
"""


def _check_imports(instance: Any) -> None:
    module = type(instance).__module__
    found, problem = _heavy_imports(module, inspect.getsourcefile(type(instance)) or "")
    if problem:
        raise _violation(instance.name, "imports", f"{module} does not import alone: {problem}")
    if found:
        raise _violation(
            instance.name, "imports", f"importing {module} imports {found}: import these where they are used"
        )


@cache
def _heavy_imports(module: str, path: str) -> tuple[str, str]:
    """The heavy libraries that a fresh process holds after importing `module`; why it did not import."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, module, path, *_HEAVY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return "", (done.stderr.strip().splitlines() or ["killed"])[-1]
    return ", ".join(done.stdout.split()), ""
