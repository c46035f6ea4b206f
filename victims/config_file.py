"""Any config file of mmsegmentation or mmdetection as a victim: `--victim path/to/config.py`.

The harness replaces data, evaluation and length, and sets the number of classes. Model, optimizer, schedule,
augmentation after loading and preprocessing are as the config's author wrote them.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from bench.datasets.base import TASKS
from bench.errors import SpecError
from bench.victim import DataInfo, Init, Task, TrainingRecipe, Victim, VictimOptions
from victims.config_file_changes import (
    reference_size,
    require_weights,
    resize,
    schedule,
    strip_weights,
    swap_colours,
)
from victims.config_file_classes import set_classes
from victims.config_file_reading import (
    PortableConfig,
    find_config,
    nearest_configs,
    read_config,
    restored,
    type_name,
    walk,
)
from victims.recipes import count_things

PRESETS: dict[str, dict[str, Any]] = {
    "ci": {"iterations": 4, "batch_size": 2, "image_size": 64},
    "cpu": {"iterations": 500, "batch_size": 4, "image_size": 128},
    "gpu": {"iterations": 5000, "image_size": 256},
    "paper": {},
}
"""What a profile sets unless the user does; None, which is `paper`, is the config's own."""

TRANSFORMER_STRIDES = (8, 16, 32, 64, 128)
"""Of the feature maps of detection transformers, the finest first."""

WARMUP_SHARE = 0.1
"""Longest part of a training that a warm-up in iterations may take where the length is in epochs."""

NO_CONFIG = (
    "victim 'config_file' needs a config: --victim path/to/config.py, "
    "or the name of one of mmdet's or mmseg's"
)

PARTS = ("model", "backbone", "neck", "head", "data_preprocessor")
"""Parts of a model whose types are models; others may be of other registries."""


class ConfigFileOptions(VictimOptions):
    """A config and what is changed in it.

    Attributes:
        config: What of the file can change a training; filled in from the file that the victim's name names.
        iterations: Length of the training; None: the config's.
        batch_size: Images per iteration; None: that of all the config's processes together.
        image_size: Short side of test images in pixels; all sizes in the pipelines are scaled alike. None: the
            config's.
        scale_schedule: Whether the learning rate's schedule is fitted to `iterations`; without, it is cut off.
        test_batch_size: Images per evaluation step.
    """

    config: PortableConfig
    iterations: int | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, gt=0)
    image_size: int | None = Field(default=None, gt=0)
    scale_schedule: bool = True
    test_batch_size: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _room_for_batch_norm(self) -> Self:
        # Many heads of mmseg normalise a single pooled value per image.
        pools = self.config.scope == "mmseg" and "BN" in str(self.config.model)
        if pools and (self.batch_size or self.config.batch_size) == 1:
            raise ValueError("batch norm needs a batch_size of 2 or more")
        return self


