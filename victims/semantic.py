"""What victims that predict label maps share: training options, recipe, pipelines, schedules."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from bench.errors import SpecError
from bench.victim import DataInfo, Init, Task, TrainingRecipe, Victim, VictimOptions
from victims.recipes import training_length

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""ImageNet's RGB statistics in levels, which most pretrained backbones expect."""

HEADS = ("decode_head", "auxiliary_head", "net.decoder", "net.segmentation_head")
"""Where the parameters after the backbone or encoder are, in mmseg's models and in ours of smp's networks."""

WARM_UP = 0.3
"""Share of a training with AdamW in which the learning rate rises."""

MAX_CLASSES = 255
"""Label maps are uint8 and 255 is void."""


class SemanticOptions(VictimOptions):
    """How a victim of this kind is trained.

    Attributes:
        iterations: Length of the training.
        epochs: Length in passes over the training images; replaces `iterations` where it is set.
        batch_size: Images per iteration.
        optimizer: `adamw` with a one-cycle schedule (Smith and Topin, 2018), or `sgd` with momentum 0.9 and
            polynomial decay of power 0.9 (DeepLab's).
        learning_rate: Greatest learning rate.
        head_rate_factor: Factor on the learning rate of what follows the backbone or encoder.
        weight_decay: Of the optimizer.
        image_size: Longer side in pixels that images are resized to, in training and evaluation; None: as
            they are. Predictions are resized back.
        crop_size: Side of the square training window in pixels; None: the longer side of the images.
        shift: By how many pixels the training window may reach beyond the image, which continues there at its
            other side.
        scale_range: Least and greatest random zoom before the window is taken.
        symmetries: `dihedral` (flips and transposes), for images without an upright; or `horizontal` flips.
        rotation: Greatest random rotation in degrees.
        blur: Probability of a 5x5 Gaussian blur.
        dice_weight: Weight of a soft dice loss over the object classes beside the cross-entropy; 0 leaves it out.
        mixed_precision: Trains in float16 where it is safe; needs CUDA.
    """

    iterations: int = Field(default=1800, gt=0)
    epochs: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=8, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0)
    head_rate_factor: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    image_size: int | None = Field(default=None, gt=0)
    crop_size: int | None = Field(default=None, gt=0)
    shift: int = Field(default=8, ge=0)
    scale_range: tuple[float, float] | None = None
    symmetries: Literal["dihedral", "horizontal"] = "dihedral"
    rotation: float = Field(default=0.0, ge=0)
    blur: float = Field(default=0.0, ge=0, le=1)
    dice_weight: float = Field(default=1.0, ge=0)
    mixed_precision: bool = False


PASCAL_SCHEDULE: dict[str, Any] = {
    "epochs": 50,
    "batch_size": 16,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "head_rate_factor": 10.0,
    "weight_decay": 1e-4,
    "image_size": 512,
    "shift": 0,
    "scale_range": (0.5, 2.0),
    "symmetries": "horizontal",
    "dice_weight": 0.0,
}
"""That of the adversarial-training code that table 4 of UnSeg points to, on Pascal VOC, but for its batch norm over
several processes: ours is that of one."""


class SemanticVictim(Victim):
    """A victim that predicts one label map. A subclass gives presets and a model; the recipe is shared.

    Attributes:
        custom_imports: Modules that register what the model is built of.
        pools_globally: Whether a batch norm follows a pooling over the whole image, which leaves it one value
            per image.
    """

    inits: ClassVar[tuple[Init, ...]] = ("scratch", "imagenet")
    per_pixel = True
    Options: ClassVar[type[VictimOptions]] = SemanticOptions
    custom_imports: ClassVar[tuple[str, ...]] = ()
    pools_globally: ClassVar[bool] = False

    @property
    def divisor(self) -> int:
        """What the sides of the network's input have to be multiples of."""
        raise NotImplementedError

    @property
    def coarsest(self) -> int:
        """Pixels per cell of the coarsest features."""
        return self.divisor

    def model(self, data: DataInfo, task: Task, init: Init) -> dict[str, Any]:
        """The configuration of the model, its data preprocessor included.

        Raises:
            SpecError: The options do not fit the data or the starting weights.
        """
        raise NotImplementedError

    def train_pipeline(self, data: DataInfo) -> list[dict[str, Any]]:
        """Transforms of training samples after loading and the defense, packing included."""
        assert isinstance(self.options, SemanticOptions)
        return train_pipeline(self.options, data, self.divisor)

    def optim_wrapper(self) -> dict[str, Any]:
        """The optimizer's configuration."""
        assert isinstance(self.options, SemanticOptions)
        return optim_wrapper(self.options)

    def recipe(self, data: DataInfo, task: Task, init: Init, profile: str) -> TrainingRecipe:
        """See `Victim.recipe`.

        Raises:
            SpecError: Unknown task or starting weights, or options that do not fit.
        """
        options = self.options
        assert isinstance(options, SemanticOptions)
        self.require(task, init)
        self._check_size(data, task)
        iterations = training_length(options, data)
        return TrainingRecipe(
            model=self.model(data, task, init),
            scope="mmseg",
            train_pipeline=self.train_pipeline(data),
            test_pipeline=test_pipeline(options),
            optim_wrapper=self.optim_wrapper(),
            param_scheduler=param_scheduler(options, iterations),
            iterations=iterations,
            batch_size=options.batch_size,
            task=task,
            custom_imports=self.custom_imports,
        )

    def _check_size(self, data: DataInfo, task: Task) -> None:
        """Refuses what would end in an error of torch, or in a network that sees one cell per image."""
        options = self.options
        assert isinstance(options, SemanticOptions)
        classes = class_count(data, task)
        if not 2 <= classes <= MAX_CLASSES:
            raise SpecError(
                f"victim {self.name!r} tells 2 to {MAX_CLASSES} classes apart, and the dataset has {classes}"
            )
        side = options.crop_size or options.image_size or data.image_size
        if side < self.coarsest:
            raise SpecError(
                f"victim {self.name!r}: training images of {side} px are smaller than one cell of its coarsest "
                f"features ({self.coarsest} px): enlarge them with the option image_size={4 * self.coarsest}"
            )
        one_value = self.pools_globally or side <= self.coarsest
        if options.batch_size == 1 and one_value:
            raise SpecError(
                f"victim {self.name!r}: batch norm has a single value with batch_size=1: take 2 or more"
            )


