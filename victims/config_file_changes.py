"""Changes to a config that a user asks for: starting weights, image size, schedule; and its colour order."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from bench.errors import EnvironmentFault, SpecError
from victims.config_file_reading import type_name, walk

SIZE_KEYS = ("scale", "scales", "img_scale", "crop_size", "size", "max_size")
"""Sizes in pixels among the arguments of transforms."""

STEP_KEYS = (
    "begin",
    "end",
    "T_max",
    "milestones",
    "step_size",
    "periods",
    "restarts",
    "total_steps",
    "total_iters",
)
"""Counts of epochs or iterations among the arguments of schedulers."""

MAX_STEPS = 10**9
"""mmengine's word for "for ever"."""

Step = dict[str, Any]


# ---- starting weights ----------------------------------------------------------------------------


def strip_weights(model: dict[str, Any], optim_wrapper: dict[str, Any]) -> None:
    """Leaves nothing that needs or presumes pretrained weights: `init: scratch`.

    Frozen stages and frozen batch norm of a backbone are trained, for random ones would cripple the victim, and
    a lower learning rate of the backbone is raised to that of the rest.
    """
    for _, entry in walk(model):
        if type_name(entry.get("init_cfg")) == "Pretrained":
            entry["init_cfg"] = None
        if "pretrained" in entry:
            entry["pretrained"] = False if isinstance(entry["pretrained"], bool) else None
    for place, entry in walk(model):
        if not re.search(r"(^|\.)backbone", place):
            continue
        if entry.get("frozen_stages", -1) >= 0:
            entry["frozen_stages"] = -1
        if entry.get("norm_eval"):
            entry["norm_eval"] = False
        if isinstance(entry.get("norm_cfg"), dict) and entry["norm_cfg"].get("requires_grad") is False:
            entry["norm_cfg"]["requires_grad"] = True
    keys = (optim_wrapper.get("paramwise_cfg") or {}).get("custom_keys") or {}
    for key, rates in keys.items():
        if key.startswith("backbone") and rates.get("lr_mult", 1) < 1:
            rates["lr_mult"] = 1.0


def require_weights(model: dict[str, Any], name: str) -> None:
    """Checks that there are pretrained weights to start from.

    Raises:
        SpecError: The config names none.
        EnvironmentFault: It names a file that is not there.
    """
    named = False
    for place, entry in walk(model, "model"):
        start = entry.get("init_cfg") if isinstance(entry.get("init_cfg"), dict) else {}
        for checkpoint in (entry.get("pretrained"), start.get("checkpoint")):
            named = named or bool(checkpoint)
            # With a scheme it is fetched when the training starts, or found in torch's cache.
            if isinstance(checkpoint, str) and "://" not in checkpoint and not Path(checkpoint).is_file():
                raise EnvironmentFault(
                    f"victim {name!r}: {place} starts from weights in {checkpoint}, which is no file here: "
                    "put it there, or use --init scratch"
                )
    if not named:
        raise SpecError(f"victim {name!r}: its config names no pretrained weights: use --init scratch")


# ---- colours -------------------------------------------------------------------------------------


def swap_colours(model: dict[str, Any], pipelines: list[list[Step]]) -> None:
    """Makes a config for BGR images, as mm loads them, one for RGB images, as the harness does.

    Its transforms see BGR images as before. The preprocessor, whose mean and deviation are in the order of the
    network's input, swaps colours where it did not.
    """
    preprocessor = model["data_preprocessor"]
    swaps = bool(preprocessor.get("bgr_to_rgb")) or bool(preprocessor.get("rgb_to_bgr"))
    preprocessor.update(bgr_to_rgb=False, rgb_to_bgr=not swaps)
    for pipeline in pipelines:
        pipeline.insert(0, {"type": "SwapColours"})
        pipeline.insert(-1, {"type": "SwapColours"})


# ---- image size ----------------------------------------------------------------------------------


