"""Small networks with random weights, drawn scenes and masks, for the tests of UnSeg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from memory_dataset import MemoryDataset
from torch import Tensor, nn

from bench.datasets.base import Annotation, Category, Segment
from bench.datasets.shapes.scenes import CLASSES, SceneOptions, draw_scene
from bench.learner import FitContext

TINY = {
    "image_size": 16,
    "patch_size": 4,
    "embed_dim": 8,
    "depth": 2,
    "num_heads": 2,
    "window_size": 2,
    "global_blocks": (0,),
    "relative_positions": False,
    "decoder_dim": 16,
    "decoder_heads": 2,
    "decoder_mlp_dim": 8,
    "mask_channels": 8,
}
TINY_SAM = {name: value for name, value in TINY.items() if name != "relative_positions"}
"""As `TINY`, with SAM's relative positions."""
SMALL = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "window_size": 4,
    "global_blocks": (1,),
    "decoder_dim": 16,
    "decoder_heads": 2,
    "decoder_mlp_dim": 16,
    "mask_channels": 8,
}
QUICK = {
    "generator": TINY,
    "surrogate": TINY,
    "phases": 5,
    "phase_steps": 2,
    "first_phase_steps": 3,
    "batch_size": 2,
}


class Scenes(MemoryDataset):
    """Drawn scenes as an instance data set, held in memory."""

    name = "scenes-in-memory"
    tasks = frozenset({"semantic", "instance"})
    classes = ("background", *CLASSES)
    categories = tuple(Category(name, True) for name in CLASSES)

    def __init__(self, count: int = 6, size: int = 24, series: int = 3) -> None:
        super().__init__()
        self.scenes = [draw_scene(series, i, SceneOptions(size=size)) for i in range(count)]

    def ids(self, split):
        return tuple(str(i) for i in range(len(self.scenes)))

    def image(self, split, image_id):
        return self.scenes[int(image_id)].image

    def annotation(self, split, image_id):
        scene = self.scenes[int(image_id)]
        segments = tuple(
            Segment(scene.instances == k + 1, category - 1) for k, category in enumerate(scene.categories)
        )
        return Annotation(scene.semantic, segments, scene.semantic > 0)


def context(
    folder: Path,
    seed: int = 0,
    report: Callable[[int, int, str], None] = lambda done, total, note: None,
    loader_workers: int = 0,
) -> FitContext:
    return FitContext(folder / "work", folder / "state", seed, "cpu", report, loader_workers)


def perturbed(network: nn.Module, seed: int = 0) -> nn.Module:
    """Moves every weight away from where it starts: some start at zero, and would hide a mistake."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            scale = 0.3 if "rel_pos" in name or "pos_embed" in name else 0.1
            weight += scale * torch.randn(weight.shape, generator=rng)
    return network


def rectangles(*corners: tuple[int, int, int, int], size: int) -> Tensor:
    """`(B, 1, size, size)` masks of the rectangles x0, y0, x1, y1, their ends included."""
    mask = torch.zeros(len(corners), 1, size, size)
    for plane, (x0, y0, x1, y1) in zip(mask, corners, strict=True):
        plane[0, y0 : y1 + 1, x0 : x1 + 1] = 1
    return mask


def weights_of(*networks: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {
        f"{i}.{name}": value.detach().clone()
        for i, network in enumerate(networks)
        for name, value in network.state_dict().items()
    }
