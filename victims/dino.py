"""DINO (Zhang et al., ICLR 2023): a detection transformer, the paper's victim for boxes."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from bench.errors import SpecError
from bench.victim import DataInfo, Init, Task, TrainingRecipe, Victim, VictimOptions
from victims.dino_config import (
    COMPACT_STRIDES,
    PUBLISHED_STRIDES,
    compact_model,
    published_config,
    published_model,
)
from victims.recipes import DETECTION_META, Flips, count_things, random_flip, training_length, warmed_cosine


class DINOOptions(VictimOptions):
    """The network and its training.

    Attributes:
        network: `compact` learns from random weights in minutes on a CPU (`victims.dino_modules`);
            `published` is the 4-scale DINO with ResNet-50.
        queries: Number of queries, the greatest number of objects that it can find.
        denoising_queries: Number of noised true boxes per image that it learns to mend.
        width: Compact network: channels of the first of the encoder's stages.
        channels: Compact network: channels of the queries, a multiple of 8.
        encoder_layers: Compact network: number of encoder layers.
        decoder_layers: Compact network: number of decoder layers.
        dense_weight: Compact network: weight of the dense loss.
        iterations: Length of the training.
        epochs: Length in passes over the training images; replaces `iterations` where it is set.
        batch_size: Images per iteration.
        learning_rate: Greatest learning rate.
        schedule: `cosine`: a linear warm-up, then a decay to 0; `step`: a tenth for the last twelfth, as
            published.
        warmup: Share of the iterations that warm up.
        weight_decay: AdamW's.
        gradient_clip: Greatest norm of the gradient.
        image_size: Longer side in pixels that images are resized to, in training and evaluation; None: as
            they are. Predictions are scaled back.
        multi_scale: The published augmentation for photographs: short sides of 480 to 800 pixels, for half of
            the images after a random crop. Evaluation at 800. Replaces `image_size`.
        flips: `all`: horizontal, vertical and both, for images without an upright; or `horizontal`.
        test_batch_size: Images per evaluation step.
    """

    network: Literal["compact", "published"] = "compact"
    queries: int = Field(default=30, gt=0)
    denoising_queries: int = Field(default=20, gt=0)
    width: int = Field(default=16, gt=0)
    channels: int = Field(default=64, gt=0, multiple_of=8)
    encoder_layers: int = Field(default=1, gt=0)
    decoder_layers: int = Field(default=3, gt=0)
    dense_weight: float = Field(default=10.0, ge=0)
    iterations: int = Field(default=1300, gt=0)
    epochs: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=8, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["cosine", "step"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=1e-2, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    image_size: int | None = Field(default=None, gt=0)
    multi_scale: bool = False
    flips: Flips = "all"
    test_batch_size: int = Field(default=16, gt=0)


PUBLISHED: dict[str, Any] = {
    "network": "published",
    "queries": 900,
    "denoising_queries": 100,
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "gradient_clip": 0.1,
    "batch_size": 16,
    "flips": "horizontal",
    "test_batch_size": 1,
}

PRESETS: dict[str, dict[str, Any]] = {
    "ci": {
        "width": 8,
        "channels": 32,
        "queries": 10,
        "denoising_queries": 8,
        "decoder_layers": 2,
        "iterations": 12,
        "batch_size": 4,
    },
    "cpu": {},
    "gpu": PUBLISHED | {"iterations": 5000, "image_size": 256},
    "paper": PUBLISHED | {"epochs": 12, "schedule": "step", "warmup": 0.0, "multi_scale": True},
}


class DINO(Victim):
    """DINO on mmdet's implementation."""

    name: ClassVar[str] = "dino"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "DINO-4scale with ResNet-50: boxes"
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.03605"
    tasks: ClassVar[tuple[Task, ...]] = ("detection",)
    inits: ClassVar[tuple[Init, ...]] = ("scratch", "imagenet")
    Options: ClassVar[type[VictimOptions]] = DINOOptions
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    def recipe(self, data: DataInfo, task: Task, init: Init, profile: str) -> TrainingRecipe:
        """See `Victim.recipe`.

        Raises:
            SpecError: Unknown task or init, data without things, or ImageNet weights for the compact network.
            EnvironmentFault: mmdet is not complete.
        """
        options = self.options
        assert isinstance(options, DINOOptions)
        things = self._check(data, task, init)
        config = published_config()
        if options.network == "published":
            # Photographs at the published sizes have more places than queries, and padding costs time.
            divisor = 1 if options.multi_scale else divisor_for(options.queries, PUBLISHED_STRIDES)
            model = published_model(config, init == "imagenet")
        else:
            divisor = divisor_for(options.queries, COMPACT_STRIDES)
            model = compact_model(
                config,
                width=options.width,
                channels=options.channels,
                encoder_layers=options.encoder_layers,
                decoder_layers=options.decoder_layers,
                dense_weight=options.dense_weight,
            )
        model.data_preprocessor.update(bgr_to_rgb=False, pad_size_divisor=divisor)
        model.num_queries = options.queries
        model.dn_cfg.group_cfg.num_dn_queries = options.denoising_queries
        model.bbox_head.num_classes = things
        # mmdet takes the best of all (query, class) pairs and fails if there are fewer.
        model.test_cfg.max_per_img = min(300, options.queries * things)
        train, test = _pipelines(config, options)
        pack = {"type": "PackDetInputs", "meta_keys": DETECTION_META}
        iterations = training_length(options, data)
        return TrainingRecipe(
            model=model,
            scope="mmdet",
            train_pipeline=[*train, pack],
            test_pipeline=[*test, pack],
            optim_wrapper=_optim_wrapper(config, options, init),
            param_scheduler=_scheduler(options, iterations),
            iterations=iterations,
            batch_size=options.batch_size,
            test_batch_size=options.test_batch_size,
            task=task,
            custom_imports=(
                "victims.mask2former_modules",
                "victims.dino_modules",
                "victims.pretrained_torchvision",
            ),
        )

    def _check(self, data: DataInfo, task: Task, init: Init) -> int:
        """The number of thing categories."""
        options = self.options
        assert isinstance(options, DINOOptions)
        self.require(task, init)
        if init == "imagenet" and options.network == "compact":
            raise SpecError(
                f"victim {self.name!r}: no ImageNet weights exist for the compact network: "
                "add the option network=published, or use the profile gpu or paper"
            )
        things = count_things(self.name, data, task)
        return things


