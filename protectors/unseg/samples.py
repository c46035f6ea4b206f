"""Training samples of UnSeg: an image with one object of it, jittered into the network's square.

Importing this module imports torch.
"""

from __future__ import annotations

import threading
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
"""How many samples in a row may show no object before a data set counts as empty."""
CACHE_BYTES = 2 << 30
"""Memory that kept images and masks may take. It decides nothing but speed."""


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
    """Draws samples (image, mask) by their position in the stream, whatever was drawn before.

    It may be read by several threads.

    Args:
        datasets: Their train splits are used together.
        options: Of these `batch_size`, `generator.image_size`, `objects`, `flips`, `jitter` and
            `cache_images` matter.
        seed: Seed of the stream.

    Raises:
        DatasetError: There are no training images, or with `objects="instances"` no objects.
    """

    def __init__(self, datasets: Sequence[Dataset], options: UnSegOptions, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.images = [(dataset, image_id) for dataset in datasets for image_id in dataset.ids("train")]
        if not self.images:
            raise DatasetError("unseg: the fit datasets hold no training images; give at least one dataset")
        self.items = self._list_items()
        self._shrinks = len(self.images) <= options.cache_images
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._kept_bytes = 0
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Samples in one pass."""
        return len(self.items)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch number `step`; see `collate`."""
        size = self.options.batch_size
        return collate([self.sample(position) for position in range(step * size, (step + 1) * size)])

    def sample(self, position: int) -> tuple[Tensor, Tensor]:
        """The sample at a position of the stream.

        Every pass over the samples takes them in a new order. A sample of which no crop shows the object is
        replaced by its successor in that order.

        Returns:
            `(3, S, S)` float image in [0, 1] and `(1, S, S)` float mask of 0 and 1.

        Raises:
            DatasetError: The images hold no labelled objects of ten pixels.
        """
        rng = torch.Generator().manual_seed(derive_seed(self.seed, "sample", position))
        for attempt in range(ATTEMPTS):
            image, mask = self._decoded(self._index(position, attempt))
            if mask is None:
                continue
            _randint(1, rng)  # drawn for nothing, so that seeds keep the crops that records were made with
            image, mask = jitter(image, mask, self.options, rng)
            if mask.sum() >= MIN_PIXELS:
                return flip(image, mask, self.options.flips, rng)
        dataset, image_id = self.images[self.items[self._index(position, 0)][0]]
        raise DatasetError(
            f"unseg: no object of {MIN_PIXELS} pixels in {ATTEMPTS} training images from {image_id!r} of "
            f"{dataset.root} on; fit on a data set with labelled objects"
        )

    def _list_items(self) -> list[tuple[int, int]]:
        """Index of the image and of the object in it, for every sample of a pass."""
        if self.options.objects == "union":
            return [(image, 0) for image in range(len(self.images))]
        items = []
        for image, (dataset, image_id) in enumerate(self.images):
            masks = object_masks(dataset.annotation("train", image_id), self.options.objects)
            items += [(image, number) for number in range(len(masks))]
        if not items:
            dataset, _ = self.images[0]
            raise DatasetError(
                f"unseg: no labelled object in the {len(self.images)} training images of {dataset.root}; "
                "fit on a data set with labelled objects"
            )
        return items

    def _index(self, position: int, attempt: int) -> int:
        count = len(self.items)
        epoch, place = divmod(position, count)
        order = self._orders.get(epoch)
        if order is None:
            order = np.random.default_rng(derive_seed(self.seed, "order", epoch)).permutation(count)
            # Threads may be at the end of one pass and at the start of the next.
            self._orders = {number: kept for number, kept in self._orders.items() if number >= epoch - 1}
            self._orders[epoch] = order
        return int(order[(place + attempt) % count])

    def _decoded(self, item: int) -> tuple[Tensor, Tensor | None]:
        """Image `(3, H, W)` and mask `(1, H, W)`, both uint8; no mask if the image shows no object."""
        index, number = self.items[item]
        if index in self._kept:
            image, masks = self._kept[index]
            return image, masks[number][None] if len(masks) else None
        dataset, image_id = self.images[index]
        image = torch.from_numpy(np.ascontiguousarray(dataset.image("train", image_id).transpose(2, 0, 1)))
        found = object_masks(dataset.annotation("train", image_id), self.options.objects)
        if not self._shrinks:
            return image, torch.from_numpy(found[number].astype(np.uint8))[None] if found else None
        masks = torch.zeros((0, *image.shape[1:]), dtype=torch.uint8)
        if found:
            masks = torch.from_numpy(np.stack(found).astype(np.uint8))
        image, masks = _shrink(image, masks, self.options.generator.image_size)
        self._keep(index, image, masks)
        return image, masks[number][None] if len(masks) else None

    def _keep(self, index: int, image: Tensor, masks: Tensor) -> None:
        with self._lock:
            size = image.nbytes + masks.nbytes
            if index not in self._kept and self._kept_bytes + size <= CACHE_BYTES:
                self._kept[index] = image, masks
                self._kept_bytes += size


def collate(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """`(B, 3, S, S)` float images in [0, 1] and `(B, 1, S, S)` masks of 0 and 1."""
    images, masks = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(masks)


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
