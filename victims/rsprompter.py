"""RSPrompter (Chen et al., TGRS 2024): instances of remote-sensing images by a network that prompts SAM."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from bench.victim import DataInfo, Init, Task, TrainingRecipe, Victim, VictimOptions
from victims import sam
from victims.recipes import DETECTION_META, Flips, count_things, random_flip, training_length, warmed_cosine
from victims.rsprompter_config import PrompterShape, anchor_model, query_model


class RSPrompterOptions(sam.SamOptions):
    """The network and its training.

    Attributes:
        variant: `anchor`: a two-stage detector makes a prompt of each region; `query`: a Mask2Former-like one of
            each query.
        channels: Of the feature pyramid.
        hidden: Of the aggregator of hidden states.
        layers: Hidden states of the encoder that are aggregated: 0 is what enters the first block, k what leaves
            the k-th; empty: every second one from 1 on, as published.
        prompts: Prompt tokens per region or query.
        detections: Greatest number of instances per image, the published N_p.
        box_channels: Anchor: of the two layers of the box head.
        proposals: Anchor: regions of an image that the second stage looks at.
        rpn_samples: Anchor: anchors of an image at which the first stage's losses are taken.
        region_samples: Anchor: regions of an image at which the second stage's losses are taken.
        region_sampling: Anchor: points per side of a cell of a region's features; 0: about as many as the feature map
            has there, as published, which on a CPU is most of the work.
        query_channels: Query: of queries and pixel decoder, a multiple of 8.
        queries: Query: number of queries.
        encoder_layers: Query: layers of deformable attention of the pixel decoder.
        decoder_layers: Query: layers of the query decoder, at least one per scale.
        points: Query: points per mask at which losses and matching costs are taken.
        dense_weight: Weight of a per-pixel cross-entropy on the pyramid's finest level, with which a network learns
            from random weights in a fraction of the time; 0 leaves it out, as published.
        protocol: Published epochs and N_p of a dataset, for which they stand unless given; None: the profile's.
        iterations: Length of the training.
        epochs: Length in passes over the training images; replaces `iterations` where it is set.
        batch_size: Images per iteration.
        learning_rate: AdamW's greatest learning rate, after the warm-up and before a cosine decay to a thousandth.
        warmup: Iterations of a linear warm-up from a thousandth.
        weight_decay: AdamW's.
        gradient_clip: Greatest norm of the gradient; None: any.
        jitter: Least and greatest random scale of the image against the network's square, from which it is
            cropped or to which it is padded.
        flips: `all`: horizontal, vertical and both, for images without an upright; or `horizontal`.
        mixed_precision: Trains in float16 where it is safe; needs CUDA.
    """

    variant: Literal["anchor", "query"] = "anchor"
    channels: int = Field(default=32, gt=0, multiple_of=8)
    hidden: int = Field(default=32, gt=0)
    layers: tuple[int, ...] = ()
    prompts: int = Field(default=5, gt=0)
    detections: int = Field(default=20, gt=0)
    box_channels: int = Field(default=256, gt=0)
    proposals: int = Field(default=100, gt=0)
    rpn_samples: int = Field(default=64, gt=0)
    region_samples: int = Field(default=64, gt=0)
    region_sampling: int = Field(default=1, ge=0)
    query_channels: int = Field(default=64, gt=0, multiple_of=8)
    queries: int = Field(default=12, gt=0)
    encoder_layers: int = Field(default=1, gt=0)
    decoder_layers: int = Field(default=3, ge=3)
    points: int = Field(default=256, gt=0)
    dense_weight: float = Field(default=10.0, ge=0)
    protocol: Literal["whu", "nwpu", "ssdd"] | None = None
    iterations: int = Field(default=1800, gt=0)
    epochs: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=8, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=50, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    gradient_clip: float | None = Field(default=1.0, gt=0)
    jitter: tuple[float, float] = (1.0, 1.0)
    flips: Flips = "all"
    mixed_precision: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> RSPrompterOptions:
        low, high = self.jitter
        if not 0 < low <= high:
            raise ValueError(f"jitter {self.jitter} is no range of positive scales")
        if not all(0 <= layer <= self.geometry.depth for layer in self.layers):
            raise ValueError(
                f"layers {self.layers} lie outside 0 to {self.geometry.depth}, the encoder's depth"
            )
        if self.geometry.patch_size % 4:
            raise ValueError(
                f"patch_size {self.geometry.patch_size} is no multiple of 4, and the pyramid's finest level is four "
                "times finer"
            )
        return self


PROTOCOLS: dict[str, dict[str, dict[str, int]]] = {
    "whu": {
        "anchor": {"epochs": 200, "detections": 100},
        "query": {"epochs": 300, "detections": 100, "queries": 100},
    },
    "nwpu": {
        "anchor": {"epochs": 300, "detections": 70},
        "query": {"epochs": 500, "detections": 70, "queries": 70},
    },
    "ssdd": {
        "anchor": {"epochs": 300, "detections": 30},
        "query": {"epochs": 500, "detections": 30, "queries": 30},
    },
}
"""The paper's table of schedules."""