def divisor_for(queries: int, strides: tuple[int, ...]) -> int:
    """What sides are padded to multiples of, so that any image has a place for every query.

    mmdet starts each query at one place of the feature maps, and fails on images with fewer places.

    Args:
        queries: Number of queries.
        strides: Of the feature maps, the coarsest last.
    """
    side = strides[-1]
    while sum((side // stride) ** 2 for stride in strides) < queries:
        side += strides[-1]
    return side


def _pipelines(config: Any, options: DINOOptions) -> tuple[list[Any], list[Any]]:
    """Training and test transforms without packing."""
    if options.multi_scale:
        published = {step.type: step.to_dict() for step in config.train_pipeline}
        return [random_flip(options.flips), published["RandomChoice"]], [
            {"type": "Resize", "scale": (1333, 800), "keep_ratio": True}
        ]
    resize = []
    if options.image_size is not None:
        scale = (options.image_size, options.image_size)
        resize = [{"type": "Resize", "scale": scale, "keep_ratio": True}]
    return [*resize, random_flip(options.flips)], resize


def _optim_wrapper(config: Any, options: DINOOptions, init: Init) -> dict[str, Any]:
    """The published AdamW. Its backbone learns at a tenth of the rate, which is for pretrained ones only."""
    wrapper = config.optim_wrapper
    wrapper.optimizer.update(lr=options.learning_rate, weight_decay=options.weight_decay)
    wrapper.clip_grad.max_norm = options.gradient_clip
    if init == "scratch":
        del wrapper.paramwise_cfg
    return wrapper.to_dict()


def _scheduler(options: DINOOptions, iterations: int) -> list[dict[str, Any]]:
    warmup = math.ceil(options.warmup * iterations)
    if options.schedule == "cosine":
        return warmed_cosine(iterations, warmup, 0.01)
    rise = {"type": "LinearLR", "start_factor": 0.01, "begin": 0, "end": warmup, "by_epoch": False}
    fall = {
        "type": "MultiStepLR",
        "milestones": [math.ceil(iterations * 11 / 12)],
        "gamma": 0.1,
        "begin": 0,
        "end": iterations,
        "by_epoch": False,
    }
    return [rise, fall] if warmup else [fall]
