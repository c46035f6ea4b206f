"""Training samples of UnSeg: an image with one object of it, jittered into the network's square.

Importing this module imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.datasets.base import VOID, Annotation, Dataset
from bench.errors import DatasetError
from bench.seeds import derive_seed
from protectors.unseg.options import UnSegOptions

MIN_PIXELS = 10
"""An object that shows fewer pixels after jitter is not trained on."""
ATTEMPTS = 50
"""How often another crop, object or image is drawn before a data set counts as empty."""


def object_masks(annotation: Annotation, objects: str) -> list[np.ndarray]:
    """The masks that a sample can be about, each `(H, W)` bool and not empty.

    Args:
        annotation: Labels of an image.
        objects: `instances` or `union`; see `UnSegOptions.objects`.
    """
    masks: list[np.ndarray] = []
    if objects == "instances":
        # Stuff that is no foreground (the background of a panoptic map) is nothing to protect.
        masks = [
            segment.mask & annotation.foreground for segment in annotation.segments if not segment.is_crowd
        ]
        masks = [mask for mask in masks if mask.any()]
        if not masks:
            labels = np.where(annotation.foreground, annotation.semantic, VOID)
            masks = [labels == label for label in np.unique(labels) if label != VOID]
    masks = [mask for mask in masks if mask.any()]
    if not masks and annotation.foreground.any():
        masks = [annotation.foreground]
    return masks


class SampleStream:
    """Draws batches of (image, mask) by their position in the stream, whatever was drawn before.

    Args:
        datasets: Their train splits are used together.
        options: Of these `generator.image_size`, `objects`, `flips`, `jitter` and `cache_images` matter.
        seed: Seed of the stream.

    Raises:
        DatasetError: There are no training images.
    """

    def __init__(self, datasets: Sequence[Dataset], options: UnSegOptions, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.items = [(dataset, image_id) for dataset in datasets for image_id in dataset.ids("train")]
        if not self.items:
            raise DatasetError("unseg: the fit datasets hold no training images; give at least one dataset")
        self._keep = len(self.items) <= options.cache_images
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch number `step`.

        Every pass over the images takes them in a new order. An image of which no crop shows an object is
        replaced by its successor in that order.

        Returns:
            `(B, 3, S, S)` float images in [0, 1] and `(B, 1, S, S)` masks of 0 and 1.

        Raises:
            DatasetError: The images hold no labelled objects of ten pixels.
        """
        size = self.options.batch_size
        samples = [self._sample(position) for position in range(step * size, (step + 1) * size)]
        images, masks = zip(*samples, strict=True)
        return torch.stack(images), torch.stack(masks)

    def _sample(self, position: int) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(derive_seed(self.seed, "sample", position))
        for attempt in range(ATTEMPTS):
            image, masks = self._decoded(self._index(position, attempt))
            if not len(masks):
                continue
            mask = masks[_randint(len(masks), rng)][None]
            image, mask = jitter(image, mask, self.options, rng)
            if mask.sum() >= MIN_PIXELS:
                return flip(image, mask, self.options.flips, rng)
        dataset, image_id = self.items[self._index(position, 0)]
        raise DatasetError(
            f"unseg: no object of {MIN_PIXELS} pixels in {ATTEMPTS} training images from {image_id!r} of "
            f"{dataset.root} on; fit on a data set with labelled objects"
        )

    def _index(self, position: int, attempt: int) -> int:
        count = len(self.items)
        epoch, place = divmod(position, count)
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng(derive_seed(self.seed, "order", epoch))
            self._order = (epoch, rng.permutation(count))
        return int(self._order[1][(place + attempt) % count])

    def _decoded(self, index: int) -> tuple[Tensor, Tensor]:
        if index in self._kept:
            return self._kept[index]
        dataset, image_id = self.items[index]
        image = torch.from_numpy(np.ascontiguousarray(dataset.image("train", image_id).transpose(2, 0, 1)))
        masks = object_masks(dataset.annotation("train", image_id), self.options.objects)
        stacked = torch.zeros((0, *image.shape[1:]), dtype=torch.uint8)
        if masks:
            stacked = torch.from_numpy(np.stack(masks).astype(np.uint8))
        if self._keep:
            self._kept[index] = image, stacked = _shrink(image, stacked, self.options.generator.image_size)
        return image, stacked


def jitter(image: Tensor, mask: Tensor, options: UnSegOptions, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Large-scale jitter: the image at a random scale, cropped at random or zero-padded below and right.

    Args:
        image: `(3, H, W)` uint8.
        mask: `(1, H, W)` uint8 of 0 and 1.
        options: `jitter`, and the side S of the result, `generator.image_size`.
        rng: CPU generator.

    Returns:
        `(3, S, S)` float in [0, 1] and `(1, S, S)` float of 0 and 1.
    """
    side = options.generator.image_size
    low, high = options.jitter
    scale = low + (high - low) * float(torch.rand((), generator=rng))
    height, width = image.shape[1:]
    ratio = scale * side / max(height, width)
    new = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    both = torch.cat([image.float() / 255, mask.float()])
    if new != (height, width):
        both = F.interpolate(both[None], size=new, mode="bilinear", align_corners=False)[0]
    top = _randint(max(0, new[0] - side) + 1, rng)
    left = _randint(max(0, new[1] - side) + 1, rng)
    both = both[:, top : top + side, left : left + side]
    both = F.pad(both, (0, side - both.shape[2], 0, side - both.shape[1]))
    return both[:3], both[3:].round()


def flip(image: Tensor, mask: Tensor, flips: str, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrors image and mask at random, `(C, S, S)` each; see `UnSegOptions.flips`."""
    both = torch.cat([image, mask])
    if _randint(2, rng):
        both = both.flip(2)
    if flips == "all":
        if _randint(2, rng):
            both = both.flip(1)
        if _randint(2, rng):
            both = both.transpose(1, 2)
    return both[:3].contiguous(), both[3:].contiguous()


def _randint(high: int, rng: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=rng))


def _shrink(image: Tensor, masks: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Scales an image and its masks so that the longer side is `side`, if it is longer."""
    height, width = image.shape[1:]
    if max(height, width) <= side:
        return image, masks
    ratio = side / max(height, width)
    size = (max(1, round(height * ratio)), max(1, round(width * ratio)))

    def resized(planes: Tensor) -> Tensor:
        return F.interpolate(planes[None].float(), size=size, mode="bilinear", antialias=True)[0].round()

    if len(masks):
        masks = resized(masks).to(torch.uint8)
    return resized(image).to(torch.uint8), masks.reshape(-1, *size)
