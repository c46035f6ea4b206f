"""SAM-HQ (Ke et al., NeurIPS 2023): an object's mask from a box, by a better decoder on SAM."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from bench.victim import DataInfo, Init, Task, TrainingRecipe, Victim, VictimOptions
from victims import sam
from victims.recipes import Flips, random_flip, training_length
from victims.semantic import MEAN, STD

META_KEYS = ("img_id", "ori_shape", "img_shape", "prompt_box")


class SamHQOptions(sam.SamOptions):
    """The network and its training.

    Attributes:
        points: Points per mask at which the loss is taken, three quarters of them where the mask is least
            certain; None: every pixel of the network's input.
        iterations: Length of the training.
        epochs: Length in passes over the training images; replaces `iterations` where it is set.
        batch_size: Images per iteration.
        learning_rate: Adam's, or the greatest one of a one-cycle schedule.
        schedule: `step`: a tenth from five sixths of the training on, as published; `one_cycle` (Smith and
            Topin, 2018), for a network that starts at random.
        weight_decay: AdamW's; Adam and AdamW are the same without.
        gradient_clip: Greatest norm of the gradient; None: any.
        jitter: Least and greatest random scale of the image against the network's square, from which it is
            cropped or to which it is padded.
        flips: `all`: horizontal, vertical and both, for images without an upright; or `horizontal`.
    """

    points: int | None = Field(default=None, gt=0)
    iterations: int = Field(default=1800, gt=0)
    epochs: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=8, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["step", "one_cycle"] = "one_cycle"
    weight_decay: float = Field(default=0.01, ge=0)
    gradient_clip: float | None = Field(default=1.0, gt=0)
    jitter: tuple[float, float] = (1.0, 1.0)
    flips: Flips = "all"

    @model_validator(mode="after")
    def _jitter_is_a_range(self) -> SamHQOptions:
        low, high = self.jitter
        if not 0 < low <= high:
            raise ValueError(f"jitter {self.jitter} is no range of positive scales")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "ci": {
        "geometry": {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_blocks": (1,), "decoder_dim": 32},
        "iterations": 12,
        "batch_size": 4,
    },
    "cpu": {},
    "gpu": {
        "geometry": {
            "image_size": 256,
            "patch_size": 8,
            "embed_dim": 192,
            "depth": 8,
            "num_heads": 6,
            "window_size": 8,
            "global_blocks": (1, 3, 5, 7),
            "decoder_dim": 128,
            "decoder_mlp_dim": 512,
        },
        "iterations": 6000,
        "batch_size": 16,
        "points": 12544,
        "jitter": (0.5, 1.5),
    },
    # The schedule of the authors' training code, 4 images on each of 8 GPUs.
    "paper": {
        "encoder": "vit_l",
        "stem": "patch",
        "frozen_encoder": True,
        "frozen_decoder": True,
        "points": 112 * 112,
        "epochs": 12,
        "batch_size": 32,
        "schedule": "step",
        "weight_decay": 0.0,
        "gradient_clip": None,
        "jitter": (0.1, 2.0),
        "flips": "horizontal",
        "test_batch_size": 1,
    },
}


class SamHQ(Victim):
    """SAM-HQ on segment-anything's modules: one object per image, given by its box."""

    name: ClassVar[str] = "sam_hq"
    summary: ClassVar[str] = "SAM-HQ: the object in a box; on SAM's frozen encoder, or on a compact one"
    paper: ClassVar[str] = "https://arxiv.org/abs/2306.01567"
    tasks: ClassVar[tuple[Task, ...]] = ("interactive",)
    inits: ClassVar[tuple[Init, ...]] = ("scratch", "sam")
    Options: ClassVar[type[VictimOptions]] = SamHQOptions
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    @classmethod
    def resolve_options(cls, profile: str, given: dict[str, Any]) -> VictimOptions:
        """The profile's preset with `given` on top."""
        return cls.Options(**sam.resolve(cls.preset(profile), given))

    def recipe(self, data: DataInfo, task: Task, init: Init, profile: str) -> TrainingRecipe:
        """See `Victim.recipe`.

        Raises:
            SpecError: Unknown task or init, or no weights of this encoder.
        """
        options = self.options
        assert isinstance(options, SamHQOptions)
        self.require(task, init)
        iterations = training_length(options, data)
        train, test = _pipelines(options)
        return TrainingRecipe(
            model=self._model(options, init),
            scope="mmseg",
            train_pipeline=train,
            test_pipeline=test,
            optim_wrapper=_optim_wrapper(options),
            param_scheduler=_scheduler(options, iterations),
            iterations=iterations,
            batch_size=options.batch_size,
            test_batch_size=options.test_batch_size,
            task=task,
            custom_imports=("victims.sam_hq_model",),
        )

    def _model(self, options: SamHQOptions, init: Init) -> dict[str, Any]:
        side = options.geometry.image_size
        return {
            "type": "SamHQSegmentor",
            "geometry": options.geometry.model_dump(),
            "stem": options.stem,
            "frozen_encoder": options.frozen_encoder,
            "frozen_decoder": options.frozen_decoder,
            "points": options.points,
            "pretrained": sam.starting_weights(options, init, self.name),
            "data_preprocessor": {
                "type": "SegDataPreProcessor",
                "mean": list(MEAN),
                "std": list(STD),
                "bgr_to_rgb": False,
                "size": (side, side),
                "pad_val": 0,
                # As in the authors' code, what is padded is background, not void.
                "seg_pad_val": 0,
                "test_cfg": {"size": (side, side)},
            },
        }


def _pipelines(options: SamHQOptions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    square = (options.geometry.image_size, options.geometry.image_size)
    train = [
        {"type": "RandomResize", "scale": square, "ratio_range": options.jitter, "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": square},
        random_flip(options.flips),
        {"type": "PackSegInputs"},
    ]
    test = [
        {"type": "Resize", "scale": square, "keep_ratio": False},
        {"type": "PackSegInputs", "meta_keys": META_KEYS},
    ]
    return train, test


def _optim_wrapper(options: SamHQOptions) -> dict[str, Any]:
    wrapper: dict[str, Any] = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": options.learning_rate, "weight_decay": options.weight_decay},
    }
    if options.gradient_clip is not None:
        wrapper["clip_grad"] = {"max_norm": options.gradient_clip}
    return wrapper


def _scheduler(options: SamHQOptions, iterations: int) -> list[dict[str, Any]]:
    if options.schedule == "step":
        milestone = max(1, round(iterations * 10 / 12))
        return [{"type": "MultiStepLR", "milestones": [milestone], "gamma": 0.1, "by_epoch": False}]
    return [
        {
            "type": "OneCycleLR",
            "eta_max": options.learning_rate,
            "total_steps": iterations,
            "pct_start": 0.3,
            "by_epoch": False,
        }
    ]