FULL_SIZE: dict[str, Any] = {
    "channels": 256,
    "detections": 100,
    "box_channels": 1024,
    "proposals": 1000,
    "rpn_samples": 256,
    "region_samples": 256,
    "region_sampling": 0,
    "query_channels": 128,
    "queries": 100,
    "encoder_layers": 3,
    "decoder_layers": 6,
    "points": 12544,
    "dense_weight": 0.0,
    "learning_rate": 1e-4,
    "flips": "horizontal",
    "jitter": (0.1, 2.0),
}

PRESETS: dict[str, dict[str, Any]] = {
    "ci": {
        "geometry": {
            "embed_dim": 32,
            "depth": 2,
            "num_heads": 2,
            "global_blocks": (1,),
            "decoder_dim": 32,
            "decoder_mlp_dim": 64,
        },
        "channels": 32,
        "hidden": 16,
        "box_channels": 64,
        "query_channels": 32,
        "queries": 8,
        "points": 64,
        "iterations": 8,
        "batch_size": 2,
        "test_batch_size": 4,
    },
    # Enough for the anchor variant (AP 27 on clean shapes). The query variant is far from done by then (AP 3.5): its
    # queries are matched late, and two cores show it about 20 images a second.
    "cpu": {"warmup": 180},
    "gpu": FULL_SIZE
    | {
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
        "channels": 128,
        "iterations": 8000,
        "batch_size": 16,
        "learning_rate": 3e-4,
        "jitter": (0.5, 1.5),
    },
    # The paper's: SAM's ViT-H, frozen. The authors' code trains ViT-B along, which is `encoder=vit_b
    # frozen_encoder=false`, at 2e-4 (anchor) with one or two images per GPU.
    "paper": FULL_SIZE
    | {
        "encoder": "vit_h",
        "frozen_encoder": True,
        "protocol": "nwpu",
        "batch_size": 16,
        "test_batch_size": 1,
        "gradient_clip": None,
    },
}