def resize(model: dict[str, Any], train: list[Step], test: list[Step], size: int, name: str) -> None:
    """Scales all sizes in pixels alike, so that test images have a short side of `size`.

    Args:
        model: Its preprocessor's sizes and its sliding window.
        train: Training transforms.
        test: Test transforms, whose `Resize` says what the sizes are now.
        size: Pixels.
        name: Of the config, for messages.

    Raises:
        SpecError: Nothing in the config says how large its images are.
    """
    reference = reference_size(model, train, test)
    if reference is None:
        raise SpecError(f"victim {name!r}: its config names no image size, so there is none to set to {size}")
    factor = size / reference
    for _, entry in walk([train, test]):
        for key in SIZE_KEYS:
            if key in entry:
                entry[key] = _scaled(entry[key], factor)
    preprocessor = model["data_preprocessor"]
    divisor = preprocessor.get("pad_size_divisor") or preprocessor.get("size_divisor") or 1
    for _, entry in walk(preprocessor):
        if entry.get("size"):
            entry["size"] = _scaled(entry["size"], factor, divisor)
    window = model.get("test_cfg") or {}
    if window.get("mode") == "slide":
        window.update(
            crop_size=_scaled(window["crop_size"], factor), stride=_scaled(window["stride"], factor)
        )


def reference_size(model: dict[str, Any], train: list[Step], test: list[Step]) -> int | None:
    """The short side of test images, or of training windows where those are not resized."""
    for pipeline, names in ((test, ("Resize",)), (train, ("RandomCrop", "Resize"))):
        for _, entry in walk(pipeline):
            if type_name(entry) in names:
                given = entry.get("scale") or entry.get("crop_size")
                if given:
                    return min(given) if isinstance(given, list | tuple) else int(given)
    given = model["data_preprocessor"].get("size")
    return min(given) if given else None


def _scaled(value: Any, factor: float, divisor: int = 1) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_scaled(item, factor, divisor) for item in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return max(1, math.ceil(round(value * factor) / divisor)) * divisor


# ---- schedule ------------------------------------------------------------------------------------


def schedule(
    schedulers: list[Step], per_epoch: float, factor: float, longest_warmup: int | None, name: str
) -> list[Step]:
    """Schedulers counted in iterations, compressed or stretched; one without an iteration left goes.

    Args:
        schedulers: As in the config, in epochs or iterations.
        per_epoch: Iterations of an epoch.
        factor: New length over the config's own.
        longest_warmup: For a config whose length is in epochs: what it counts in iterations is a warm-up, which
            keeps its length up to this many. None: iterations are scaled like epochs.
        name: Of the config, for messages.

    Raises:
        SpecError: A scheduler follows a validation score.
    """
    made = []
    for scheduler in schedulers:
        kind = type_name(scheduler)
        if kind.startswith("ReduceOnPlateau"):
            raise SpecError(
                f"victim {name!r}: {kind} follows a validation score, and test data never steer a training here: "
                "choose another schedule in a config of your own"
            )
        if scheduler.get("by_epoch", True):
            unit = per_epoch * factor
        elif longest_warmup is None:
            unit = factor
        else:
            unit = min(1.0, longest_warmup / scheduler.get("end", longest_warmup))
        changed = {**scheduler, "by_epoch": False}
        changed.pop("convert_to_iter_based", None)
        for key in STEP_KEYS:
            if changed.get(key) is not None:
                changed[key] = _steps(changed[key], unit)
        if "gamma" in changed and kind.startswith("Exponential"):
            changed["gamma"] = changed["gamma"] ** (1 / unit)
        if changed.get("end", MAX_STEPS) > changed.get("begin", 0):
            made.append(changed)
    return made


def _steps(value: Any, factor: float) -> Any:
    if isinstance(value, list | tuple):
        return [_steps(item, factor) for item in value]
    return value if value >= MAX_STEPS else round(value * factor)
