"""Finds and reads a config file of mmseg or mmdet, and keeps of it what can change a training.

Reading a config file executes it. That happens here, when the user names one, and nowhere else: what goes on
to workers and records is plain data (`PortableConfig`).
"""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from bench.datasets.base import Task
from bench.errors import EnvironmentFault, SpecError

PACKAGES = ("mmdet", "mmseg")
TUPLE = "$tuple"
"""Marks a tuple in plain data: transforms tell `(640, 480)` from `[640, 480]`."""

COCO_EVALUATORS = ("CocoMetric", "LVISMetric")
BOX_EVALUATORS = ("VOCMetric", "OpenImagesMetric", "CrowdHumanMetric")

MIXING = re.compile(r"Mosaic|MixUp|CopyPaste|RandomDepthMix|ConcatCDInput")
"""Transforms that need more than one image."""

OTHER_LABELS = ("LoadProposals", "LoadDepthAnnotation", "LoadMultipleRSImageFromFile", "LoadTrackAnnotations")
"""Loading of what no dataset of the benchmark has."""

HARMLESS_HOOKS = ("NumClassCheckHook", "CheckInvalidLossHook", "SyncNormHook", "SyncBuffersHook")
"""Custom hooks that change no weight on one process."""


class PortableConfig(BaseModel):
    """What of a config file can change a training, as plain data: the part of the key that its content is.

    Attributes:
        scope: Registry scope of its types.
        tasks: What it can be trained for, by its evaluator; empty if that does not tell.
        model: The model; tuples are marked by `$tuple`.
        train_pipeline: Transforms after loading.
        test_pipeline: Transforms after loading.
        optim_wrapper: Optimizer.
        param_scheduler: Schedulers.
        epochs: Length in passes over the training images; None where it is in iterations.
        iterations: Length in iterations; None where it is in epochs.
        batch_size: Images per iteration, of all processes together.
        custom_imports: Modules that it imports.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: Literal["mmseg", "mmdet"]
    tasks: tuple[Task, ...]
    model: dict[str, Any]
    train_pipeline: list[dict[str, Any]]
    test_pipeline: list[dict[str, Any]]
    optim_wrapper: dict[str, Any]
    param_scheduler: list[dict[str, Any]]
    epochs: int | None
    iterations: int | None
    batch_size: int
    custom_imports: tuple[str, ...]


def find_config(name: str) -> Path | None:
    """The file that a name stands for.

    Args:
        name: A path that ends in `.py`; or a config of the installed mmdet or mmseg: its file name, with or
            without folder, package and suffix.

    Returns:
        None if it is neither.

    Raises:
        SpecError: A path without a file, or a name of several configs.
    """
    path = Path(name).expanduser()
    if path.suffix == ".py" and path.is_file():
        return path.absolute()
    wanted = name.removesuffix(".py")
    found = [path for label, path in shipped_configs() if f"/{label}".endswith(f"/{wanted}")]
    if len(found) > 1:
        labels = [label for label, path in shipped_configs() if path in found]
        raise SpecError(f"victim {name!r} names {len(found)} configs: write {' or '.join(labels)}")
    if found:
        return found[0]
    if path.suffix == ".py":
        raise SpecError(f"there is no config file {name}, neither here nor in {' or '.join(PACKAGES)}")
    return None


def nearest_configs(name: str) -> list[str]:
    """Names of shipped configs that are spelt alike."""
    return difflib.get_close_matches(name, {path.stem for _, path in shipped_configs()}, n=2, cutoff=0.8)


def shipped_configs() -> Iterator[tuple[str, Path]]:
    """`mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco` and the like, with their files."""
    for package in PACKAGES:
        spec = find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            folder = Path(location) / ".mim" / "configs"
            for path in sorted(folder.glob("[!_]*/*.py")):
                yield f"{package}/{path.parent.name}/{path.stem}", path


def read_config(path: Path) -> PortableConfig:
    """Executes a config file and keeps what can change a training.

    Raises:
        SpecError: It does not run, lacks something, or asks for what the harness cannot do; in one line.
        EnvironmentFault: mmdet and mmseg are not installed.
    """
    config = _executed(path)
    for name in ("model", "train_dataloader", "optim_wrapper"):
        if not isinstance(config.get(name), dict):
            raise SpecError(f"config {path} has no {name}: name a whole config, not a part of one")
    _require_ordinary(path, config)
    scope = _scope(path, config)
    dataset, repeats = _inner_dataset(config["train_dataloader"].get("dataset", {}))
    test = config.get("test_dataloader") or config.get("val_dataloader") or {}
    test_dataset, _ = _inner_dataset(test.get("dataset", {}))
    epochs, iterations = _length(path, config, repeats)
    imports = config.get("custom_imports") or {}
    imports = imports.get("imports", []) if isinstance(imports, dict) else imports
    model = dict(config["model"])
    model.setdefault("data_preprocessor", config.get("data_preprocessor") or {"type": _preprocessor(scope)})
    schedulers = config.get("param_scheduler") or []
    return PortableConfig(
        scope=scope,
        tasks=_tasks(config, scope),
        model=_plain(model, path, "model"),
        train_pipeline=_after_loading(dataset.get("pipeline") or config.get("train_pipeline"), path, "train"),
        test_pipeline=_after_loading(
            test_dataset.get("pipeline") or config.get("test_pipeline"), path, "test"
        ),
        optim_wrapper=_plain(config["optim_wrapper"], path, "optim_wrapper"),
        param_scheduler=_plain(
            schedulers if isinstance(schedulers, list) else [schedulers], path, "param_scheduler"
        ),
        epochs=epochs,
        iterations=iterations,
        batch_size=_batch_size(path, config),
        custom_imports=tuple([imports] if isinstance(imports, str) else imports),
    )


def restored(value: Any) -> Any:
    """Config values from plain data: marked tuples are tuples again."""
    if isinstance(value, dict):
        if set(value) == {TUPLE}:
            return tuple(restored(item) for item in value[TUPLE])
        return {key: restored(item) for key, item in value.items()}
    return [restored(item) for item in value] if isinstance(value, list) else value


def type_name(entry: Any) -> str:
    """The class in an entry's `type`, without registry scope or module."""
    return str(entry.get("type", "")).rpartition(".")[2] if isinstance(entry, dict) else ""


