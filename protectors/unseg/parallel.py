"""A batch that several processes share: whose rows are whose, and how sums over all of them are made.

In a `torch.distributed` group every process works on its rows of each batch and holds the same weights.
Without a group there is one process, and everything here leaves its argument as it is. Importing this module
imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from mmengine import dist
from torch import Tensor

from bench.errors import SpecError


@dataclass(frozen=True)
class Share:
    """The rows `start` to `stop` of a batch of `total` rows."""

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start


def own_share(batch_size: int) -> Share:
    """The rows of a batch that this process works on.

    Raises:
        SpecError: There are more processes than rows.
    """
    rank, processes = dist.get_rank(), dist.get_world_size()
    if batch_size < processes:
        raise SpecError(
            f"unseg: a batch of {batch_size} cannot be shared by {processes} processes; "
            "raise batch_size or take fewer"
        )
    return Share(batch_size * rank // processes, batch_size * (rank + 1) // processes, batch_size)


def processes() -> int:
    """How many processes share a batch."""
    return dist.get_world_size()


def is_main() -> bool:
    """Whether this process is the one that writes files and reports."""
    return dist.get_rank() == 0


def draw_rows(
    draw: Callable[..., Tensor], shape: Sequence[int], rng: torch.Generator, share: Share | None
) -> Tensor:
    """Random numbers for the rows of a batch.

    They are drawn for the whole batch, so that a row gets the numbers that it would get in one process.

    Args:
        draw: `torch.rand` or `torch.randn`.
        shape: Shape of the result; the first entry is the number of rows.
        rng: CPU generator.
        share: Which rows of the batch these are; None: all.
    """
    if share is None:
        return draw(tuple(shape), generator=rng)
    return draw((share.total, *shape[1:]), generator=rng)[share.start : share.stop]


def total(value: float) -> float:
    """The sum of `value` over all processes."""
    if dist.get_world_size() == 1:
        return value
    summed = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(summed, "sum")
    return summed.item()


def smallest(value: float) -> float:
    """The least `value` of all processes."""
    if dist.get_world_size() == 1:
        return value
    least = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(least, "min")
    return least.item()


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Replaces the gradients of `parameters`, where they have one, by their sums over all processes."""
    dist.all_reduce_params([p.grad for p in parameters if p.grad is not None], op="sum")
