"""What the user sees while a plan is worked off: live bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from bench.plan import Stage

PLAIN_INTERVAL = 20.0
"""Seconds between two plain lines of one stage."""


class Progress:
    """Base: counts stages and says nothing."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.finished = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def skip(self, count: int) -> None:
        """Counts stages that were done before."""
        self.finished += count

    def start(self, stage: Stage) -> None:
        """A worker was started."""

    def update(self, stage: Stage, done: int, total: int, note: str) -> None:
        """A worker said how far it is."""

    def finish(self, stage: Stage, how: str) -> None:
        """A worker ended."""
        self.finished += 1

    def tick(self) -> None:
        """Nothing happened for a while."""

    def message(self, text: str) -> None:
        """Prints a line, or several, that stay."""


class PlainProgress(Progress):
    """Lines with the time, the stage, how far it is and how long still."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        super().__init__(total)
        self.stream = stream or sys.stderr
        self.began: dict[tuple[str, str], float] = {}
        self.spoke: dict[tuple[str, str], float] = {}
        self.first: dict[tuple[str, str], tuple[float, int]] = {}

    def start(self, stage: Stage) -> None:
        """Prints that the stage began."""
        now = time.monotonic()
        self.began[stage.id] = self.spoke[stage.id] = now
        self._line(stage, "started")

    def update(self, stage: Stage, done: int, total: int, note: str) -> None:
        """Prints how far the stage is, every `PLAIN_INTERVAL` seconds."""
        now = time.monotonic()
        first_time, first_done = self.first.setdefault(stage.id, (now, done))
        if now - self.spoke[stage.id] < PLAIN_INTERVAL or not total:
            return
        self.spoke[stage.id] = now
        left = remaining(now - first_time, done - first_done, total - done)
        self._line(stage, f"{done}/{total} ({100 * done // total} %) {note}{left}")

    def finish(self, stage: Stage, how: str) -> None:
        """Prints how the stage ended and how long it took."""
        super().finish(stage, how)
        self._line(stage, f"{how} in {duration(time.monotonic() - self.began[stage.id])}")

    def message(self, text: str) -> None:
        """Prints to the stream."""
        print(text, file=self.stream, flush=True)

    def _line(self, stage: Stage, text: str) -> None:
        clock = time.strftime("%H:%M:%S")
        print(f"{clock} [{self.finished}/{self.total}] {stage.label}: {text}", file=self.stream, flush=True)


class LiveProgress(Progress):
    """One bar per running stage, drawn by rich."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.console = Console(stderr=True)
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} % {task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.tasks: dict[tuple[str, str], Any] = {}
        self.overall: Any = None

    def __enter__(self) -> Progress:
        self.bars.start()
        self.overall = self.bars.add_task("all stages", total=self.total, completed=self.finished, note="")
        return self

    def __exit__(self, *exc: object) -> None:
        self.bars.stop()

    def skip(self, count: int) -> None:
        """Moves the overall bar."""
        super().skip(count)
        if self.overall is not None:
            self.bars.update(self.overall, completed=self.finished)

    def start(self, stage: Stage) -> None:
        """Adds a bar."""
        self.tasks[stage.id] = self.bars.add_task(stage.label, total=None, note="starting")

    def update(self, stage: Stage, done: int, total: int, note: str) -> None:
        """Moves the stage's bar."""
        self.bars.update(self.tasks[stage.id], completed=done, total=total or None, note=note)

    def finish(self, stage: Stage, how: str) -> None:
        """Removes the stage's bar."""
        super().finish(stage, how)
        self.bars.remove_task(self.tasks.pop(stage.id))
        self.bars.update(self.overall, completed=self.finished)
        if how != "done":
            self.message(f"{stage.label}: {how}")

    def message(self, text: str) -> None:
        """Prints above the bars."""
        self.bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


def make_progress(total: int) -> Progress:
    """Bars if standard error is a terminal, lines if it is not."""
    return LiveProgress(total) if sys.stderr.isatty() else PlainProgress(total)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s` or `2 h 10 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def remaining(seconds: float, done: int, left: int) -> str:
    """`, 2 min 10 s left` from the pace so far; empty while there is none."""
    return f", {duration(seconds / done * left)} left" if done > 0 and seconds > 1 else ""
