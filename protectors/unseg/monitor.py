"""What one sees of a training: its losses as a small file, its speed, and TensorBoard's scalars.

Importing this module imports torch only where TensorBoard is installed.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.files import atomic_write

CURVE = "curve.csv"
CURVE_ROWS = 1000
"""Rows of the curve at most: about 50 kB."""
SPEED_STEPS = 20
"""Steps over which the speed is averaged."""
TENSORBOARD = "tensorboard"
LEARNERS = ("generator", "surrogate")
COLUMNS = ("step", "phase", *(f"{name}_{what}" for name in LEARNERS for what in ("loss", "learning_rate")))


class LossCurve:
    """Mean losses over equal windows of steps. It holds no times, so equal trainings have equal curves.

    Args:
        total: Steps of the whole training.

    Attributes:
        rows: One for each finished window: the last step, its phase, and for each network the mean loss and
            the learning rate at its last step in the window; None if it did not learn in it.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.window = max(1, math.ceil(total / CURVE_ROWS))
        self.rows: list[list[float | None]] = []
        self._sums: dict[str, list[float]] = {}

    def add(self, step: int, phase: int, learner: str, loss: float, rate: float) -> bool:
        """Notes a step.

        Args:
            step: Steps done.
            phase: The step's phase.
            learner: Which network learnt.
            loss: Its loss.
            rate: Its learning rate.

        Returns:
            Whether a row was finished.
        """
        total, count, _ = self._sums.get(learner, (0.0, 0, 0.0))
        self._sums[learner] = [total + loss, count + 1, rate]
        if step % self.window and step < self.total:
            return False
        row: list[float | None] = [step, phase]
        for name in LEARNERS:
            total, count, rate = self._sums.get(name, (0.0, 0, 0.0))
            row += [total / count, rate] if count else [None, None]
        self.rows.append(row)
        self._sums = {}
        return True

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on."""
        return {"rows": self.rows, "sums": self._sums}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self.rows, self._sums = state["rows"], state["sums"]

    def write(self, path: Path) -> None:
        """Writes the rows as CSV."""
        lines = [",".join("" if cell is None else f"{cell:.6g}" for cell in row) for row in self.rows]
        atomic_write(path, "\n".join([",".join(COLUMNS), *lines]) + "\n")


class Speed:
    """Images per second over the last steps of this session."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._times: deque[float] = deque(maxlen=SPEED_STEPS + 1)

    def tick(self) -> None:
        """Notes that a step has ended."""
        self._times.append(time.monotonic())

    @property
    def images_per_second(self) -> float | None:
        """None before the second step."""
        if len(self._times) < 2 or self._times[-1] == self._times[0]:
            return None
        return self.batch_size * (len(self._times) - 1) / (self._times[-1] - self._times[0])


class Scalars:
    """Writes a curve's rows for TensorBoard, where its package is installed.

    Args:
        folder: Where the event files go.
        first: Steps done before this session; what an interrupted one wrote after them is hidden.
    """

    def __init__(self, folder: Path, first: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._writer = None
        else:
            self._writer = SummaryWriter(str(folder), purge_step=first + 1)

    def write(self, row: Mapping[str, float | None]) -> None:
        """Adds one row; what is None is left out."""
        if self._writer is None:
            return
        step = int(row["step"] or 0)
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes out what is held back."""
        if self._writer is not None:
            self._writer.close()


class Monitor:
    """Curve, speed and scalars of one session of a training.

    Args:
        curve: The training's curve, to which every step is added before `step` is called.
        folder: Where `curve.csv` and the folder `tensorboard` go.
        first: Steps done before this session.
        batch_size: Images per step.
    """

    def __init__(self, curve: LossCurve, folder: Path, first: int, batch_size: int) -> None:
        self.curve = curve
        self.folder = folder
        self._speed = Speed(batch_size)
        self._written = len(curve.rows)
        self._scalars = Scalars(folder / TENSORBOARD, first)

    def step(self) -> str:
        """Notes that a step has ended; returns the speed as text, empty if it is not known yet."""
        self._speed.tick()
        rate = self._speed.images_per_second
        for row in self.curve.rows[self._written :]:
            self._scalars.write({**dict(zip(COLUMNS, row, strict=True)), "images_per_second": rate})
        self._written = len(self.curve.rows)
        return "" if rate is None else f", {rate:.3g} images/s"

    def close(self) -> None:
        """Writes the curve, and what TensorBoard's writer holds back."""
        self.curve.write(self.folder / CURVE)
        self._scalars.close()