class RSPrompter(Victim):
    """RSPrompter's two variants on segment-anything's and mmdet's modules."""

    name: ClassVar[str] = "rsprompter"
    summary: ClassVar[str] = "RSPrompter (anchor or query): instances by prompting SAM; or a compact one"
    paper: ClassVar[str] = "https://arxiv.org/abs/2306.16269"
    tasks: ClassVar[tuple[Task, ...]] = ("instance",)
    inits: ClassVar[tuple[Init, ...]] = ("scratch", "sam")
    Options: ClassVar[type[VictimOptions]] = RSPrompterOptions
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    @classmethod
    def resolve_options(cls, profile: str, given: dict[str, Any]) -> VictimOptions:
        """The profile's preset, the protocol's numbers on top, and `given` on top of both."""
        preset = dict(cls.preset(profile))
        protocol = given.get("protocol", preset.get("protocol"))
        if protocol in PROTOCOLS:
            preset |= PROTOCOLS[protocol].get(given.get("variant", "anchor"), {})
        return cls.Options(**sam.resolve(preset, given))

    def recipe(self, data: DataInfo, task: Task, init: Init, profile: str) -> TrainingRecipe:
        """See `Victim.recipe`.

        Raises:
            SpecError: Unknown task or init, data without things, or no weights of this encoder.
        """
        options = self.options
        assert isinstance(options, RSPrompterOptions)
        self.require(task, init)
        things = count_things(self.name, data, task)
        iterations = training_length(options, data)
        train, test = _pipelines(options)
        return TrainingRecipe(
            model=_model(options, things, sam.starting_weights(options, init, self.name)),
            scope="mmdet",
            train_pipeline=train,
            test_pipeline=test,
            optim_wrapper=_optim_wrapper(options),
            param_scheduler=_scheduler(options, iterations),
            iterations=iterations,
            batch_size=options.batch_size,
            test_batch_size=options.test_batch_size,
            task=task,
            custom_imports=(f"victims.rsprompter_{options.variant}",),
        )


def _model(options: RSPrompterOptions, things: int, pretrained: str | None) -> dict[str, Any]:
    shape = PrompterShape(
        geometry=options.geometry,
        stem=options.stem,
        frozen_encoder=options.frozen_encoder,
        frozen_decoder=options.frozen_decoder,
        pretrained=pretrained,
        classes=things,
        channels=options.channels,
        hidden=options.hidden,
        layers=options.layers or tuple(range(1, options.geometry.depth + 1, 2)),
        prompts=options.prompts,
        detections=options.detections,
        dense_weight=options.dense_weight,
    )
    if options.variant == "anchor":
        return anchor_model(
            shape,
            box_channels=options.box_channels,
            proposals=options.proposals,
            rpn_samples=options.rpn_samples,
            region_samples=options.region_samples,
            region_sampling=options.region_sampling,
        )
    return query_model(
        shape,
        query_channels=options.query_channels,
        queries=options.queries,
        encoder_layers=options.encoder_layers,
        decoder_layers=options.decoder_layers,
        points=options.points,
    )


def _pipelines(options: RSPrompterOptions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    square = (options.geometry.image_size, options.geometry.image_size)
    pack = {"type": "PackDetInputs", "meta_keys": DETECTION_META}
    train = [
        random_flip(options.flips),
        {"type": "RandomResize", "scale": square, "ratio_range": options.jitter, "keep_ratio": True},
        {
            "type": "RandomCrop",
            "crop_size": square,
            "crop_type": "absolute",
            "recompute_bbox": True,
            "allow_negative_crop": True,
        },
        # An image whose objects were cropped away teaches that nothing is there.
        {"type": "FilterAnnotations", "min_gt_bbox_wh": (1e-5, 1e-5), "by_mask": True, "keep_empty": False},
        pack,
    ]
    return train, [{"type": "Resize", "scale": square, "keep_ratio": True}, pack]


def _optim_wrapper(options: RSPrompterOptions) -> dict[str, Any]:
    wrapper: dict[str, Any] = {
        "type": "AmpOptimWrapper" if options.mixed_precision else "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": options.learning_rate, "weight_decay": options.weight_decay},
    }
    if options.gradient_clip is not None:
        wrapper["clip_grad"] = {"max_norm": options.gradient_clip}
    return wrapper


def _scheduler(options: RSPrompterOptions, iterations: int) -> list[dict[str, Any]]:
    warmup = min(options.warmup, iterations // 2)
    return warmed_cosine(iterations, warmup, 1e-3, eta_min=1e-3 * options.learning_rate)
