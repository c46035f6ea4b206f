"""What protectors and defenses have in common: options, and a training before anything is done with images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.plugin import Plugin

if TYPE_CHECKING:
    from bench.datasets.base import Dataset


@dataclass(frozen=True)
class FitContext:
    """What a plugin that learns is given besides data.

    Attributes:
        work_dir: Survives an interruption: checkpoints go here, and `fit` goes on from what it finds.
        state_dir: The finished state is written here; `load` reads it.
        seed: Seed of this stage.
        device: torch device string.
        report: Called as `report(done, total, note)`, for the progress line.
        loader_workers: Data loading threads or processes; 0 leaves it to the plugin. No result depends on it.
    """

    work_dir: Path
    state_dir: Path
    seed: int
    device: str
    report: Callable[[int, int, str], None] = field(default=lambda done, total, note: None)
    loader_workers: int = 0


class Learner(Plugin):
    """A plugin with options that may have to learn from datasets before it is used.

    One that learns sets `learns = True` and implements `fit` and `load`.

    Attributes, besides those of `Plugin`:
        learns: Whether `fit` has to run first.
        shares_fit: Whether `fit` may run in several processes of one `torch.distributed` group at a time, each
            with a share of the work; the first writes the state.
        deployment_options: Options that `fit` does not read: they are no part of its key.
    """

    learns: ClassVar[bool] = False
    shares_fit: ClassVar[bool] = False
    deployment_options: ClassVar[frozenset[str]] = frozenset()

    @property
    def trains(self) -> bool:
        """Whether `fit` depends on data and seed. False where it only puts given weights into place."""
        return self.learns

    def prepare(self, report: Callable[[int, int, str], None]) -> None:
        """Fetches what `fit` needs from outside, such as pretrained weights, into the user's cache.

        Called before a run starts, where a network may be that a worker does not have. `report` takes bytes:
        `report(done, total, note)`.
        """
        return None

    def fit(self, datasets: Sequence[Dataset], context: FitContext) -> None:
        """Learns from the train splits of `datasets` and writes the state to `context.state_dir`.

        Only called when `learns`.
        """
        raise NotImplementedError

    def load(self, state_dir: Path, device: str) -> Any:
        """Reads what `fit` wrote. Only called when `learns`."""
        return None