class ConfigFile(Victim):
    """A model of a config file.

    Attributes:
        tasks: On an instance, what its config can be trained for; empty if the config does not tell.
    """

    name: ClassVar[str] = "config_file"
    summary: ClassVar[str] = "any mmsegmentation or mmdetection config: --victim path/to/config.py"
    tasks: tuple[Task, ...] = tuple(task for task in TASKS if task != "interactive")  # type: ignore[misc]
    inits: ClassVar[tuple[Init, ...]] = ("scratch", "imagenet")
    Options: ClassVar[type[VictimOptions]] = ConfigFileOptions
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    def __init__(self, options: VictimOptions | None = None) -> None:
        if options is None:
            raise SpecError(NO_CONFIG)
        super().__init__(options)
        self.tasks = self._config.tasks
        head = self._config.model.get("decode_head")
        is_plain = self._config.model.get("type") == "EncoderDecoder" and isinstance(head, dict)
        self.per_pixel = is_plain and "loss_decode" in head

    @classmethod
    def options_of(cls, name: str) -> dict[str, Any] | None:
        """The options that a name which nobody registered stands for.

        Executes the config file that the name names.

        Args:
            name: A path that ends in `.py`, or the name of a config that mmdet or mmseg ships.

        Returns:
            None if it names no config.

        Raises:
            SpecError: The config does not run, has unknown parts, or asks for what the harness cannot do.
        """
        path = find_config(name)
        if path is None:
            return None
        config = read_config(path)
        _require_known_parts(config, str(path))
        return {"config": config.model_dump(mode="json")}

    @classmethod
    def alike(cls, name: str) -> list[str]:
        """Names of configs that are spelt like a name that is none."""
        return nearest_configs(name)

    @classmethod
    def resolve_options(cls, profile: str, given: dict[str, Any]) -> VictimOptions:
        """The profile's preset with `given` on top.

        Raises:
            SpecError: There is no config among them.
        """
        if "config" not in given:
            raise SpecError(NO_CONFIG)
        return super().resolve_options(profile, given)

    def check(self, init: Init) -> None:
        """See `Victim.check`.

        Raises:
            SpecError: Pretrained weights are asked for, and the config names none.
            EnvironmentFault: It names a file that is not there.
        """
        if init == "imagenet":
            require_weights(restored(self._config.model), self._title)

    def recipe(self, data: DataInfo, task: Task, init: Init, profile: str) -> TrainingRecipe:
        """See `Victim.recipe`.

        Raises:
            SpecError: Unknown task or init, or classes, sizes or a schedule that do not fit.
        """
        options = self.options
        assert isinstance(options, ConfigFileOptions)
        self.require(task, init)
        config = {name: restored(value) for name, value in self._config.model_dump(mode="json").items()}
        model, train, test = config["model"], config["train_pipeline"], config["test_pipeline"]
        things, stuff = _counts(data, task)
        set_classes(model, task, things, stuff, self._title)
        if init == "scratch":
            strip_weights(model, config["optim_wrapper"])
        if options.image_size is not None:
            resize(model, train, test, options.image_size, self._title)
        _fit_queries(model, things + stuff, reference_size(model, train, test))
        swap_colours(model, [train, test])
        batch_size = options.batch_size or config["batch_size"]
        per_epoch = data.train_images / batch_size
        own = config["iterations"] or max(1, math.ceil(config["epochs"] * per_epoch))
        iterations = options.iterations or own
        return TrainingRecipe(
            model=model,
            scope=config["scope"],
            train_pipeline=train,
            test_pipeline=test,
            optim_wrapper=config["optim_wrapper"],
            param_scheduler=schedule(
                config["param_scheduler"],
                per_epoch,
                iterations / own if options.scale_schedule else 1.0,
                None if config["iterations"] else math.ceil(WARMUP_SHARE * iterations),
                self._title,
            ),
            iterations=iterations,
            batch_size=batch_size,
            test_batch_size=options.test_batch_size,
            task=task,
            custom_imports=("victims.config_file_modules", *config["custom_imports"]),
        )

    @property
    def _config(self) -> PortableConfig:
        assert isinstance(self.options, ConfigFileOptions)
        return self.options.config

    @property
    def _title(self) -> str:
        """What messages call the victim; the file's name is not part of its identity."""
        return f"{self._config.scope} config with {type_name(self._config.model)}"


def _counts(data: DataInfo, task: Task) -> tuple[int, int]:
    """Numbers of thing and stuff categories; classes of label maps count as stuff.

    Raises:
        SpecError: The dataset has no things, and the task asks for them.
    """
    if task in ("semantic", "binary"):
        return 0, len(data.classes) if task == "semantic" else 2
    things = count_things(ConfigFile.name, data, task)
    return things, len(data.categories) - things if task == "panoptic" else 0


def _fit_queries(model: dict[str, Any], classes: int, short_side: int | None) -> None:
    """Makes room for the queries of a detection transformer on small images and with few classes.

    mmdet fails where there are fewer places than queries, or fewer (query, class) pairs than detections.
    """
    found = [entry["num_queries"] for _, entry in walk(model) if isinstance(entry.get("num_queries"), int)]
    if not found:
        return
    queries = found[0]
    limits = model.get("test_cfg") or {}
    for key in ("max_per_img", "max_per_image"):
        if key in limits:
            limits[key] = min(limits[key], queries * classes)
    if not model.get("as_two_stage"):
        return
    strides = TRANSFORMER_STRIDES[: model.get("num_feature_levels", 4)]
    # A picture twice as long as high has at least half the places of a square one.
    if short_side is None or _places(short_side, strides) < 2 * queries:
        side = strides[-1]
        while _places(side, strides) < queries:
            side += strides[-1]
        model["data_preprocessor"]["pad_size_divisor"] = side


def _places(side: int, strides: tuple[int, ...]) -> int:
    return sum((side // stride) ** 2 for stride in strides)


def _require_known_parts(config: PortableConfig, path: str) -> None:
    """Raises a `SpecError` for modules that do not import and types that nobody registered."""
    from mmengine.dataset import Compose

    from bench.registry import unknown
    from bench.training.environment import prepare

    try:
        prepare(config.scope, ("victims.config_file_modules", *config.custom_imports))
    except ImportError as error:
        raise SpecError(f"config {path} imports what is not installed: {error}") from error
    from mmengine.registry import MODELS as ROOT

    scoped = ROOT._search_child(config.scope)
    for place, entry in walk(restored(config.model), "model"):
        kind, part = entry.get("type"), place.rpartition(".")[2].partition("[")[0]
        if not isinstance(kind, str) or not part.endswith(PARTS):
            continue
        if scoped.get(kind) is None:
            raise SpecError(f"config {path}: {place}: {unknown('type', kind, list(scoped.module_dict))}")
    for split in ("train", "test"):
        try:
            Compose(restored(getattr(config, f"{split}_pipeline")))
        except Exception as error:  # whatever a transform's constructor raises
            text = " ".join(str(error).split())[:200]
            raise SpecError(f"config {path}: the {split} pipeline cannot be built: {text}") from error
