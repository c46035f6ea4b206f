"""One training step of UnSeg: what is drawn for a batch, and the loss of its rows.

All that is random about a step is drawn for the whole batch before anything is computed, so that the batch
can be worked on in parts, one after another or in several processes. Importing this module imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protectors.unseg.losses import Candidates, dense_loss, draw_candidates, point_loss
from protectors.unseg.options import UnSegOptions
from protectors.unseg.parallel import Share
from protectors.unseg.prompts import Prompts, draw_kinds, make_prompts, resize
from protectors.unseg.surrogate import apply_noise

Learner = Literal["generator", "surrogate"]


@dataclass(frozen=True)
class Batch:
    """Rows of a batch, with everything random about the step.

    Attributes:
        image: `(B, 3, S, S)` in [0, 1], S is the generator's input size.
        small_image: `(B, 3, S', S')`, S' is the surrogate's.
        small_mask: `(B, 1, S', S')` of 0 and 1.
        generator_prompts: Prompts in the coordinates of `image`.
        surrogate_prompts: Prompts in the coordinates of `small_image`.
        candidates: Of the loss at points; None for the dense loss.
    """

    image: Tensor
    small_image: Tensor
    small_mask: Tensor
    generator_prompts: Prompts
    surrogate_prompts: Prompts
    candidates: Candidates | None

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop`."""
        return Batch(
            self.image[start:stop],
            self.small_image[start:stop],
            self.small_mask[start:stop],
            self.generator_prompts.rows(start, stop),
            self.surrogate_prompts.rows(start, stop),
            None if self.candidates is None else self.candidates.rows(start, stop),
        )

    def parts(self, count: int) -> Iterator[Batch]:
        """The rows in `count` parts of nearly one size; fewer if there are fewer rows."""
        count = min(count, len(self))
        if count == 1:
            yield self
            return
        for i in range(count):
            yield self.rows(len(self) * i // count, len(self) * (i + 1) // count)


def draw_batch(
    image: Tensor, mask: Tensor, options: UnSegOptions, rng: torch.Generator, share: Share | None = None
) -> Batch:
    """Scales a batch for the surrogate and draws both networks' prompts and the points of the loss.

    Args:
        image: `(B, 3, S, S)` in [0, 1].
        mask: `(B, 1, S, S)` of 0 and 1.
        options: Prompt kinds, sizes and points.
        rng: CPU generator.
        share: Which rows of the whole batch these are; None: all.
    """
    kinds = draw_kinds(options.generator_prompts, mask, several=True, rng=rng)
    generator_prompts = make_prompts(kinds, mask, options.generator.output_size, rng, share)
    side = options.surrogate.image_size
    small_image, small_mask = _resize_image(image, side), resize(mask, side).round()
    kinds = draw_kinds(options.surrogate_prompts, small_mask, several=False, rng=rng)
    surrogate_prompts = make_prompts(kinds, small_mask, options.surrogate.output_size, rng, share)
    candidates = None
    if options.loss == "points":
        candidates = draw_candidates(
            len(image), options.loss_points, options.loss_oversample, options.loss_importance, rng, share
        )
    return Batch(image, small_image, small_mask, generator_prompts, surrogate_prompts, candidates)


def batch_loss(
    generator: nn.Module, surrogate: nn.Module, batch: Batch, learner: Learner, options: UnSegOptions
) -> Tensor:
    """The surrogate's loss on noised images, for the network that learns.

    The surrogate is held to the true mask, the generator to it or, with label modification, to all ones.
    With `precision="bf16"` the networks compute in bfloat16 where autocast does, and noise, noised images
    and loss stay in the precision of the images.

    Returns:
        A scalar: the mean over the rows.
    """
    half = torch.autocast(batch.image.device.type, torch.bfloat16, enabled=options.precision == "bf16")
    with half, torch.set_grad_enabled(learner == "generator"):
        noise = generator(batch.image, batch.generator_prompts)
    noised = apply_noise(
        batch.small_image,
        noise.to(batch.small_image.dtype),
        batch.small_mask,
        options.train_epsilon,
        options.train_epsilon_background,
    )
    with half:
        logits = surrogate(noised, batch.surrogate_prompts)
    logits = logits.to(batch.small_image.dtype)
    modified = learner == "generator" and options.label_modification
    target = torch.ones_like(batch.small_mask) if modified else batch.small_mask
    if batch.candidates is None:
        return dense_loss(logits, target)
    return point_loss(logits, target, batch.candidates)


def _resize_image(image: Tensor, side: int) -> Tensor:
    if image.shape[-1] == side:
        return image
    return F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)
