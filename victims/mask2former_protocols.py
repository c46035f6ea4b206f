"""The published schedules and augmentations of Mask2Former, by dataset.

From the model zoo's configs: AdamW 1e-4, weight decay 0.05, batch 16; COCO 50 epochs with large-scale
jittering to 1024 pixels; ADE20K 160k iterations, crops of 640 (panoptic, instance) or 512 pixels (semantic);
Cityscapes 90k iterations, crops of 512x1024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from bench.datasets.base import Task

Protocol = Literal["coco", "ade20k", "cityscapes"]


@dataclass(frozen=True)
class PublishedProtocol:
    """A published schedule.

    Attributes:
        tasks: What was published for it.
        iterations: Length of the training, of 16 images each.
        milestones: Iterations at which the learning rate falls to a tenth; empty: polynomial decay.
        crop: `(height, width)` of the training window in pixels.
        semantic_crop: The same for the semantic task.
        test_scale: `(long, short)` bounds in pixels of test images; None: as they are.
        semantic_test_scale: The same for the semantic task.
        jitter: Whether images are jittered around the crop's size (LSJ) or their short side is drawn.
    """

    tasks: tuple[Task, ...]
    iterations: int
    milestones: tuple[int, ...]
    crop: tuple[int, int]
    semantic_crop: tuple[int, int]
    test_scale: tuple[int, int] | None
    semantic_test_scale: tuple[int, int] | None
    jitter: bool
    batch_size: int = 16

    def scheduler(self) -> dict[str, Any]:
        """mmengine scheduler config."""
        if self.milestones:
            return {
                "type": "MultiStepLR",
                "begin": 0,
                "end": self.iterations,
                "milestones": list(self.milestones),
                "gamma": 0.1,
                "by_epoch": False,
            }
        return {
            "type": "PolyLR",
            "power": 0.9,
            "eta_min": 0.0,
            "begin": 0,
            "end": self.iterations,
            "by_epoch": False,
        }


PROTOCOLS: dict[Protocol, PublishedProtocol] = {
    "coco": PublishedProtocol(
        tasks=("panoptic", "instance"),
        iterations=368_750,
        milestones=(327_778, 355_092),
        crop=(1024, 1024),
        semantic_crop=(1024, 1024),
        test_scale=(1333, 800),
        semantic_test_scale=None,
        jitter=True,
    ),
    "ade20k": PublishedProtocol(
        tasks=("panoptic", "instance", "semantic"),
        iterations=160_000,
        milestones=(),
        crop=(640, 640),
        semantic_crop=(512, 512),
        test_scale=(2560, 640),
        semantic_test_scale=(2048, 512),
        jitter=False,
    ),
    "cityscapes": PublishedProtocol(
        tasks=("panoptic", "instance", "semantic"),
        iterations=90_000,
        milestones=(),
        crop=(512, 1024),
        semantic_crop=(512, 1024),
        test_scale=None,
        semantic_test_scale=None,
        jitter=False,
    ),
}


def protocol_pipelines(
    protocol: PublishedProtocol, task: Task
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and test transforms without packing.

    Args:
        protocol: One of `PROTOCOLS`.
        task: One of its tasks.
    """
    semantic = task == "semantic"
    crop = protocol.semantic_crop if semantic else protocol.crop
    scale = protocol.semantic_test_scale if semantic else protocol.test_scale
    test = [] if scale is None else [{"type": "Resize", "scale": scale, "keep_ratio": True}]
    if protocol.jitter:
        resize = {"type": "RandomResize", "scale": crop, "ratio_range": (0.1, 2.0), "keep_ratio": True}
    else:
        short = crop[1]
        resize = {
            "type": "RandomChoiceResize",
            "scales": [int(short * tenths / 10) for tenths in range(5, 21)],
            "resize_type": "ResizeShortestEdge",
            "max_size": 4 * short,
        }
    flip = {"type": "RandomFlip", "prob": 0.5}
    if semantic:
        window = {"type": "RandomCrop", "crop_size": crop, "cat_max_ratio": 0.75}
        return [resize, window, flip, {"type": "PhotoMetricDistortion"}], test
    window = {
        "type": "RandomCrop",
        "crop_size": crop,
        "crop_type": "absolute",
        "recompute_bbox": True,
        "allow_negative_crop": True,
    }
    return [flip, resize, window], test
