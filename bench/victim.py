"""The contract of a victim: the segmentation model that an attacker trains."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from bench.datasets.base import Category, Task
from bench.errors import SpecError
from bench.plugin import Plugin, PluginOptions

Init = Literal["scratch", "imagenet", "sam"]


class VictimOptions(PluginOptions):
    """Base of a victim's options. Every field is part of the key."""


@dataclass(frozen=True)
class DataInfo:
    """What a victim may know of the data when its model is built.

    Attributes:
        classes: Semantic class names, background first where there is one.
        categories: Things and stuff of the segments.
        image_size: Longest side in pixels of the training images.
        train_images: Number of training images.
    """

    classes: tuple[str, ...]
    categories: tuple[Category, ...]
    image_size: int
    train_images: int


@dataclass(frozen=True)
class TrainingRecipe:
    """A victim as the shared trainer runs it: mmengine config fragments.

    Attributes:
        model: Config of a model in mmengine's registries. Its `data_preprocessor` takes BGR-free RGB
            images: samples are loaded as RGB uint8, and `bgr_to_rgb` is False everywhere.
        scope: mmengine registry scope in which `model` and the pipelines are built.
        train_pipeline: Transforms after loading and the defense, packing included.
        test_pipeline: Transforms after loading, packing included; predictions are made at original size.
        optim_wrapper: mmengine optimizer wrapper config.
        param_scheduler: mmengine scheduler configs (`by_epoch=False`).
        iterations: Length of the training.
        batch_size: Images per iteration.
        test_batch_size: Images per evaluation step.
        task: The task that the model predicts.
    """

    model: dict[str, Any]
    scope: Literal["mmseg", "mmdet", "mmengine"]
    train_pipeline: list[dict[str, Any]]
    test_pipeline: list[dict[str, Any]]
    optim_wrapper: dict[str, Any]
    param_scheduler: list[dict[str, Any]]
    iterations: int
    batch_size: int
    task: Task
    test_batch_size: int = 1
    custom_imports: tuple[str, ...] = field(default=())


class Victim(Plugin):
    """A segmentation architecture with its training schedule at each profile.

    Attributes, besides those of `Plugin`:
        tasks: Tasks that it can be trained for, the default first. An instance may know fewer; none means that
            the user has to say which.
        inits: Starting weights that it knows.
        per_pixel: Whether its network is an `EncoderDecoder` of mmsegmentation's, or one of that shape, that classifies
            each pixel by itself: some defenses need that.
    """

    tasks: ClassVar[tuple[Task, ...]]
    inits: ClassVar[tuple[Init, ...]] = ("scratch",)
    per_pixel: bool = False
    Options: ClassVar[type[VictimOptions]] = VictimOptions

    def check(self, init: Init) -> None:
        """Called before anything is computed: finds what would otherwise stop a training hours later.

        Args:
            init: Starting weights, one of `inits`.

        Raises:
            BenchError: It could not start from them.
        """

    def require(self, task: Task, init: Init) -> None:
        """Refuses a task or starting weights that the victim does not know.

        Raises:
            SpecError: It does not, with those that it knows.
        """
        for kind, wanted, known in (
            ("task", task, self.tasks or type(self).tasks),
            ("init", init, self.inits),
        ):
            if wanted not in known:
                raise SpecError(f"victim {self.name!r} has no {kind} {wanted!r}: there is {', '.join(known)}")

    @abstractmethod
    def recipe(self, data: DataInfo, task: Task, init: Init, profile: str) -> TrainingRecipe:
        """The model, its pipelines and its schedule for a dataset and task.

        Raises:
            SpecError: The combination does not exist, with the ones that do.
        """