def walk(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dictionary in nested config values, with its place."""
    if isinstance(value, dict):
        yield path, value
        for key, item in value.items():
            yield from walk(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from walk(item, f"{path}[{index}]")


def _executed(path: Path) -> dict[str, Any]:
    try:
        from mmengine.config import Config

        from bench.mmcv_ext import install
    except ImportError as error:
        raise EnvironmentFault(f"config files need mmengine, mmdet and mmseg: {error}") from error
    # A config that imports mmdet would load mmcv.ops, which needs the stand-in.
    install()
    try:
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Its modules are imported once its registry scope is there.
            return Config.fromfile(str(path), import_custom_modules=False).to_dict()
    except SyntaxError as error:
        raise SpecError(f"config {path} has a syntax error in line {error.lineno}: {error.msg}") from error
    except Exception as error:  # whatever the user's file raises
        text = " ".join(str(error).split())[:300]
        raise SpecError(f"config {path} does not run: {type(error).__name__}: {text}") from error


def _require_ordinary(path: Path, config: dict[str, Any]) -> None:
    """Refuses what would be left out without a word otherwise."""
    for hook in config.get("custom_hooks") or []:
        if type_name(hook) not in HARMLESS_HOOKS:
            raise SpecError(
                f"config {path} has the hook {type_name(hook)}, which changes the training and is not run here: "
                "set custom_hooks = [] in a config of your own to train without it"
            )
    for place, entry in walk(config["model"], "model"):
        name = type_name(entry)
        if name in ("MultiBranchDataPreprocessor", "TrackDataPreprocessor", "ReIDDataPreprocessor"):
            raise SpecError(
                f"config {path}: {place} is a {name}; tracking and semi-supervision are not supported"
            )
        if "text_encoder" in entry or "language_model" in entry:
            raise SpecError(
                f"config {path}: {place} classifies by the words of a language model; it is not supported"
            )
    if not isinstance(config["optim_wrapper"].get("optimizer"), dict):
        raise SpecError(f"config {path} has no optim_wrapper.optimizer; several optimizers are not supported")


def _scope(path: Path, config: dict[str, Any]) -> Literal["mmseg", "mmdet"]:
    scope = config.get("default_scope")
    if scope == "mmseg" or scope == "mmdet":
        return scope
    raise SpecError(
        f"config {path} has default_scope {scope!r}: write default_scope = 'mmdet' or 'mmseg' into it"
    )


def _preprocessor(scope: str) -> str:
    return "SegDataPreProcessor" if scope == "mmseg" else "DetDataPreprocessor"


def _tasks(config: dict[str, Any], scope: str) -> tuple[Task, ...]:
    """By the evaluators, which say what the author scored."""
    given = config.get("test_evaluator") or config.get("val_evaluator") or []
    evaluators = given if isinstance(given, list) else [given]
    names = {type_name(evaluator) for evaluator in evaluators}
    if scope == "mmseg":
        return ("semantic", "binary") if "IoUMetric" in names else ()
    if "CocoPanopticMetric" in names:
        return ("panoptic",)
    metrics: set[str] = set()
    for evaluator in evaluators:
        if type_name(evaluator) in COCO_EVALUATORS:
            metric = evaluator.get("metric", "bbox")
            metrics.update([metric] if isinstance(metric, str) else metric)
    if "segm" in metrics:
        return ("instance",)
    return ("detection",) if "bbox" in metrics or names & set(BOX_EVALUATORS) else ()


def _inner_dataset(dataset: Any) -> tuple[dict[str, Any], int]:
    """The dataset inside wrappers that repeat it, and how often they do."""
    repeats = 1
    while isinstance(dataset, dict) and isinstance(dataset.get("dataset"), dict):
        if dataset.get("pipeline"):
            break  # a wrapper that transforms (MultiImageMixDataset)
        repeats *= int(dataset.get("times", 1))
        dataset = dataset["dataset"]
    if isinstance(dataset, dict) and isinstance(dataset.get("datasets"), list) and dataset["datasets"]:
        dataset = dataset["datasets"][0]
    return (dataset if isinstance(dataset, dict) else {}), repeats


def _length(path: Path, config: dict[str, Any], repeats: int) -> tuple[int | None, int | None]:
    loop = config.get("train_cfg") or {}
    if loop.get("max_epochs"):
        return int(loop["max_epochs"]) * repeats, None
    if loop.get("max_iters"):
        return None, int(loop["max_iters"])
    raise SpecError(f"config {path} has neither train_cfg.max_epochs nor train_cfg.max_iters")


def _batch_size(path: Path, config: dict[str, Any]) -> int:
    """Images per iteration of all the author's processes, for which the learning rate was chosen.

    By the naming of OpenMMLab's files (`8xb2`), else by `auto_scale_lr`, else one process.
    """
    whole = (config.get("auto_scale_lr") or {}).get("base_batch_size")
    named = re.search(r"_(\d+)xb(\d+)[-_]", path.stem)
    if named:
        return int(named[1]) * int(named[2])
    return int(whole or config["train_dataloader"].get("batch_size", 1))


def _after_loading(pipeline: Any, path: Path, split: str) -> list[dict[str, Any]]:
    if not isinstance(pipeline, list) or not pipeline:
        raise SpecError(f"config {path} has no {split} pipeline: set {split}_dataloader.dataset.pipeline")
    kept = []
    for transform in pipeline:
        name = type_name(transform)
        if MIXING.search(name) or name in OTHER_LABELS:
            raise SpecError(
                f"config {path}: the {split} pipeline has {name}, which needs more than one image with its labels; "
                "it is not supported"
            )
        if name == "LoadAnnotations" and transform.get("with_seg") and transform.get("with_mask"):
            raise SpecError(f"config {path} trains on stuff maps beside instances, which no dataset here has")
        if name == "LoadImageFromFile" and transform.get("to_float32"):
            kept.append({"type": "ImageToFloat32"})
        if not name.startswith("Load"):
            kept.append(transform)
    if not kept or not type_name(kept[-1]).startswith("Pack"):
        raise SpecError(f"config {path}: the {split} pipeline does not end in PackDetInputs or PackSegInputs")
    return _plain(kept, path, f"{split}_pipeline")


def _plain(value: Any, path: Path, place: str) -> Any:
    """Plain data with marked tuples.

    Raises:
        SpecError: Something in it is no data.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise SpecError(f"config {path}: {place} is {value}; write a finite number")
    if isinstance(value, dict):
        bad = [key for key in value if not isinstance(key, str) or key.startswith("$")]
        if bad:
            raise SpecError(f"config {path}: {place} has the key {bad[0]!r}; keys must be names")
        return {key: _plain(item, path, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | range):
        return {TUPLE: [_plain(item, path, place) for item in value]}
    if isinstance(value, list):
        return [_plain(item, path, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, type) or callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    raise SpecError(
        f"config {path}: {place} is a {type(value).__name__}, which a record cannot hold; "
        "write numbers, strings, lists, tuples and dictionaries"
    )
