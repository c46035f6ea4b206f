"""Mask2Former (Cheng et al., CVPR 2022): panoptic, instance and semantic segmentation by one network."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from bench.errors import SpecError
from bench.victim import DataInfo, Init, Task, TrainingRecipe, Victim, VictimOptions
from victims.mask2former_config import Backbone, compact_model, published_config, published_model
from victims.mask2former_protocols import PROTOCOLS, Protocol, protocol_pipelines
from victims.recipes import DETECTION_META, Flips, count_things, random_flip, warmed_cosine


class Mask2FormerOptions(VictimOptions):
    """The network and its training.

    Attributes:
        network: `compact` learns from random weights in minutes on a CPU (`victims.mask2former_modules`);
            `published` is the paper's.
        backbone: Of the published network.
        width: Compact network: channels of the first of the encoder's four stages.
        channels: Compact network: channels of pixel decoder and queries, a multiple of 8.
        queries: Compact network: number of queries, the greatest number of segments that it can find.
        decoder_layers: Compact network: number of decoder layers; each of three scales needs one.
        semantic_weight: Compact network: weight of the auxiliary semantic loss.
        points: Points per mask at which losses and matching costs are taken.
        score_threshold: Panoptic: least confidence of a segment. The paper's is 0.8.
        protocol: Published schedule and augmentation of a dataset, which replace the fields below (batch 16,
            AdamW 1e-4); None: these fields.
        iterations: Length of the training.
        batch_size: Images per iteration.
        learning_rate: Greatest learning rate, after a linear warm-up and before a cosine decay to 0.
        warmup: Share of the iterations that warm up.
        weight_decay: AdamW's; norms and embeddings are exempt, as in the paper.
        gradient_clip: Greatest norm of the gradient.
        image_size: Longer side in pixels that images are resized to, in training and evaluation; None: as
            they are. Predictions are resized back.
        flips: `all`: horizontal, vertical and both, for images without an upright; or `horizontal`.
        test_batch_size: Images per evaluation step.
    """

    network: Literal["compact", "published"] = "compact"
    backbone: Backbone = "r50"
    width: int = Field(default=16, gt=0)
    channels: int = Field(default=64, gt=0, multiple_of=8)
    queries: int = Field(default=12, gt=0)
    decoder_layers: int = Field(default=3, ge=3)
    semantic_weight: float = Field(default=10.0, ge=0)
    points: int = Field(default=256, gt=0)
    score_threshold: float = Field(default=0.5, ge=0, lt=1)
    protocol: Protocol | None = None
    iterations: int = Field(default=1300, gt=0)
    batch_size: int = Field(default=8, gt=0)
    learning_rate: float = Field(default=1.5e-3, gt=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    image_size: int | None = Field(default=None, gt=0)
    flips: Flips = "all"
    test_batch_size: int = Field(default=16, gt=0)


PUBLISHED: dict[str, Any] = {
    "network": "published",
    "points": 12544,
    "score_threshold": 0.8,
    "learning_rate": 1e-4,
    "weight_decay": 0.05,
    "batch_size": 16,
    "gradient_clip": 0.01,
    "flips": "horizontal",
    "test_batch_size": 1,
}

PRESETS: dict[str, dict[str, Any]] = {
    "ci": {
        "width": 8,
        "channels": 32,
        "queries": 8,
        "points": 128,
        "iterations": 12,
        "batch_size": 4,
    },
    "cpu": {},
    "gpu": PUBLISHED | {"iterations": 5000, "image_size": 256, "gradient_clip": 0.1},
    "paper": PUBLISHED | {"protocol": "ade20k"},
}


class Mask2Former(Victim):
    """Mask2Former on mmdet's (panoptic, instance) and mmseg's (semantic) implementation."""

    name: ClassVar[str] = "mask2former"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "Mask2Former with ResNet-50 or Swin-T: panoptic, instance and semantic"
    paper: ClassVar[str] = "https://arxiv.org/abs/2112.01527"
    tasks: ClassVar[tuple[Task, ...]] = ("panoptic", "instance", "semantic")
    inits: ClassVar[tuple[Init, ...]] = ("scratch", "imagenet")
    Options: ClassVar[type[VictimOptions]] = Mask2FormerOptions
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    def recipe(self, data: DataInfo, task: Task, init: Init, profile: str) -> TrainingRecipe:
        """See `Victim.recipe`.

        Raises:
            SpecError: Unknown task or init, data without the labels of the task, ImageNet weights for the
                compact network, or a protocol that does not have the task.
            EnvironmentFault: mmdet or mmseg is not complete.
        """
        options = self.options
        assert isinstance(options, Mask2FormerOptions)
        things, stuff = self._check(data, task, init)
        config = published_config(task, options.backbone if options.network == "published" else "r50")
        if options.network == "published":
            model = published_model(config, task, things, stuff, options.points, init == "imagenet")
        else:
            model = compact_model(
                config,
                task,
                things,
                stuff,
                width=options.width,
                channels=options.channels,
                queries=options.queries,
                decoder_layers=options.decoder_layers,
                points=options.points,
                semantic_weight=options.semantic_weight,
            )
        if task == "panoptic":
            model.test_cfg.object_mask_thr = options.score_threshold
        if options.protocol:
            protocol = PROTOCOLS[options.protocol]
            iterations, batch_size = protocol.iterations, protocol.batch_size
            scheduler = [protocol.scheduler()]
            train, test = protocol_pipelines(protocol, task)
        else:
            iterations, batch_size = options.iterations, options.batch_size
            scheduler = _scheduler(options)
            train, test = _pipelines(options)
        pack = _pack(task)
        return TrainingRecipe(
            model=model,
            scope="mmseg" if task == "semantic" else "mmdet",
            train_pipeline=[*train, pack],
            test_pipeline=[*test, pack],
            optim_wrapper=_optim_wrapper(config, options, init),
            param_scheduler=scheduler,
            iterations=iterations,
            batch_size=batch_size,
            test_batch_size=options.test_batch_size,
            task=task,
            custom_imports=("victims.mask2former_modules", "victims.pretrained_torchvision"),
        )

    def _check(self, data: DataInfo, task: Task, init: Init) -> tuple[int, int]:
        """Numbers of thing and stuff categories; for the semantic task 0 and the number of classes."""
        options = self.options
        assert isinstance(options, Mask2FormerOptions)
        self.require(task, init)
        if init == "imagenet" and options.network == "compact":
            raise SpecError(
                f"victim {self.name!r}: no ImageNet weights exist for the compact network: "
                "add the option network=published, or use the profile gpu or paper"
            )
        if options.protocol and task not in PROTOCOLS[options.protocol].tasks:
            known = ", ".join(name for name, protocol in PROTOCOLS.items() if task in protocol.tasks)
            raise SpecError(
                f"victim {self.name!r}: protocol {options.protocol!r} has no {task} task: use {known}"
            )
        if task == "semantic":
            return 0, len(data.classes)
        things = count_things(self.name, data, task)
        return things, (len(data.categories) - things if task == "panoptic" else 0)


def _pipelines(options: Mask2FormerOptions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and test transforms without packing."""
    resize = []
    if options.image_size is not None:
        scale = (options.image_size, options.image_size)
        resize = [{"type": "Resize", "scale": scale, "keep_ratio": True}]
    return [*resize, random_flip(options.flips)], resize


def _pack(task: Task) -> dict[str, Any]:
    return {"type": "PackSegInputs" if task == "semantic" else "PackDetInputs", "meta_keys": DETECTION_META}


def _optim_wrapper(config: Any, options: Mask2FormerOptions, init: Init) -> dict[str, Any]:
    """The published AdamW with its exemptions from weight decay.

    The published backbone learns at a tenth of the rate, which is for pretrained ones only.
    """
    wrapper = config.optim_wrapper
    wrapper.optimizer = {
        "type": "AdamW",
        "lr": options.learning_rate,
        "weight_decay": options.weight_decay,
        "eps": 1e-8,
        "betas": (0.9, 0.999),
    }
    wrapper.clip_grad.max_norm = options.gradient_clip
    if init == "scratch":
        for rates in wrapper.paramwise_cfg.custom_keys.values():
            rates.lr_mult = 1.0
    return wrapper.to_dict()


def _scheduler(options: Mask2FormerOptions) -> list[dict[str, Any]]:
    warmup = math.ceil(options.warmup * options.iterations)
    return warmed_cosine(options.iterations, warmup, 0.01)