def class_count(data: DataInfo, task: Task) -> int:
    """Outputs of the model: 2 (background, object) unless the task is semantic."""
    return len(data.classes) if task == "semantic" else 2


def window_size(options: SemanticOptions, data: DataInfo, divisor: int) -> int:
    """Side of the training window in pixels, a multiple of `divisor`."""
    side = options.crop_size or options.image_size or data.image_size
    return math.ceil(side / divisor) * divisor


def train_pipeline(options: SemanticOptions, data: DataInfo, divisor: int) -> list[dict[str, Any]]:
    """Zoom, rotation, window, symmetry, blur, packing.

    Args:
        options: Which of them, and how much.
        data: Gives the size of the images.
        divisor: What the sides of the network's input have to be multiples of.
    """
    side = window_size(options, data, divisor)
    pipeline = _resize(options)
    if options.scale_range:
        base = options.image_size or data.image_size
        pipeline.append(
            {
                "type": "RandomResize",
                "scale": (base, base),
                "ratio_range": options.scale_range,
                "keep_ratio": True,
            }
        )
    if options.rotation:
        pipeline.append({"type": "RandomRotate", "prob": 1.0, "degree": options.rotation, "seg_pad_val": 255})
    pipeline.append({"type": "RandomWindow", "size": (side, side), "shift": options.shift})
    if options.symmetries == "dihedral":
        pipeline.append({"type": "RandomDihedral"})
    else:
        pipeline.append({"type": "RandomFlip", "prob": 0.5})
    if options.blur:
        pipeline.append({"type": "RandomBlur", "probability": options.blur, "kernel": 5})
    return [*pipeline, {"type": "PackSegInputs"}]


def test_pipeline(options: SemanticOptions) -> list[dict[str, Any]]:
    """Resizing, where it is asked for, and packing."""
    return [*_resize(options), {"type": "PackSegInputs"}]


def data_preprocessor(
    divisor: int, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> dict[str, Any]:
    """Normalises RGB images and pads right and bottom to multiples of `divisor`, labels with void."""
    return {
        "type": "SegDataPreProcessor",
        "mean": list(mean),
        "std": list(std),
        "bgr_to_rgb": False,
        "pad_val": 0,
        "seg_pad_val": 255,
        "size_divisor": divisor,
        "test_cfg": {"size_divisor": divisor},
    }


def optim_wrapper(options: SemanticOptions) -> dict[str, Any]:
    """The optimizer, with mixed precision and a factor for heads where they are asked for."""
    if options.optimizer == "adamw":
        optimizer = {"type": "AdamW", "lr": options.learning_rate, "weight_decay": options.weight_decay}
    else:
        optimizer = {
            "type": "SGD",
            "lr": options.learning_rate,
            "momentum": 0.9,
            "weight_decay": options.weight_decay,
        }
    wrapper: dict[str, Any] = {
        "type": "AmpOptimWrapper" if options.mixed_precision else "OptimWrapper",
        "optimizer": optimizer,
    }
    if options.head_rate_factor != 1:
        factor = {"lr_mult": options.head_rate_factor}
        wrapper["paramwise_cfg"] = {"custom_keys": dict.fromkeys(HEADS, factor)}
    return wrapper


def param_scheduler(options: SemanticOptions, iterations: int) -> list[dict[str, Any]]:
    """One cycle for AdamW, polynomial decay for SGD."""
    if options.optimizer == "adamw" and options.head_rate_factor != 1:
        # mmengine's one cycle gives all parameter groups the same rate. These two keep their ratios.
        top = min(math.ceil(WARM_UP * iterations), iterations - 1)
        rise = {"type": "LinearLR", "start_factor": 0.04, "begin": 0, "end": top, "by_epoch": False}
        fall = {"type": "CosineAnnealingLR", "begin": top, "end": iterations, "by_epoch": False}
        return [rise, fall] if top else [fall]
    if options.optimizer == "adamw":
        return [
            {
                "type": "OneCycleLR",
                "eta_max": options.learning_rate,
                "total_steps": iterations,
                "pct_start": WARM_UP,
                "by_epoch": False,
            }
        ]
    return [
        {"type": "PolyLR", "power": 0.9, "eta_min": 0.0, "begin": 0, "end": iterations, "by_epoch": False}
    ]


def _resize(options: SemanticOptions) -> list[dict[str, Any]]:
    if options.image_size is None:
        return []
    scale = (options.image_size, options.image_size)
    return [{"type": "Resize", "scale": scale, "keep_ratio": True}]
